//! Why a sidecar cannot start, or has not ended in time.

use std::collections::BTreeSet;
use std::time::Duration;

use super::descriptors::TooFew;
use super::listen_error::ListenError;
use crate::engine::Engine;

/// Why a sidecar cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address or path cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// There are too few descriptors to serve anybody.
    #[error(transparent)]
    Descriptors(#[from] TooFew),
    /// The tokenizer or chat template of the model is unusable.
    #[error("{0}")]
    Text(String),
    /// No lane can be opened with these settings.
    #[error("shm_ring_bytes: {0}")]
    Lanes(String),
    /// The model gives no answer to the first rollout.
    #[error("{0}")]
    Engine(String),
    /// The models cannot be told apart by their names, or none has the name of one that is to take over.
    #[error("{0}")]
    Models(String),
    /// The system gave no thread.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}

/// Refuses models that rollouts could not tell apart.
pub(super) fn check_names(engines: &[Box<dyn Engine>]) -> Result<(), StartError> {
    if engines.is_empty() {
        return Err(StartError::Models("there is no model to serve".to_owned()));
    }
    let mut names = BTreeSet::new();
    match engines.iter().map(|engine| &engine.card().name).find(|name| !names.insert(*name)) {
        Some(twin) => Err(StartError::Models(format!("two models are called '{twin}'; give each a name of its own"))),
        None => Ok(()),
    }
}

/// Accepted work was not finished when the drain's time was up.
#[derive(Debug, thiserror::Error)]
#[error(
    "after {drain:?}, {unanswered} accepted rollouts were unanswered (rejected where they had not reached the engine), and the \
     answers of at least {unread} had not been read by their callers"
)]
pub struct DrainTimeout {
    /// Accepted rollouts without an answer.
    pub unanswered: usize,
    /// Answered rollouts whose answers are known not to have been read. More may lie in buffers between here and their callers.
    pub unread: usize,
    /// The time they had.
    pub drain: Duration,
}
