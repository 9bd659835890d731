//! `Reads`: what the model says of one rollout at several places.
//!
//! Invariant: its four arrays have one row for each place.

use numpy::IntoPyArray as _;
use pyo3::prelude::*;
use reward_sidecar::reward::{ReadEnd, ReadRewards};

use crate::arrays::Array;
use crate::pickle::{Restore, restore};

/// What the model says of one rollout at each of the `m` places at which it reads it: the steps of a process reward model,
/// or the turns that were to be scored, the completion last.
///
/// ```python
/// for tokens, reward in zip(batch.reads[0].tokens, batch.reads[0].rewards):
///     print(f"after {tokens} tokens: {reward:.3f}")
/// ```
#[pyclass(frozen, get_all, module = "reward_sidecar")]
pub struct Reads {
    /// uint32 [m]: tokens up to and including the one that is read.
    ///
    /// `reads.tokens[-1]` is where the last one is.
    tokens: Py<PyAny>,
    /// float32 [m, k]: the attributes there, untransformed.
    ///
    /// `reads.attributes[0]` are those of the first place.
    attributes: Py<PyAny>,
    /// float32 [m]: the rewards there, aggregated as the rollout asked.
    ///
    /// `reads.rewards.min()`
    rewards: Py<PyAny>,
    /// int64 [m]: where the token that is read ends in what you sent: characters of the completion or text, or ids of the
    /// completion or `input_ids`; -1 where that is not known, as of turns.
    ///
    /// `completion[:reads.ends[0]]` is the first step.
    ends: Py<PyAny>,
}

#[pymethods]
impl Reads {
    fn __reduce__<'py>(this: &Bound<'py, Self>) -> PyResult<Restore<'py>> {
        let reads = this.get();
        restore(this.py(), "_reads", (&reads.tokens, &reads.attributes, &reads.rewards, &reads.ends))
    }

    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        self.tokens.bind(py).len()
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        Ok(format!("<Reads at {} places>", self.tokens.bind(py).len()?))
    }
}

/// Reads as Python has them, with attributes in so many columns.
pub fn reads_of(py: Python<'_>, reads: &[ReadRewards], columns: usize) -> PyResult<Reads> {
    let array = |values: Vec<f32>| Array::of(values);
    let attributes = reads.iter().flat_map(|read| read.attributes.iter().copied()).collect();
    Ok(Reads {
        tokens: reads.iter().map(|read| read.tokens).collect::<Vec<_>>().into_pyarray(py).into_any().unbind(),
        attributes: Array::of_rows(attributes, columns).get(py, reads.len())?.clone().unbind(),
        ends: reads.iter().map(end_of).collect::<Vec<_>>().into_pyarray(py).into_any().unbind(),
        rewards: array(reads.iter().map(|read| read.reward).collect()).get(py, reads.len())?.clone().unbind(),
    })
}

fn end_of(read: &ReadRewards) -> i64 {
    match read.end {
        Some(ReadEnd::Characters(end) | ReadEnd::Tokens(end)) => end.into(),
        None => -1,
    }
}

/// Reads, of the columns that their pickle holds.
#[pyfunction]
pub fn _reads(tokens: Py<PyAny>, attributes: Py<PyAny>, rewards: Py<PyAny>, ends: Py<PyAny>) -> Reads {
    Reads { tokens, attributes, rewards, ends }
}
