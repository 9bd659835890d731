//! `RewardSidecarError` and its kinds, made from what went wrong in Rust. The classes are Python's:
//! `reward_sidecar/_errors.py`.
//!
//! Invariant: an exception's class follows from its code.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;
use reward_sidecar::client::{Answer, ClientError};
use reward_sidecar::reward::{Code, Rejection, Rewards};

/// Why a rollout has no rewards, or why there are none at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Stable: a rejection's code, or a client error's.
    pub code: &'static str,
    /// For a person.
    pub message: String,
}

impl Failure {
    /// The server that was launched has ended.
    pub const SERVER_EXITED: &'static str = "SERVER_EXITED";

    /// The exception. `index`: of the rollout that it is about.
    pub fn exception<'py>(&self, py: Python<'py>, index: Option<usize>) -> PyResult<Bound<'py, PyAny>> {
        class_of(py, self.code)?.call1((self.code, &self.message, index))
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

/// An answer's two kinds of failure, in one.
pub fn rewards_of(answer: Answer) -> Result<Rewards, Failure> {
    match answer {
        Ok(Ok(rewards)) => Ok(rewards),
        Ok(Err(rejection)) => Err((&rejection).into()),
        Err(error) => Err((&error).into()),
    }
}

/// The class of exceptions with this code.
pub fn class_of<'py>(py: Python<'py>, code: &str) -> PyResult<&'py Bound<'py, PyType>> {
    static ANY: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    static CONNECTION: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    static DEADLINE: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    static REJECTED: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let (cell, name) = match code {
        "DEADLINE_EXCEEDED" => (&DEADLINE, "DeadlineExceeded"),
        "BAD_ADDRESS" | "BAD_REPLY" => (&ANY, "RewardSidecarError"),
        code if Code::ALL.iter().any(|known| known.name() == code) => (&REJECTED, "Rejected"),
        // Everything else that a client fails with.
        _ => (&CONNECTION, "ConnectionFailed"),
    };
    cell.import(py, "reward_sidecar._errors", name)
}
