//! A model before its backbone is there: where it will compute, and what is small and most often is missing.
//!
//! Invariant: whatever is wrong with a model and can be known without its weights is said before they are loaded.

use std::path::Path;
use std::sync::Arc;

use candle_core::Device;
use rayon::ThreadPool;

use super::checkpoint::WeightSource;
use super::checkpoint::digest_memory::DigestMemory;
use super::compute::backend::Backend;
use super::config::Config;
use super::error::ModelError;
use super::network::arch;
use super::network::head::{self, Head, HeadContext};
use super::network::spec::NetworkSpec;
use super::packed_cache::{PackedCache, PackedFolder};
use super::ranks::{self, Ranks};
use super::source::blueprint::Blueprint;
use crate::engine::{ReadAt, ReadPolicy};

/// Where models compute, and how.
pub struct Compute<'a> {
    pub config: &'a Config,
    pub pool: Arc<ThreadPool>,
    devices: Vec<Device>,
    pub backend: Backend,
}

impl<'a> Compute<'a> {
    /// As the configuration says.
    pub fn open(config: &'a Config) -> Result<Self, ModelError> {
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

    /// Loads a backbone out of these weights, with the prefix cache divided by `rooms`, in the pool of [`Self::pool`]. What is
    /// packed of them is kept under `name`, which no other weights have, and which is not asked for where nothing is kept.
    pub fn load(
        &self,
        spec: &NetworkSpec,
        weights: &dyn WeightSource,
        name: impl FnOnce() -> Result<String, ModelError>,
        backend: Backend,
        rooms: u32,
    ) -> Result<(Ranks, PackedCache), ModelError> {
        let Config { cache_dir, packed_room, prefix_cache, tp, .. } = self.config;
        let folder = match backend {
            Backend::Kernels(weights) => PackedFolder::below(cache_dir, *packed_room).map(|folder| (folder, weights)),
            Backend::Tensors(_) => None,
        };
        let packed = match folder {
            Some((folder, weights)) => folder.open(&format!("{}-tp{tp}", name()?), weights),
            None => PackedCache::Off,
        };
        let cache = (*prefix_cache, rooms);
        Ok((Ranks::load(spec, weights, &packed, backend, &self.devices, &self.pool, cache)?, packed))
    }
}

/// A model without its backbone.
pub struct Unloaded {
    pub blueprint: Blueprint,
    pub spec: NetworkSpec,
    pub head: Box<dyn Head>,
}

impl Unloaded {
    /// Refuses what is wrong before anything that takes long.
    pub fn open(config: &Config, compute: &Compute) -> Result<Self, ModelError> {
        let blueprint = Blueprint::open(config)?;
        let spec = arch::spec(&blueprint.settings, blueprint.separator)?;
        spec.check_degree(config.tp)?;
        check_encoder(&spec, &blueprint.reads, compute.backend)?;
        spec.check_device(matches!(compute.backend, Backend::Kernels(_)))?;
        let head = compute.pool.install(|| load_head(&blueprint, &spec))?;
        // By now everybody has read what he wants to know.
        blueprint.settings.refuse_unread()?;
        Ok(Self { blueprint, spec, head })
    }

    /// Its name with its [`Self::version`].
    pub fn name(&self, version: &str) -> String {
        format!("{}@{version}", self.blueprint.name)
    }

    /// The fingerprint needs the attributes' names, which may have to be counted in the head.
    pub fn version(&self, cache_dir: &Path) -> Result<String, ModelError> {
        let attributes = self.blueprint.attributes.as_deref().unwrap_or_default();
        self.blueprint.fingerprint(attributes, &DigestMemory::below(cache_dir))
    }
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
        rows_seen: spec.rows_seen(),
        names: blueprint.attributes.as_ref().map(Vec::len),
        spec: &blueprint.head,
        needs: &blueprint.reads.needs,
        hint: &blueprint.headless_hint(),
    })
}
