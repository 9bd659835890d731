//! What comes out of pickles: the functions that put it together again. The classes cannot be called for it, since only the
//! client makes them.
//!
//! Invariant: nothing that depends on a process or a connection is in a pickle.

use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::batch::{Batch, Columns, Reads};
use crate::result::{Fields, Result};

/// What `__reduce__` returns: the function that puts an object together, and its arguments.
pub type Restore<'py> = (Bound<'py, PyAny>, Bound<'py, PyTuple>);

/// One of the functions below, and what it is to be called with.
pub fn restore<'py>(
    py: Python<'py>,
    function: &str,
    arguments: impl IntoPyObject<'py, Target = PyTuple, Output = Bound<'py, PyTuple>, Error = PyErr>,
) -> PyResult<Restore<'py>> {
    Ok((py.import("reward_sidecar._native")?.getattr(function)?, arguments.into_pyobject(py)?))
}

/// A batch, of its columns.
#[pyfunction]
#[pyo3(signature = (*columns))]
pub fn _batch(py: Python<'_>, columns: &Bound<'_, PyTuple>) -> PyResult<Batch> {
    Batch::restored(py, columns.extract::<Columns>()?)
}

/// Reads, of their columns.
#[pyfunction]
pub fn _reads(tokens: Py<PyAny>, attributes: Py<PyAny>, rewards: Py<PyAny>) -> Reads {
    Reads::restored(tokens, attributes, rewards)
}

/// A result, of its fields.
#[pyfunction]
#[pyo3(signature = (*fields))]
pub fn _result(py: Python<'_>, fields: &Bound<'_, PyTuple>) -> PyResult<Result> {
    Result::restored(py, fields.extract::<Fields>()?)
}
