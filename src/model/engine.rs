//! [`ModelEngine`]: a loaded model behind the [`Engine`] trait.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rayon::ThreadPool;

use crate::batch::MicroBatch;
use crate::engine::{Engine, EngineError, ModelCard, Prefixes, ReadAt, ReadPolicy, ScoreTable};
use crate::model::checkpoint::quantized;
use crate::model::compute::backend::Backend;
use crate::model::compute::dtype::Dtype;
use crate::model::compute::kernels::REVISION;
use crate::model::config::Config;
use crate::model::error::ModelError;
use crate::model::fastest::{self, Choice};
use crate::model::network::arch;
use crate::model::network::head::{self, Head, HeadContext, HeadSpec, Hidden};
use crate::model::network::spec::NetworkSpec;
use crate::model::ranks::{self, PassError, Passed, Ranks};
use crate::model::report::Report;
use crate::model::settings::default_labels;
use crate::model::source::blueprint::Blueprint;
use crate::model::source::digest_memory::DigestMemory;
use crate::model::source::preset::{CardCheck, PresetReport};

/// A model, ready to score. The forward pass runs on threads of its own.
pub struct ModelEngine {
    card: Arc<ModelCard>,
    spec: NetworkSpec,
    /// Features of the hidden state.
    hidden: usize,
    dtype: &'static str,
    dtype_choice: Option<Choice>,
    ranks: Ranks,
    head: Box<dyn Head>,
    head_spec: HeadSpec,
    preset: Option<PresetReport>,
    card_checks: Vec<CardCheck>,
    pool: Arc<ThreadPool>,
    unread_settings: Vec<String>,
    ignored_settings: Vec<String>,
    /// The format by which the weights are quantised in the files.
    quantisation: Option<String>,
    files: Vec<PathBuf>,
}

impl ModelEngine {
    /// Loads the model that the configuration names.
    pub fn load(config: &Config) -> Result<Self, ModelError> {
        let threads = match config.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        let pool = Arc::new(ranks::pool(threads, config.isa)?);
        let started = std::time::Instant::now();
        let blueprint = Blueprint::open(config)?;
        let spec = arch::spec(&blueprint.settings, blueprint.separator)?;
        // Before anything that takes long.
        spec.check_degree(config.tp)?;
        let backend = config.device.backend(config.dtype)?;
        check_encoder(&spec, &blueprint.reads, backend)?;
        let sizes = spec.sizes();
        let devices = config.device.open_all(config.tp)?;
        // It is small, and what most often is missing.
        let head = pool.install(|| load_head(&blueprint, &spec))?;
        // By now everybody has read what he wants to know.
        blueprint.settings.refuse_unread()?;
        let cache = config.prefix_cache;
        let load = |backend| Ranks::load(&spec, blueprint.weights.as_ref(), backend, &devices, &pool, cache);
        let load_fastest = || {
            let rollouts = fastest::rollouts(sizes.vocabulary, &blueprint.reads.needs);
            let batch = MicroBatch::pack(&rollouts, true);
            let (weights, ranks, choice) = fastest::choose(
                |weights| load(Backend::Kernels(weights)),
                |ranks| {
                    let table = scores(ranks, head.as_ref(), sizes.hidden, &pool, &batch);
                    let table = table.map_err(|e| ModelError::Trial(e.to_string()))?;
                    Ok((0..table.rows()).filter_map(|row| table.row(row)).flatten().copied().collect())
                },
            )?;
            ranks.forget();
            Ok((Backend::Kernels(weights), ranks, Some(choice)))
        };
        let load_ranks = || match config.dtype {
            Dtype::Fast => load_fastest(),
            _ => load(backend).map(|ranks| (backend, ranks, None)),
        };
        let (version, loaded) = pool.install(|| rayon::join(|| fingerprint(&blueprint, &config.cache_dir), load_ranks));
        let (backend, ranks, dtype_choice) = loaded?;
        let Blueprint {
            name,
            preset,
            card_checks,
            settings,
            text,
            weightings,
            default_weighting,
            reads,
            files,
            head: head_spec,
            ..
        } = blueprint;
        let attributes = blueprint.attributes.unwrap_or_else(|| default_labels(head.outputs()));
        let (weightings, default_weighting) = match &attributes[..] {
            // One output is the reward; of several nobody but the user knows what they are worth.
            [only] if weightings.is_empty() => {
                let name = "default".to_owned();
                (BTreeMap::from([(name.clone(), BTreeMap::from([(only.clone(), 1.0)]))]), Some(name))
            }
            _ => (weightings, default_weighting),
        };
        let card = ModelCard {
            model_version: format!("{name}@{}-{}", version?, config.device.arithmetic(backend, config.tp)).into(),
            name,
            architecture: settings.architecture()?.to_owned(),
            attributes,
            weightings,
            default_weighting,
            context_tokens: sizes.context as u32,
            vocabulary_size: sizes.vocabulary as u32,
            text,
            reads,
        };
        tracing::info!(
            model_version = %card.model_version, device = %config.device, parameters = spec.parameters().total(), threads, ranks = ranks.world(),
            load_ms = started.elapsed().as_millis() as u64, "model loaded"
        );
        say_what_is_kept(&ranks, sizes.context);
        if let Some(Choice { bound, rollouts, tried }) = &dtype_choice {
            let tried: Vec<_> = tried.iter().map(|(name, deviation)| format!("{name} by {deviation:.4}")).collect();
            tracing::info!(
                "dtype = fast: {} is the fastest type of weights that deviates from float32 by {bound} at most; on {rollouts} made-up \
                 rollouts deviated {}",
                backend.weights(),
                tried.join(", ")
            );
        }
        let quantisation = settings.text(quantized::METHOD)?.map(str::to_owned);
        let unread_settings = settings.unread().into_iter().map(str::to_owned).collect();
        Ok(Self {
            card: Arc::new(card),
            spec,
            hidden: sizes.hidden,
            dtype: backend.weights(),
            dtype_choice,
            ranks,
            head,
            head_spec,
            preset,
            card_checks,
            pool,
            unread_settings,
            ignored_settings: settings.ignored().to_vec(),
            quantisation,
            files,
        })
    }

