//! The engines that a command runs: a model's, those of several, or the echo, which has none.

use crate::engine::{EchoEngine, Engine};
use crate::limits::MAX_ROLLOUT_TOKENS;
use crate::model::{self, ModelError};

/// The reference that stands for no model.
pub const ECHO: &str = "echo";

/// Loads the one model that the configuration names.
pub fn load(config: &model::Config) -> Result<Box<dyn Engine>, ModelError> {
    if config.model == ECHO {
        tracing::warn!("the echo engine has no model: its rewards mean nothing");
        return Ok(Box::new(EchoEngine::new(MAX_ROLLOUT_TOKENS as u32)));
    }
    model::load(config)
}

/// Loads the model that the configuration names, or each of several adapters on it.
pub fn load_all(config: &model::Config) -> Result<Vec<Box<dyn Engine>>, ModelError> {
    if config.model == ECHO {
        return Ok(vec![load(config)?]);
    }
    model::load_all(config)
}
