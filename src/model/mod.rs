//! The model room: weights in, [`Engine`] out. The only place that knows candle.
//!
//! The way of a model: a reference becomes a blueprint (configuration, weights and text, whatever the files'
//! format); the architecture that the configuration names loads a backbone from it; backbone and head stand behind
//! [`Engine`].

mod arch;
mod backbone;
mod backend;
mod base;
mod blueprint;
mod checkpoint;
mod collective;
mod decoder;
mod demo;
mod device;
mod digest;
mod dtype;
mod engine;
mod error;
#[cfg(fuzzing)]
pub mod fuzzing;
mod head;
pub mod kernels;
mod layers;
mod manifest;
pub mod meter;
mod pip;
pub mod plan;
mod prefix_cache;
mod preset;
mod ranks;
mod reference;
mod report;
mod settings;
mod shard;
mod team;
mod tensors;
mod text;

use std::path::PathBuf;

use crate::engine::Engine;

pub use checkpoint::Precision;
pub use decoder::Parameters;
pub use device::{DeviceChoice, UnknownDevice};
pub use dtype::{Dtype, UnknownDtype};
pub use engine::ModelEngine;
pub use error::ModelError;
pub use head::HeadSpec;
pub use reference::FORMS;
pub use report::{PresetReport, Report, Shape};

/// What to load and how.
#[derive(Debug, Clone)]
pub struct Config {
    /// A model reference; see [`FORMS`].
    pub model: String,
    /// How it is to be used: a preset's name or file, `auto` for what the model itself says or gives away, or `none`.
    pub preset: String,
    /// A safetensors file that holds the head, where it is apart from the model.
    pub head: Option<PathBuf>,
    /// A LoRA adapter in PEFT's layout that is merged into the model.
    pub adapter: Option<PathBuf>,
    /// Whether outputs that were never trained are attributes too.
    pub untrained_attributes: bool,
    /// Tensor-parallel ranks.
    pub tp: usize,
    /// Where the first rank computes; the others follow.
    pub device: DeviceChoice,
    /// Type of its weights in memory.
    pub dtype: Dtype,
    /// CPU threads of the forward pass; 0 means all cores.
    pub threads: usize,
    /// Bytes for the keys and values of prefixes that later micro-batches may begin with, all ranks together; 0 keeps none.
    /// On the CPU alone.
    pub prefix_cache_bytes: usize,
    /// Where downloaded bases are kept.
    pub cache_dir: PathBuf,
}

impl Default for Config {
    /// No model, on one rank and all cores, used as it says itself.
    fn default() -> Self {
        Self {
            model: String::new(),
            preset: "auto".into(),
            head: None,
            adapter: None,
            untrained_attributes: false,
            tp: 1,
            device: DeviceChoice::Cpu,
            dtype: Dtype::Auto,
            threads: 0,
            prefix_cache_bytes: 0,
            cache_dir: PathBuf::new(),
        }
    }
}

/// Loads the model.
pub fn load(config: &Config) -> Result<Box<dyn Engine>, ModelError> {
    Ok(Box::new(ModelEngine::load(config)?))
}
