//! The model room: weights in, [`Engine`] out. The only place that knows candle.
//!
//! The way of a model: a reference becomes a blueprint (configuration, weights and text, whatever the files'
//! format); the architecture that the configuration names loads a backbone from it; backbone and head stand behind
//! [`Engine`].

mod checkpoint;
mod collective;
pub mod compute;
mod config;
mod engine;
mod error;
mod fastest;
#[cfg(fuzzing)]
pub mod fuzzing;
mod memory;
mod nested_config;
mod network;
mod packed_cache;
pub mod plan;
mod prefix_cache;
mod ranks;
mod report;
mod settings;
pub mod shapes;
mod source;
mod text;
mod transformers_fields;
mod unloaded;

use crate::engine::Engine;

pub use compute::device::{DeviceChoice, UnknownDevice};
pub use compute::dtype::{Dtype, Precision, UnknownDtype};
pub use config::{CacheSize, Config, DiskRoom, NamedAdapter};
pub use engine::ModelEngine;
pub use error::ModelError;
pub use fastest::Choice;
pub use memory::available as available_memory;
pub use network::decoder::Parameters;
pub use network::head::HeadSpec;
pub use report::{Report, Shape};
pub use source::preset::{CardCheck, Expected, PresetReport};
pub use source::reference::FORMS;

/// Loads the model, or each of several adapters on it, in the order of the configuration, for a process that goes on: packed
/// weights are kept for the next one.
pub fn load_all(config: &Config) -> Result<Vec<Box<dyn Engine>>, ModelError> {
    let engines = ModelEngine::load_all(config)?.into_iter().map(|mut engine| {
        engine.keep_packed();
        Box::new(engine) as Box<dyn Engine>
    });
    Ok(engines.collect())
}

/// Loads the model; see [`ModelEngine::load`].
pub fn load(config: &Config) -> Result<Box<dyn Engine>, ModelError> {
    Ok(Box::new(ModelEngine::load(config)?))
}
