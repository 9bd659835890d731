//! `Thinking`: what was taken out of a completion before it was scored.
//!
//! Invariant: its parts are in order, without overlap.

use pyo3::prelude::*;
use reward_sidecar::reward;

use crate::pickle::{Restore, restore};

/// What was taken out of a completion, where `answer_only` asked for it.
///
/// ```python
/// for result in client.stream(rollouts, answer_only=True):
///     if result.thinking.unclosed:
///         print(result.index, "never stopped thinking")
/// ```
#[pyclass(frozen, get_all, from_py_object, module = "reward_sidecar")]
#[derive(Debug, Clone)]
pub struct Thinking {
    /// Begin and end of each part: in characters of a completion that was a text, in ids of one that was ids.
    ///
    /// `[completion[begin:end] for begin, end in thinking.taken]`
    taken: Vec<(u32, u32)>,
    /// Whether it was never closed, so that all from its beginning on was taken.
    ///
    /// `if thinking.unclosed: ...`
    unclosed: bool,
}

impl From<&reward::Thinking> for Thinking {
    fn from(thinking: &reward::Thinking) -> Self {
        let taken = thinking.taken.iter().map(|part| (part.start, part.end)).collect();
        Self { taken, unclosed: thinking.unclosed }
    }
}

#[pymethods]
impl Thinking {
    fn __reduce__<'py>(this: &Bound<'py, Self>) -> PyResult<Restore<'py>> {
        let thinking = this.get();
        restore(this.py(), "_thinking", (&thinking.taken, thinking.unclosed))
    }

    fn __repr__(&self) -> String {
        let unclosed = if self.unclosed { ", never closed" } else { "" };
        format!("<Thinking in {} parts{unclosed}>", self.taken.len())
    }
}

/// Thinking, of the fields that its pickle holds.
#[pyfunction]
pub fn _thinking(taken: Vec<(u32, u32)>, unclosed: bool) -> Thinking {
    Thinking { taken, unclosed }
}
