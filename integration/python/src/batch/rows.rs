//! The rollouts of a batch, each by itself.
//!
//! Invariant: a row is what the batch's columns say of it.

use std::collections::HashMap;

use pyo3::exceptions::PyIndexError;
use pyo3::prelude::*;

use super::Batch;
use crate::result::{Fields, Result};
use crate::text::wrong_type;

impl Batch {
    /// The rollout at a place, which counts from the end where it is negative.
    pub(super) fn rollout<'py>(&self, py: Python<'py>, place: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let place: isize = place.extract().map_err(|_| wrong_type(place, &"a batch's index", "an int or a str"))?;
        let row = if place < 0 { place.checked_add_unsigned(self.rows) } else { Some(place) };
        let row = row.and_then(|row| usize::try_from(row).ok()).filter(|&row| row < self.rows);
        let Some(row) = row else {
            return Err(PyIndexError::new_err(format!("the batch has {} rollouts", self.rows)));
        };
        let mut of_row = None;
        for error in self.errors(py)? {
            if error.getattr("index")?.extract::<usize>()? == row {
                of_row = Some(error.unbind());
            }
        }
        Ok(Bound::new(py, self.row(py, row, of_row)?)?.into_any())
    }

    /// All rollouts, each by itself.
    pub(super) fn results<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, Result>>> {
        let mut errors = HashMap::new();
        for error in self.errors(py)? {
            errors.insert(error.getattr("index")?.extract::<usize>()?, error.unbind());
        }
        (0..self.rows).map(|row| Bound::new(py, self.row(py, row, errors.remove(&row))?)).collect()
    }

    /// One rollout by itself.
    fn row<'py>(&self, py: Python<'py>, row: usize, error: Option<Py<PyAny>>) -> PyResult<Result> {
        let item = |array: &Bound<'py, PyAny>| array.get_item(row);
        let reads = self.reads(py)?;
        let reads = if reads.is_empty() { None } else { Some(reads.get_item(row)?) };
        // A rollout that is read at one place alone has none.
        let reads = reads.filter(|reads| reads.len().is_ok_and(|places| places > 0)).map(Bound::unbind);
        let fields = Fields(
            row,
            self.ids.bind(py).get_item(row).and_then(|id| id.extract()).ok(),
            item(&self.rewards(py)?)?.extract()?,
            item(&self.tokens(py)?)?.extract()?,
            item(&self.truncated(py)?)?.extract()?,
            if error.is_none() { Some(self.model_versions.bind(py).get_item(row)?.extract()?) } else { None },
            item(&self.attributes(py)?)?.unbind(),
            error,
            reads,
            self.thinking.get(row).cloned().flatten(),
        );
        Result::restored(py, fields)
    }
}
