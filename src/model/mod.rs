//! The model room: weights in, [`Engine`] out. The only place that knows candle.

pub mod kernels;

use std::path::PathBuf;

use crate::engine::Engine;

/// What to load and how.
#[derive(Debug, Clone)]
pub struct Config {
    /// `demo`, a directory in Hugging Face layout, a directory with or path to a `reward-model.toml`.
    pub model: String,
    /// CPU threads of the forward pass; 0 means all cores.
    pub threads: usize,
    /// Where downloaded bases are kept.
    pub cache_dir: PathBuf,
}

/// Why a model cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// Placeholder.
    #[error("{0}")]
    Other(String),
}

/// Loads the model.
pub fn load(_config: &Config) -> Result<Box<dyn Engine>, ModelError> {
    todo!()
}
