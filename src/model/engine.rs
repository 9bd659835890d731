//! [`ModelEngine`]: a loaded model behind the [`Engine`] trait.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use rayon::ThreadPool;

use super::checkpoint::digest_memory::DigestMemory;
use super::checkpoint::quantized;
use super::compute::backend::Backend;
use super::compute::dtype::Dtype;
use super::compute::kernels::REVISION;
use super::config::{Config, NamedAdapter};
use super::error::ModelError;
use super::fastest::{self, Choice};
use super::network::arch;
use super::network::head::{Head, HeadSpec, Hidden};
use super::network::spec::NetworkSpec;
use super::packed_cache::PackedCache;
use super::ranks::{PassError, Passed, Ranks};
use super::report::Report;
use super::settings::default_labels;
use super::source::blueprint::Blueprint;
use super::source::preset::{CardCheck, PresetReport};
use super::unloaded::{Compute, Unloaded};
use crate::batch::MicroBatch;
use crate::engine::{Engine, EngineError, ModelCard, Prefixes, ScoreTable};

/// A model, ready to score. The forward pass runs on threads of its own.
pub struct ModelEngine {
    card: Arc<ModelCard>,
    spec: NetworkSpec,
    /// Features that the head sees at a row.
    seen: usize,
    dtype: &'static str,
    dtype_choice: Option<Choice>,
    ranks: Arc<Ranks>,
    /// What of them was packed, until it is kept.
    pub(super) packed: PackedCache,
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
    /// Loads the model that the configuration names, or the one adapter on it that has a name. Several are several models, which
    /// [`Self::load_adapters`] loads.
    pub fn load(config: &Config) -> Result<Self, ModelError> {
        match &config.adapters[..] {
            [] => {}
            [_] => return Ok(Self::load_adapters(config)?.remove(0)),
            several => {
                let names: Vec<&str> = several.iter().map(|adapter| &*adapter.name).collect();
                let reason = format!("{} are several models, and one is asked for; give one of them", names.join(", "));
                return Err(ModelError::Adapters { reason });
            }
        }
        let started = Instant::now();
        let compute = Compute::open(config)?;
        let parts = Unloaded::open(config, &compute)?;
        let version = compute.pool.install(|| parts.version(&config.cache_dir))?;
        let loaded = compute.pool.install(|| match config.dtype {
            Dtype::Fast => fastest(&parts, &version, &compute),
            _ => {
                let (weights, name) = (parts.blueprint.weights.as_ref(), || Ok(parts.name(&version)));
                let (ranks, packed) = compute.load(&parts.spec, weights, name, compute.backend, 1)?;
                Ok(Loaded { backend: compute.backend, ranks: Arc::new(ranks), packed, choice: None })
            }
        })?;
        say_what_is_kept(&loaded.ranks, parts.spec.sizes().context);
        Self::of(parts, &version, loaded, &compute, started)
    }

    /// The one model that the configuration names, or each of its several adapters, in its order.
    ///
    /// # Errors
    /// As of [`Self::load`] and [`Self::load_adapters`].
    pub fn load_all(config: &Config) -> Result<Vec<Self>, ModelError> {
        if config.adapters.len() < 2 { Ok(vec![Self::load(config)?]) } else { Self::load_adapters(config) }
    }

    /// Loads the model that the configuration names once, and each of `adapters` on it as a model of its own, in this order. What an
    /// adapter does not change it shares with the others, and where that is all but the head, the kept prefixes, too.
    ///
    /// # Errors
    /// As of [`Self::load`], and [`ModelError::Adapters`] where they cannot be loaded beside each other.
    pub fn load_adapters(config: &Config) -> Result<Vec<Self>, ModelError> {
        let started = Instant::now();
        config.check_adapters()?;
        let compute = Compute::open(config)?;
        let reason = match (compute.backend, config.dtype) {
            (Backend::Tensors(_), _) => {
                "adapters that are not merged are for the CPU; merge one on a GPU: --adapter DIR"
            }
            (_, Dtype::Fast) => "fast chooses by one model; say a type of weights for all of them: --dtype int16",
            _ => "",
        };
        if !reason.is_empty() {
            return Err(ModelError::Adapters { reason: reason.to_owned() });
        }
        // Before the base, whose weights take long: what is wrong is mostly wrong with an adapter.
        let open = |adapter: &NamedAdapter| {
            let mut parts = Unloaded::open(&config.alone(adapter), &compute)?;
            parts.blueprint.beside_others(&adapter.name, adapter.folder.is_some());
            Ok(parts)
        };
        let mut parts = config.adapters.iter().map(open).collect::<Result<Vec<_>, ModelError>>()?;
        let base = Blueprint::open(config)?;
        parts.iter_mut().for_each(|parts| parts.blueprint.share_text(&base));
        let spec = arch::spec(&base.settings, base.separator)?;
        let NetworkSpec::Decoder(decoder) = &spec else {
            let reason =
                "adapters beside each other are for decoders; an encoder's is merged: --adapter DIR".to_owned();
            return Err(ModelError::Adapters { reason });
        };
        let is_changed = |parts: &Unloaded| {
            let weights = parts.blueprint.weights.as_ref();
            weights.names().iter().any(|name| decoder.reads(name) && weights.is_changed(name))
        };
        let changed: Vec<bool> = parts.iter().map(is_changed).collect();
        // Those that change nothing keep the base's prefixes.
        let rooms = changed.iter().filter(|is| **is).count() + usize::from(changed.contains(&false));
        let name = || {
            let version = base.fingerprint(&[], &DigestMemory::below(&config.cache_dir))?;
            Ok(format!("{}@{version}", base.name))
        };
        let load = || compute.load(&spec, base.weights.as_ref(), name, compute.backend, rooms as u32);
        let (shared, packed) = compute.pool.install(load)?;
        let shared = Arc::new(shared);
        // The base's, which the first of them keeps for all.
        let mut packed = Some(packed);
        say_what_is_kept(&shared, decoder.context);
        let engines = parts.into_iter().zip(changed).map(|(parts, is_changed)| {
            let load = || {
                if is_changed {
                    shared.adapted(parts.blueprint.weights.as_ref()).map(Arc::new)
                } else {
                    Ok(Arc::clone(&shared))
                }
            };
            let version = || parts.version(&config.cache_dir);
            let (version, ranks) = compute.pool.install(|| rayon::join(version, load));
            let packed = packed.take().unwrap_or_default();
            let loaded = Loaded { backend: compute.backend, ranks: ranks?, packed, choice: None };
            Self::of(parts, &version?, loaded, &compute, started)
        });
        engines.collect()
    }

