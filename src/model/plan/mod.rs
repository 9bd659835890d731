//! What it takes to score with a model, worked out from its configuration alone: weights, bytes, operations, traffic, and
//! what fits on which GPU.
//!
//! Invariant: arithmetic only. No weight is read, nothing is measured; every rate is a published peak times a stated
//! utilisation.

mod cost;
mod dtype;
mod gpu;
mod reference;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use crate::model::error::ModelError;
use crate::model::network::arch;
use crate::model::network::decoder::{DecoderSpec, Parameters};
use crate::model::network::spec::NetworkSpec;
use crate::model::report::Shape;

pub use cost::{RankBytes, TokenCost};
pub use dtype::Dtype;
pub use gpu::{GPUS, Gpu};

use cost::{activation_bytes, attention_flops, largest_rank, matrix_flops, parameters, ring_bytes};

/// Mean lengths of rollouts that attention is told for, besides the one asked for.
const LENGTHS: [usize; 4] = [512, 1024, 2048, 4096];
/// Mean length where none is given, as far as the context allows it.
const MEAN_TOKENS: usize = 1024;

/// What to plan for.
#[derive(Debug, Clone)]
pub struct Request {
    /// The model: a configuration, a folder or manifest that has one, or the name of a published model.
    pub model: String,
    /// Where downloaded bases are kept.
    pub cache_dir: PathBuf,
    /// Kind of GPU.
    pub gpu: &'static Gpu,
    /// How many; as many as one copy of the model takes if unset.
    pub gpus: Option<usize>,
    /// Tensor-parallel ranks; the fewest that the model fits on if unset.
    pub tp: Option<usize>,
    /// Pipeline stages.
    pub pp: usize,
    /// Type that the weights are stored in.
    pub dtype: Dtype,
    /// Share of the published peak rate that is reached, from 0 to 1.
    pub utilisation: f64,
    /// Mean length of a rollout in tokens.
    pub tokens: Option<usize>,
    /// Tokens in a micro-batch.
    pub max_batch_tokens: usize,
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The model has no configuration that can be read, or no such degree.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Layers do not split evenly into so many stages.
    #[error("pp is {found}, but {layers} layers split evenly into no such number of stages; possible: {possible}")]
    Stages {
        /// As asked for.
        found: usize,
        /// Layers of the model.
        layers: usize,
        /// Numbers that do.
        possible: String,
    },
    /// GPUs do not divide into copies of the model.
    #[error("{found} GPUs cannot hold whole copies of the model on {copy} each; take a multiple of {copy}")]
    Gpus {
        /// As asked for.
        found: usize,
        /// GPUs of one copy.
        copy: usize,
    },
    /// A rollout cannot be so long.
    #[error("a mean of {found} tokens is not possible: the model's context is from 1 to {context} tokens")]
    Tokens {
        /// As asked for.
        found: usize,
        /// The model's.
        context: usize,
    },
}

/// A plan. Bytes are bytes, GB are 10^9 of them.
#[derive(Debug, serde::Serialize)]
pub struct Plan {
    /// Name of the model.
    pub model: String,
    /// Architecture as the configuration calls it.
    pub architecture: String,
    /// Its sizes.
    pub shape: Shape,
    /// Weights, without a head: an LM head is not needed for rewards, a reward head is small.
    pub parameters: Parameters,
    /// All of them.
    pub parameters_total: usize,
    /// What each token costs.
    pub token: TokenCost,
    /// Operations of attention for each token on average, by mean length of a rollout.
    pub attention: Vec<Attention>,
    /// Numbers of ranks that the model can be shared by.
    pub degrees: Vec<usize>,
    /// Types that the engine computes in; the others are arithmetic.
    pub computed_dtypes: &'static [Dtype],
    /// Whether pipeline stages are built, or arithmetic only.
    pub pipeline_built: bool,
    /// The model on the GPUs asked for.
    pub deployment: Deployment,
    /// Every degree in every type, at the deployment's number of stages.
    pub ranks: Vec<Rank>,
    /// Whether each of those fits on each GPU.
    pub fits: Vec<Fit>,
}

/// Attention at one length.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Attention {
    /// Length of a rollout.
    pub tokens: usize,
    /// Operations for each of its tokens, on average.
    pub flops: f64,
}

