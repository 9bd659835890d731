//! The model room: weights in, [`Engine`] out. The only place that knows candle.
//!
//! The way of a model: a reference becomes a blueprint (configuration, weights and text, whatever the files'
//! format); the architecture that the configuration names loads a backbone from it; backbone and head stand behind
//! [`Engine`].

mod arch;
mod backbone;
mod backend;
mod blueprint;
mod checkpoint;
mod collective;
mod decoder;
mod demo;
mod device;
mod digest;
mod engine;
mod error;
mod head;
pub mod kernels;
mod layers;
mod manifest;
mod pip;
pub mod plan;
mod ranks;
mod report;
mod settings;
mod shard;
mod team;
mod tensors;
mod text;

use std::path::PathBuf;

use crate::engine::Engine;

pub use blueprint::FORMS;
pub use checkpoint::Precision;
pub use decoder::Parameters;
pub use device::{DeviceChoice, UnknownDevice};
pub use engine::ModelEngine;
pub use error::ModelError;
pub use head::HeadSpec;
pub use report::{Report, Shape};

/// What to load and how.
#[derive(Debug, Clone)]
pub struct Config {
    /// A model reference; see [`FORMS`].
    pub model: String,
    /// Tensor-parallel ranks.
    pub tp: usize,
    /// Where the first rank computes; the others follow.
    pub device: DeviceChoice,
    /// CPU threads of the forward pass; 0 means all cores.
    pub threads: usize,
    /// Where downloaded bases are kept.
    pub cache_dir: PathBuf,
}

/// Loads the model.
pub fn load(config: &Config) -> Result<Box<dyn Engine>, ModelError> {
    Ok(Box::new(ModelEngine::load(config)?))
}