    /// A model whose parts are loaded.
    fn of(
        parts: Unloaded,
        version: &str,
        loaded: Loaded,
        compute: &Compute,
        started: Instant,
    ) -> Result<Self, ModelError> {
        let Unloaded { blueprint, spec, head } = parts;
        let Loaded { backend, ranks, packed, choice: dtype_choice } = loaded;
        let (config, sizes, seen) = (compute.config, spec.sizes(), spec.seen());
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
            model_version: format!("{name}@{version}-{}", config.device.arithmetic(backend, config.tp)).into(),
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
            model_version = %card.model_version, device = %config.device, parameters = spec.parameters().total(),
            threads = compute.pool.current_num_threads(), ranks = ranks.world(), mapped = packed.is_mapped(),
            load_ms = started.elapsed().as_millis() as u64, "model loaded"
        );
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
            seen,
            dtype: backend.weights(),
            dtype_choice,
            ranks,
            packed,
            head,
            head_spec,
            preset,
            card_checks,
            pool: Arc::clone(&compute.pool),
            unread_settings,
            ignored_settings: settings.ignored().to_vec(),
            quantisation,
            files,
        })
    }

    /// Keeps what was packed of the weights for the next start; nothing waits for it.
    pub fn keep_packed(&mut self) {
        std::mem::take(&mut self.packed).keep();
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

/// A backbone that is loaded, and with which weights.
struct Loaded {
    backend: Backend,
    ranks: Arc<Ranks>,
    packed: PackedCache,
    choice: Option<Choice>,
}

/// With the fastest type of weights that the model bears.
fn fastest(parts: &Unloaded, version: &str, compute: &Compute) -> Result<Loaded, ModelError> {
    let Unloaded { blueprint, spec, head } = parts;
    let sizes = spec.sizes();
    let batch = MicroBatch::pack(&fastest::rollouts(sizes.vocabulary, &blueprint.reads), true);
    let name = || Ok(parts.name(version));
    let (weights, (ranks, packed), choice) = fastest::choose(
        |weights| compute.load(spec, blueprint.weights.as_ref(), name, Backend::Kernels(weights), 1),
        |(ranks, _)| {
            let table = scores(ranks, head.as_ref(), spec.seen(), &compute.pool, &batch);
            let table = table.map_err(|e| ModelError::Trial(e.to_string()))?;
            Ok((0..table.rows()).filter_map(|row| table.row(row)).flatten().copied().collect())
        },
    )?;
    ranks.forget();
    Ok(Loaded { backend: Backend::Kernels(weights), ranks: Arc::new(ranks), packed, choice: Some(choice) })
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
    ranks: &Ranks,
    head: &dyn Head,
    seen: usize,
    pool: &ThreadPool,
    batch: &MicroBatch,
) -> Result<ScoreTable, PassError> {
    let LookedAt { companions, rows } = LookedAt::new(head, batch);
    let Passed { mut hidden, reused, recomputed } = ranks.forward(batch, &rows)?;
    let (reads, others) = hidden.split_at_mut(batch.reads.len() * seen);
    for (row, _) in others.chunks_exact_mut(seen).zip(&companions).filter(|(_, c)| c.is_none()) {
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
        scores(&self.ranks, self.head.as_ref(), self.seen, &self.pool, batch).map_err(EngineError::from)
    }
}
