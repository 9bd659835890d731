//! A batch as columns by their names, for data frames.
//!
//! Invariant: no column has the name of another.

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PySlice, PyTuple};

/// The columns, in the order in which they were added.
pub struct Columns<'py>(Bound<'py, PyDict>);

impl<'py> Columns<'py> {
    /// None yet.
    pub fn of(py: Python<'py>) -> Self {
        Self(PyDict::new(py))
    }

    /// One more.
    pub fn add(&mut self, name: &str, values: &Bound<'py, PyAny>) -> PyResult<()> {
        self.0.set_item(name, values)
    }

    /// For each of so many rows the code of its error, or `None`.
    pub fn add_errors(&mut self, rows: usize, errors: &Bound<'py, PyList>) -> PyResult<()> {
        let codes = PyList::new(self.0.py(), vec![None::<&str>; rows])?;
        for error in errors {
            codes.set_item(error.getattr("index")?.extract()?, error.getattr("code")?)?;
        }
        self.add("error", &codes)
    }

    /// All attributes, each as a column. One that is called as another column is bears a longer name.
    pub fn with_attributes(
        mut self,
        names: &Bound<'py, PyTuple>,
        attributes: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyDict>> {
        for (column, name) in names.iter().enumerate() {
            let mut name: String = name.extract()?;
            while self.0.contains(&name)? {
                name.insert_str(0, "attributes.");
            }
            self.add(&name, &attributes.get_item((PySlice::full(self.0.py()), column))?)?;
        }
        Ok(self.0)
    }
}
