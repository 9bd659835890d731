//! [`ModelEngine`]: a loaded model behind the [`Engine`] trait.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use candle_core::Device;
use rayon::ThreadPool;

use crate::batch::MicroBatch;
use crate::engine::{Engine, EngineError, ModelCard, Prefixes, ScoreTable};
use crate::model::checkpoint::{WeightSource, quantized};
use crate::model::compute::backend::Backend;
use crate::model::compute::kernels::REVISION;
use crate::model::config::{Config, NamedAdapter};
use crate::model::error::ModelError;
use crate::model::network::arch;
use crate::model::network::decoder::DecoderSpec;
use crate::model::network::head::{self, Head, HeadContext, HeadSpec, Hidden};
use crate::model::ranks::{self, Passed, Ranks};
use crate::model::report::Report;
use crate::model::settings::default_labels;
use crate::model::source::blueprint::Blueprint;
use crate::model::source::digest_memory::DigestMemory;
use crate::model::source::preset::PresetReport;

/// A model, ready to score. The forward pass runs on threads of its own.
pub struct ModelEngine {
    card: Arc<ModelCard>,
    spec: DecoderSpec,
    dtype: &'static str,
    ranks: Arc<Ranks>,
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
        let place = Place::open(config)?;
        let parts = Parts::open(config, &place)?;
        let (spec, blueprint) = (&parts.spec, &parts.blueprint);
        let load = || place.load(spec, blueprint.weights.as_ref(), 1);
        let (version, ranks) = place.pool.install(|| rayon::join(|| fingerprint(blueprint, &config.cache_dir), load));
        let ranks = ranks?;
        say_what_is_kept(&ranks, spec.context);
        Self::of(parts, &version?, Arc::new(ranks), &place, started)
    }

    /// Loads the model that the configuration names once, and each of `adapters` on it as a model of its own, in this order. What an
    /// adapter does not change it shares with the others, and where that is all but the head, the kept prefixes, too.
    ///
    /// # Errors
    /// As of [`Self::load`], and [`ModelError::Adapters`] where they cannot be loaded beside each other.
    pub fn load_adapters(config: &Config) -> Result<Vec<Self>, ModelError> {
        let started = Instant::now();
        config.check_adapters()?;
        let place = Place::open(config)?;
        if !matches!(place.backend, Backend::Kernels(_)) {
            let reason = "adapters that are not merged are for the CPU; merge one on a GPU: --adapter DIR".to_owned();
            return Err(ModelError::Adapters { reason });
        }
        // Before the base, whose weights take long: what is wrong is mostly wrong with an adapter.
        let open = |adapter: &NamedAdapter| {
            let mut parts = Parts::open(&config.alone(adapter), &place)?;
            parts.blueprint.beside_others(&adapter.name, adapter.folder.is_some());
            Ok(parts)
        };
        let mut parts = config.adapters.iter().map(open).collect::<Result<Vec<_>, ModelError>>()?;
        let base = Blueprint::open(config)?;
        parts.iter_mut().for_each(|parts| parts.blueprint.share_text(&base));
        let spec = arch::find(&base.settings)?.spec(&base.settings)?;
        let is_changed = |parts: &Parts| {
            let weights = parts.blueprint.weights.as_ref();
            weights.names().iter().any(|name| spec.reads(name) && weights.is_changed(name))
        };
        let changed: Vec<bool> = parts.iter().map(is_changed).collect();
        // Those that change nothing keep the base's prefixes.
        let rooms = changed.iter().filter(|is| **is).count() + usize::from(changed.contains(&false));
        let shared = Arc::new(place.pool.install(|| place.load(&spec, base.weights.as_ref(), rooms as u32))?);
        say_what_is_kept(&shared, spec.context);
        let engines = parts.into_iter().zip(changed).map(|(parts, is_changed)| {
            let load = || {
                if is_changed {
                    shared.adapted(parts.blueprint.weights.as_ref()).map(Arc::new)
                } else {
                    Ok(Arc::clone(&shared))
                }
            };
            let version = || fingerprint(&parts.blueprint, &config.cache_dir);
            let (version, ranks) = place.pool.install(|| rayon::join(version, load));
            Self::of(parts, &version?, ranks?, &place, started)
        });
        engines.collect()
    }

    /// A model whose parts are loaded.
    fn of(parts: Parts, version: &str, ranks: Arc<Ranks>, place: &Place, started: Instant) -> Result<Self, ModelError> {
        let Parts { blueprint, spec, head } = parts;
        let Place { config, backend, .. } = *place;
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
        let card = ModelCard {
            model_version: format!("{name}@{version}-{}", config.device.arithmetic(backend, config.tp)).into(),
            name,
            architecture: settings.architecture()?.to_owned(),
            attributes,
            weightings,
            default_weighting,
            context_tokens: spec.context as u32,
            vocabulary_size: spec.vocabulary as u32,
            text,
            reads,
        };
        tracing::info!(
            model_version = %card.model_version, device = %config.device, parameters = spec.parameters().total(),
            threads = place.pool.current_num_threads(), ranks = ranks.world(),
            load_ms = started.elapsed().as_millis() as u64, "model loaded"
        );
        let quantisation = settings.text(quantized::METHOD)?.map(str::to_owned);
        let unread_settings = settings.unread().into_iter().map(str::to_owned).collect();
        Ok(Self {
            card: Arc::new(card),
            spec,
            dtype: backend.weights(),
            ranks,
            head,
            head_spec,
            preset,
            pool: Arc::clone(&place.pool),
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
            shape: (&self.spec).into(),
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

/// Where models compute, and how.
struct Place<'a> {
    config: &'a Config,
    pool: Arc<ThreadPool>,
    devices: Vec<Device>,
    backend: Backend,
}

impl<'a> Place<'a> {
    fn open(config: &'a Config) -> Result<Self, ModelError> {
        let threads = match config.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        Ok(Self {
            config,
            pool: Arc::new(ranks::pool(threads, config.isa)?),
            backend: config.device.backend(config.dtype)?,
            devices: config.device.open_all(config.tp)?,
        })
    }

    fn load(&self, spec: &DecoderSpec, weights: &dyn WeightSource, rooms: u32) -> Result<Ranks, ModelError> {
        Ranks::load(spec, weights, self.backend, &self.devices, &self.pool, self.config.prefix_cache, rooms)
    }
}

/// A model without its backbone: what is small, and what most often is missing.
struct Parts {
    blueprint: Blueprint,
    spec: DecoderSpec,
    head: Box<dyn Head>,
}

impl Parts {
    fn open(config: &Config, place: &Place) -> Result<Self, ModelError> {
        let blueprint = Blueprint::open(config)?;
        let spec = arch::find(&blueprint.settings)?.spec(&blueprint.settings)?;
        // Before anything that takes long.
        spec.check_degree(config.tp)?;
        let head = place.pool.install(|| load_head(&blueprint, &spec))?;
        // By now everybody has read what he wants to know.
        blueprint.settings.refuse_unread()?;
        Ok(Self { blueprint, spec, head })
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

fn load_head(blueprint: &Blueprint, spec: &DecoderSpec) -> Result<Box<dyn Head>, ModelError> {
    head::load(&HeadContext {
        settings: &blueprint.settings,
        weights: blueprint.head_weights.as_deref().unwrap_or(blueprint.weights.as_ref()),
        hidden: spec.hidden,
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
                let (reads, others) = hidden.split_at_mut(batch.reads.len() * self.spec.hidden);
                for (row, _) in others.chunks_exact_mut(self.spec.hidden).zip(&companions).filter(|(_, c)| c.is_none())
                {
                    row.fill(f32::NAN);
                }
                let (reads, companions) = (&*reads, &*others);
                let values = self.pool.install(|| head.forward(Hidden { reads, companions }));
                ScoreTable::new(head.outputs(), values).reusing(reused).recomputing(recomputed)
            })
            .map_err(EngineError::from)
    }
}