/// What a rank holds at most.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub struct Rank {
    /// Tensor-parallel ranks.
    pub tp: usize,
    /// Type of the weights.
    pub dtype: Dtype,
    /// Its weights.
    pub weights: RankBytes,
    /// Its activations, at their most.
    pub activation_bytes: u64,
}

/// Whether such a rank fits.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub struct Fit {
    /// Kind of GPU.
    pub gpu: &'static str,
    /// Tensor-parallel ranks.
    pub tp: usize,
    /// Type of the weights.
    pub dtype: Dtype,
    /// Weights, activations and reserve.
    pub needed_bytes: u64,
    /// What there is.
    pub memory_bytes: u64,
    /// Whether that is enough.
    pub fits: bool,
}

/// A model on GPUs.
#[derive(Debug, serde::Serialize)]
pub struct Deployment {
    /// Kind of GPU.
    pub gpu: &'static Gpu,
    /// All of them.
    pub gpus: usize,
    /// Tensor-parallel ranks.
    pub tp: usize,
    /// Pipeline stages.
    pub pp: usize,
    /// Copies of the model.
    pub replicas: usize,
    /// What the rank that holds most holds.
    pub rank: Rank,
    /// Bytes that neither weights nor activations get.
    pub reserve_bytes: u64,
    /// Whether it fits.
    pub fit: Fit,
    /// Tokens in a micro-batch, which activations are counted for.
    pub max_batch_tokens: usize,
    /// Bytes that each GPU sends, and receives, for a token in a layer, if a ring adds up.
    pub ring_bytes_per_layer: f64,
    /// The same of all layers of a stage.
    pub ring_bytes_per_stage: f64,
    /// Whether ranks stand in more than one domain of fast links; the network between is not counted.
    pub crosses_domains: bool,
    /// Mean length of a rollout that the rates are for.
    pub tokens: usize,
    /// Share of the peak rate that is reached.
    pub utilisation: f64,
    /// Tokens a second.
    pub rate: Rate,
}

/// Tokens a second of all GPUs together.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub struct Rate {
    /// At the full peak rate, of the matrices alone.
    pub matrices_at_peak: f64,
    /// At the stated utilisation, matrices and attention.
    pub computation: f64,
    /// What the links between ranks let through if nothing else is in the way; `None` with one rank.
    pub interconnect: Option<f64>,
    /// The lower of the two.
    pub expected: f64,
}

/// Works out a plan.
///
/// # Errors
/// If the configuration cannot be read, or the request does not suit the model; the message says what would.
pub fn plan(request: &Request) -> Result<Plan, PlanError> {
    let (model, settings) = reference::config_of(&request.model, &request.cache_dir)?;
    let network = arch::spec(&settings, None)?;
    let NetworkSpec::Decoder(spec) = &network else {
        let name = settings.architecture()?;
        let reason = format!("{name} is nothing to plan GPUs for; it is computed on the CPU");
        return Err(ModelError::Encoder { reason }.into());
    };
    network.check_device(false)?;
    let parameters =
        parameters(spec).ok_or_else(|| ModelError::malformed(settings.path(), "sizes beyond any machine's memory"))?;
    let tokens = request.tokens.unwrap_or(MEAN_TOKENS.min(spec.context));
    if !(1..=spec.context).contains(&tokens) {
        return Err(PlanError::Tokens { found: tokens, context: spec.context });
    }
    check_stages(spec.layers, request.pp)?;
    let planner = Planner { spec, request };
    let deployment = planner.deployment(tokens)?;
    let ranks: Vec<Rank> =
        spec.degrees().into_iter().flat_map(|tp| Dtype::ALL.map(|dtype| planner.rank(tp, dtype))).collect();
    let fits = GPUS.iter().flat_map(|gpu| ranks.iter().map(|&rank| fit(gpu, rank))).collect();
    let mut lengths: Vec<usize> =
        LENGTHS.into_iter().filter(|&length| length <= spec.context).chain([tokens]).collect();
    lengths.sort_unstable();
    lengths.dedup();
    Ok(Plan {
        model,
        architecture: settings.architecture()?.to_owned(),
        shape: network.sizes().into(),
        parameters,
        parameters_total: parameters.total(),
        token: TokenCost::of(spec, request.dtype),
        attention: lengths
            .into_iter()
            .map(|tokens| Attention { tokens, flops: attention_flops(spec, tokens) })
            .collect(),
        degrees: spec.degrees(),
        computed_dtypes: Dtype::COMPUTED,
        pipeline_built: false,
        deployment,
        ranks,
        fits,
    })
}

