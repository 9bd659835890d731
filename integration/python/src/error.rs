//! `RewardSidecarError`, made from what went wrong in Rust. The class is Python's: `reward_sidecar/_errors.py`.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;
use reward_sidecar::client::{Answer, ClientError};
use reward_sidecar::reward::{Rejection, Rewards};

/// Why a rollout has no rewards, or why there are none at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Stable: a rejection's code, or a client error's.
    pub code: &'static str,
    /// For a person.
    pub message: String,
}

impl Failure {
    /// The server has come back with another model while rollouts were on their way.
    pub const MODEL_CHANGED: &'static str = "MODEL_CHANGED";

    /// The exception. `index`: of the rollout that it is about.
    pub fn exception<'py>(&self, py: Python<'py>, index: Option<usize>) -> PyResult<Bound<'py, PyAny>> {
        class(py)?.call1((self.code, &self.message, index))
    }

    /// The exception about no rollout in particular, to be raised.
    pub fn raised(&self, py: Python<'_>) -> PyErr {
        self.exception(py, None).map_or_else(|error| error, PyErr::from_value)
    }
}

impl From<&Rejection> for Failure {
    fn from(rejection: &Rejection) -> Self {
        Self { code: rejection.code.name(), message: rejection.message.clone() }
    }
}

impl From<&ClientError> for Failure {
    fn from(error: &ClientError) -> Self {
        Self { code: error.code(), message: error.to_string() }
    }
}

/// An answer's two kinds of trouble, in one.
pub fn rewards_of(answer: Answer) -> Result<Rewards, Failure> {
    match answer {
        Ok(Ok(rewards)) => Ok(rewards),
        Ok(Err(rejection)) => Err((&rejection).into()),
        Err(error) => Err((&error).into()),
    }
}

/// The class.
pub fn class(py: Python<'_>) -> PyResult<&Bound<'_, PyType>> {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    CLASS.import(py, "reward_sidecar._errors", "RewardSidecarError")
}
