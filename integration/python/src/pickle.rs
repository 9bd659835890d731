//! How an object says what its pickle holds: a function of the binding that puts it together again, beside each class. The classes
//! cannot be called for it, since only the client makes them.
//!
//! Invariant: nothing that depends on a process or a connection is in a pickle.

use pyo3::prelude::*;
use pyo3::types::PyTuple;

/// What `__reduce__` returns: the function that puts an object together, and its arguments.
pub type Restore<'py> = (Bound<'py, PyAny>, Bound<'py, PyTuple>);

/// A function of the binding, and what it is to be called with.
pub fn restore<'py>(
    py: Python<'py>,
    function: &str,
    arguments: impl IntoPyObject<'py, Target = PyTuple, Output = Bound<'py, PyTuple>, Error = PyErr>,
) -> PyResult<Restore<'py>> {
    Ok((py.import("reward_sidecar._native")?.getattr(function)?, arguments.into_pyobject(py)?))
}