fn check_stages(layers: usize, found: usize) -> Result<(), PlanError> {
    if found > 0 && layers.is_multiple_of(found) {
        return Ok(());
    }
    let possible = (1..=layers).filter(|&stages| layers.is_multiple_of(stages));
    let possible = possible.map(|stages| stages.to_string()).collect::<Vec<_>>().join(", ");
    Err(PlanError::Stages { found, layers, possible })
}

fn fit(gpu: &Gpu, rank: Rank) -> Fit {
    let needed_bytes = rank.weights.total() + rank.activation_bytes + gpu.reserve_bytes();
    let memory_bytes = gpu.memory_bytes();
    let Rank { tp, dtype, .. } = rank;
    Fit { gpu: gpu.name, tp, dtype, needed_bytes, memory_bytes, fits: needed_bytes <= memory_bytes }
}

struct Planner<'a> {
    spec: &'a DecoderSpec,
    request: &'a Request,
}

impl Planner<'_> {
    fn rank(&self, tp: usize, dtype: Dtype) -> Rank {
        Rank {
            tp,
            dtype,
            weights: largest_rank(self.spec, tp, self.request.pp, dtype),
            activation_bytes: activation_bytes(self.spec, tp, dtype, self.request.max_batch_tokens),
        }
    }

    /// The degree asked for; else the lowest that fits, of those that the GPUs divide into; else the highest.
    fn degree(&self) -> Result<usize, PlanError> {
        let Request { gpu, gpus, pp, dtype, .. } = *self.request;
        if let Some(tp) = self.request.tp {
            self.spec.check_degree(tp)?;
            return Ok(tp);
        }
        let mut degrees = self.spec.degrees();
        degrees.retain(|tp| gpus.is_none_or(|gpus| gpus.is_multiple_of(tp * pp)));
        let fitting = degrees.iter().find(|&&tp| fit(gpu, self.rank(tp, dtype)).fits);
        // One rank is possible for any model, unless the GPUs do not even divide into stages.
        fitting.or(degrees.last()).copied().ok_or(PlanError::Gpus { found: gpus.unwrap_or(0), copy: pp })
    }

    fn deployment(&self, tokens: usize) -> Result<Deployment, PlanError> {
        let Request { gpu, pp, dtype, utilisation, max_batch_tokens, .. } = *self.request;
        let tp = self.degree()?;
        let copy = tp * pp;
        let gpus = self.request.gpus.unwrap_or(copy);
        if gpus == 0 || !gpus.is_multiple_of(copy) {
            return Err(PlanError::Gpus { found: gpus, copy });
        }
        let replicas = gpus / copy;
        let rank = self.rank(tp, dtype);

        let token = TokenCost::of(self.spec, dtype);
        let ring_bytes_per_layer = ring_bytes(token.all_reduce_bytes_per_layer, tp);
        let ring_bytes_per_stage = ring_bytes_per_layer * (self.spec.layers / pp) as f64;
        let peak = gpus as f64 * gpu.peak_flops(dtype);
        let matrices = matrix_flops(self.spec, tp) as f64;
        let computation = utilisation * peak / (matrices + attention_flops(self.spec, tokens));
        // The first stage adds up the embedding too.
        let busiest = ring_bytes_per_stage + ring_bytes(token.all_reduce_bytes_embedding, tp);
        let interconnect = (tp > 1).then(|| replicas as f64 * gpu.link_bytes() / busiest);
        Ok(Deployment {
            gpu,
            gpus,
            tp,
            pp,
            replicas,
            rank,
            reserve_bytes: gpu.reserve_bytes(),
            fit: fit(gpu, rank),
            max_batch_tokens,
            ring_bytes_per_layer,
            ring_bytes_per_stage,
            crosses_domains: tp > gpu.domain,
            tokens,
            utilisation,
            rate: Rate {
                matrices_at_peak: peak / matrices,
                computation,
                interconnect,
                expected: interconnect.map_or(computation, |interconnect| interconnect.min(computation)),
            },
        })
    }
}
