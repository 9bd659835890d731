//! Why a pass gave no hidden states.

use crate::engine::EngineError;

/// Why a pass gave no hidden states.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PassError {
    /// This pass failed; the next one may succeed.
    #[error("{0}")]
    Failed(String),
    /// This pass failed, and so will every later one: a rank does not come back.
    #[error("{0}")]
    Fatal(String),
}

/// The first line of an error of candle's: a backtrace may follow it, which is nothing for callers.
pub(super) fn reason(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

impl From<candle_core::Error> for PassError {
    fn from(error: candle_core::Error) -> Self {
        Self::Failed(reason(&error))
    }
}

impl From<PassError> for EngineError {
    fn from(error: PassError) -> Self {
        match error {
            PassError::Failed(reason) => Self::Forward(reason),
            PassError::Fatal(reason) => Self::Fatal(reason),
        }
    }
}
