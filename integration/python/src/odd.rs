//! Rows that are no rollouts: `None` among texts, a lone surrogate, a wrong type. What is wrong with one is its own rejection.
//!
//! Invariant: only what is wrong with a row is taken for that; an interrupt, or a mistake in the call, is raised.

use std::collections::BTreeMap;

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use reward_sidecar::reward::{Code, Rejection};

/// See the module.
#[derive(Default)]
pub struct OddRows(BTreeMap<usize, Rejection>);

impl OddRows {
    /// What was understood of a row, or something empty in its place.
    pub fn take<T: Default>(&mut self, row: usize, py: Python<'_>, understood: PyResult<T>) -> PyResult<T> {
        match understood {
            Err(error) if error.is_instance_of::<PyTypeError>(py) || error.is_instance_of::<PyValueError>(py) => {
                let rejection = || Rejection::new(Code::Malformed, error.value(py).to_string());
                self.0.entry(row).or_insert_with(rejection);
                Ok(T::default())
            }
            understood => understood,
        }
    }

    /// Whether a row is one of them.
    pub fn has(&self, row: usize) -> bool {
        self.0.contains_key(&row)
    }
}

impl From<OddRows> for Vec<(usize, Rejection)> {
    fn from(odd: OddRows) -> Self {
        odd.0.into_iter().collect()
    }
}
