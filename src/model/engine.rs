//! [`ModelEngine`]: a loaded model behind the [`Engine`] trait.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rayon::ThreadPool;

use crate::batch::MicroBatch;
use crate::engine::{Engine, EngineError, ModelCard, Prefixes, ReadAt, ReadPolicy, ScoreTable};
use crate::model::checkpoint::quantized;
use crate::model::compute::backend::Backend;
use crate::model::compute::kernels::REVISION;
use crate::model::config::Config;
use crate::model::error::ModelError;
use crate::model::network::arch;
use crate::model::network::head::{self, Head, HeadContext, HeadSpec, Hidden};
use crate::model::network::spec::NetworkSpec;
use crate::model::ranks::{self, Passed, Ranks};
use crate::model::report::Report;
use crate::model::settings::default_labels;
use crate::model::source::blueprint::Blueprint;
use crate::model::source::digest_memory::DigestMemory;
use crate::model::source::preset::PresetReport;

/// A model, ready to score. The forward pass runs on threads of its own.
pub struct ModelEngine {
    card: Arc<ModelCard>,
    spec: NetworkSpec,
    /// Features of the hidden state.
    hidden: usize,
    dtype: &'static str,
    ranks: Ranks,
    head: Box<dyn Head>,
    head_spec: HeadSpec,
    preset: Option<PresetReport>,
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
        let devices = config.device.open_all(config.tp)?;
        // It is small, and what most often is missing.
        let head = pool.install(|| load_head(&blueprint, &spec))?;
        // By now everybody has read what he wants to know.
        blueprint.settings.refuse_unread()?;
        let cache = config.prefix_cache;
        let load = || Ranks::load(&spec, blueprint.weights.as_ref(), backend, &devices, &pool, cache);
        let (version, ranks) = pool.install(|| rayon::join(|| fingerprint(&blueprint, &config.cache_dir), load));
        let ranks = ranks?;
        let Blueprint {
            name,
            preset,
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
        let sizes = spec.sizes();
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
        let quantisation = settings.text(quantized::METHOD)?.map(str::to_owned);
        let unread_settings = settings.unread().into_iter().map(str::to_owned).collect();
        Ok(Self {
            card: Arc::new(card),
            spec,
            hidden: sizes.hidden,
            dtype: backend.weights(),
            ranks,
            head,
            head_spec,
            preset,
            pool,
            unread_settings,
            ignored_settings: settings.ignored().to_vec(),
            quantisation,
            files,
        })
    }

    fn looked_at(&self, batch: &MicroBatch) -> LookedAt {
        let companions = self.head.companions(batch);
        let mut rows: Vec<u32> = batch.reads.iter().map(|read| read.row).collect();
        rows.extend(companions.iter().zip(&batch.reads).map(|(row, read)| row.unwrap_or(read.row)));
        LookedAt { companions, rows }
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
            shape: self.spec.sizes().into(),
            head: self.head_spec.clone(),
            attributes: self.card.attributes.clone(),
            weightings: self.card.weightings.clone(),
            default_weighting: self.card.default_weighting.clone(),
            reads: self.card.reads.clone(),
            bos: self.card.text.bos,
            tokenizer: self.card.text.tokenizer_json.is_some(),
            chat_template: self.card.text.chat_template.is_some(),
            precision: self.dtype,
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
        self.ranks.rows(batch, &self.looked_at(batch).rows)
    }

    fn prefixes(&self) -> Option<Arc<dyn Prefixes>> {
        self.ranks.cache().map(|cache| Arc::clone(cache) as Arc<dyn Prefixes>)
    }

    fn score(&mut self, batch: &MicroBatch) -> Result<ScoreTable, EngineError> {
        let LookedAt { companions, rows } = self.looked_at(batch);
        let head = self.head.as_ref();
        let hidden = self.ranks.forward(batch, &rows);
        // Rows that are not finite go through: whoever asked for them is told, and the others keep their scores.
        hidden
            .map(|Passed { mut hidden, reused, recomputed }| {
                let (reads, others) = hidden.split_at_mut(batch.reads.len() * self.hidden);
                for (row, _) in others.chunks_exact_mut(self.hidden).zip(&companions).filter(|(_, c)| c.is_none()) {
                    row.fill(f32::NAN);
                }
                let (reads, companions) = (&*reads, &*others);
                let values = self.pool.install(|| head.forward(Hidden { reads, companions }));
                ScoreTable::new(head.outputs(), values).reusing(reused).recomputing(recomputed)
            })
            .map_err(EngineError::from)
    }
}