    /// What is to be known of the model.
    pub fn report(&self) -> Report {
        let mut bytes_per_rank = self.ranks.bytes();
        bytes_per_rank[0] += self.head.bytes();
        Report {
            name: self.card.name.clone(),
            model_version: self.card.model_version.to_string(),
            architecture: self.card.architecture.clone(),
            preset: self.preset.clone(),
            card_checks: self.card_checks.clone(),
            shape: self.spec.sizes().into(),
            head: self.head_spec.clone(),
            attributes: self.card.attributes.clone(),
            weightings: self.card.weightings.clone(),
            default_weighting: self.card.default_weighting.clone(),
            reads: self.card.reads.clone(),
            bos: self.card.text.bos,
            answer_only: self.card.text.answer_only.clone(),
            tokenizer: self.card.text.tokenizer_json.is_some(),
            chat_template: self.card.text.chat_template.is_some(),
            precision: self.dtype,
            precision_choice: self.dtype_choice.clone(),
            quantisation: self.quantisation.clone(),
            arithmetic_revision: REVISION,
            parameters: self.spec.parameters(),
            head_parameters: self.head.parameters(),
            bytes_per_rank,
            bytes_read_per_rank: self.ranks.bytes_read(),
            prefix_cache_bytes_per_token: self.ranks.bytes_per_token(),
            degrees: self.spec.degrees(),
            threads: self.pool.current_num_threads(),
            unread_settings: self.unread_settings.clone(),
            ignored_settings: self.ignored_settings.clone(),
            files: self.files.clone(),
        }
    }
}

/// The rows of a micro-batch that the head looks at.
struct LookedAt {
    /// For each read, the other row that the head wants to see, where there is one.
    companions: Vec<Option<u32>>,
    /// The reads, then their companions. A read without one gets any row in its place, which is struck out later.
    rows: Vec<u32>,
}

impl LookedAt {
    fn new(head: &dyn Head, batch: &MicroBatch) -> Self {
        let companions = head.companions(batch);
        let mut rows: Vec<u32> = batch.reads.iter().map(|read| read.row).collect();
        rows.extend(companions.iter().zip(&batch.reads).map(|(row, read)| row.unwrap_or(read.row)));
        Self { companions, rows }
    }
}

