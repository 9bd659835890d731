//! The engine that a command runs: a model's, or the echo, which has none.

use crate::engine::{EchoEngine, Engine};
use crate::limits::MAX_ROLLOUT_TOKENS;
use crate::model::{self, ModelError};

/// The reference that stands for no model.
pub const ECHO: &str = "echo";

/// Loads what the configuration names.
pub fn load(config: &model::Config) -> Result<Box<dyn Engine>, ModelError> {
    if config.model == ECHO {
        tracing::warn!("the echo engine has no model: its rewards mean nothing");
        return Ok(Box::new(EchoEngine::new(MAX_ROLLOUT_TOKENS as u32)));
    }
    model::load(config)
}
