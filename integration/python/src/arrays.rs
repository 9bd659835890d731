//! Numbers on their way to NumPy: kept as they came until somebody asks, and then moved, not copied.

use std::sync::{Mutex, PoisonError};

use numpy::{Element, PyArray1, PyArrayMethods as _};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

/// An array that is made when it is first asked for.
pub struct Array<T> {
    /// Taken when `made` is.
    values: Mutex<Vec<T>>,
    /// Number of columns, of an array with two dimensions.
    columns: Option<usize>,
    made: PyOnceLock<Py<PyAny>>,
}

impl<T: Element> Array<T> {
    /// One dimension.
    pub fn of(values: Vec<T>) -> Self {
        Self { values: Mutex::new(values), columns: None, made: PyOnceLock::new() }
    }

    /// Two dimensions: rows of so many columns.
    pub fn of_rows(values: Vec<T>, columns: usize) -> Self {
        Self { columns: Some(columns), ..Self::of(values) }
    }

    /// One that is there already.
    pub fn given(py: Python<'_>, array: Py<PyAny>) -> Self {
        Self { made: full(py, array), ..Self::of(Vec::new()) }
    }

    /// The array, the same each time. `rows`: where there are no columns, nothing else tells.
    pub fn get<'py>(&self, py: Python<'py>, rows: usize) -> PyResult<&Bound<'py, PyAny>> {
        let make = || {
            let values = std::mem::take(&mut *self.values.lock().unwrap_or_else(PoisonError::into_inner));
            let array = PyArray1::from_vec(py, values);
            match self.columns {
                None => Ok(array.into_any().unbind()),
                Some(columns) => Ok(array.reshape([rows, columns])?.into_any().unbind()),
            }
        };
        self.made.get_or_try_init(py, make).map(|array| array.bind(py))
    }
}

/// A cell with something in it.
pub fn full<T>(py: Python<'_>, value: T) -> PyOnceLock<T> {
    let cell = PyOnceLock::new();
    // It has just been made: nothing can be in it.
    let _ = cell.set(py, value);
    cell
}