/// One pass, and the head's attributes. Rows that are not finite go through: whoever asked for them is told, and the others keep
/// their scores.
fn scores(
    ranks: &mut Ranks,
    head: &dyn Head,
    hidden_size: usize,
    pool: &ThreadPool,
    batch: &MicroBatch,
) -> Result<ScoreTable, PassError> {
    let LookedAt { companions, rows } = LookedAt::new(head, batch);
    let Passed { mut hidden, reused, recomputed } = ranks.forward(batch, &rows)?;
    let (reads, others) = hidden.split_at_mut(batch.reads.len() * hidden_size);
    for (row, _) in others.chunks_exact_mut(hidden_size).zip(&companions).filter(|(_, c)| c.is_none()) {
        row.fill(f32::NAN);
    }
    let (reads, companions) = (&*reads, &*others);
    let values = pool.install(|| head.forward(Hidden { reads, companions }));
    Ok(ScoreTable::new(head.outputs(), values).reusing(reused).recomputing(recomputed))
}

/// How many tokens the prefix cache holds, and that they are too few, if so.
fn say_what_is_kept(ranks: &Ranks, context: usize) {
    let Some(cache) = ranks.cache() else { return };
    let (tokens, mib) = (cache.tokens(), cache.bytes() >> 20);
    tracing::info!("prefix cache: {tokens} tokens, up to {mib} MiB");
    if (tokens as usize) < context {
        let enough = context.saturating_mul(cache.bytes_per_token());
        tracing::warn!(
            "the prefix cache holds {tokens} tokens, less than one rollout of the model's context of {context}; prefix_cache_bytes = {enough} \
             ({} MiB) holds one",
            enough >> 20
        );
    }
}

/// The fingerprint needs the attributes' names, which may have to be counted in the head.
fn fingerprint(blueprint: &Blueprint, cache_dir: &Path) -> Result<String, ModelError> {
    let attributes = blueprint.attributes.as_deref().unwrap_or_default();
    blueprint.fingerprint(attributes, &DigestMemory::below(cache_dir))
}

/// Refuses what only decoders can.
fn check_encoder(spec: &NetworkSpec, reads: &ReadPolicy, backend: Backend) -> Result<(), ModelError> {
    let reason = match (spec, backend, reads.at) {
        (NetworkSpec::Decoder(_), ..) | (_, Backend::Kernels(_), ReadAt::LastToken) => return Ok(()),
        (_, Backend::Tensors(_), _) => "it is computed on the CPU; leave --device out, or say cpu",
        (_, _, ReadAt::EveryToken { .. }) => {
            "no step can be read by itself; leave out read.at, so that the rollout is read as a whole"
        }
    };
    Err(ModelError::Encoder { reason: reason.to_owned() })
}

fn load_head(blueprint: &Blueprint, spec: &NetworkSpec) -> Result<Box<dyn Head>, ModelError> {
    head::load(&HeadContext {
        settings: &blueprint.settings,
        weights: blueprint.head_weights.as_deref().unwrap_or(blueprint.weights.as_ref()),
        hidden: spec.sizes().hidden,
        names: blueprint.attributes.as_ref().map(Vec::len),
        spec: &blueprint.head,
        needs: &blueprint.reads.needs,
        hint: &blueprint.headless_hint(),
    })
}

impl Engine for ModelEngine {
    fn card(&self) -> &Arc<ModelCard> {
        &self.card
    }

    fn forget(&mut self) {
        self.ranks.forget();
    }

    fn rows(&self, batch: &MicroBatch) -> usize {
        self.ranks.rows(batch, &LookedAt::new(self.head.as_ref(), batch).rows)
    }

    fn prefixes(&self) -> Option<Arc<dyn Prefixes>> {
        self.ranks.cache().map(|cache| Arc::clone(cache) as Arc<dyn Prefixes>)
    }

    fn score(&mut self, batch: &MicroBatch) -> Result<ScoreTable, EngineError> {
        scores(&mut self.ranks, self.head.as_ref(), self.hidden, &self.pool, batch).map_err(EngineError::from)
    }
}
