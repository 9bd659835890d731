//! The launched server that a client belongs to, watched while somebody waits for its answers: one that has ended will not
//! answer, however long the client tries to connect again.
//!
//! Invariant: a guard that has tripped stays so, with the reason that it tripped for.

use std::sync::{Mutex, PoisonError};

use pyo3::prelude::*;

use crate::error::Failure;

/// For one call. Without a server of its own it never trips.
#[derive(Default)]
pub struct Guard {
    /// Returns why the server will not answer any more, or `None`.
    watch: Option<Py<PyAny>>,
    tripped: Mutex<Option<String>>,
}

impl Guard {
    /// Asks `watch` whenever somebody looks.
    pub fn new(watch: Option<Py<PyAny>>) -> Self {
        Self { watch, tripped: Mutex::default() }
    }

    /// Looks; `false`: the server has ended.
    pub fn look(&self, py: Python<'_>) -> PyResult<bool> {
        let Some(watch) = &self.watch else { return Ok(true) };
        let why: Option<String> = watch.bind(py).call0()?.extract()?;
        let ended = why.is_some();
        if ended {
            // Nothing that holds it panics.
            *self.tripped.lock().unwrap_or_else(PoisonError::into_inner) = why;
        }
        Ok(!ended)
    }

    /// Why there will be no answer, once that is known.
    pub fn failure(&self) -> Option<Failure> {
        let tripped = self.tripped.lock().unwrap_or_else(PoisonError::into_inner);
        tripped.clone().map(|message| Failure { code: Failure::SERVER_EXITED, message })
    }
}
