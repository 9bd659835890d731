//! Whose token ids are sent: a tokenizer of the caller against the one that the server's model has.
//!
//! Invariant: token ids of a tokenizer that was given, and is another than the model's, are not sent.

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use reward_sidecar::client::blocking::Client;
use reward_sidecar::engine::Vocabulary;

use crate::guard::Guard;
use crate::wait::{Limit, in_time};

/// Raises where the tokenizer is not the model's; asks for the card, where it is not known. The comparison is Python's:
/// `reward_sidecar/_tokenizer.py`.
pub fn check(
    py: Python<'_>,
    client: &Client,
    tokenizer: &Bound<'_, PyAny>,
    limit: Limit,
    guard: &Guard,
) -> PyResult<()> {
    let served = in_time(py, limit, guard, |check| client.card(check))?;
    let vocabulary = of_card(py, served.model.text.vocabulary.as_deref())?;
    let check = py.import("reward_sidecar._tokenizer")?.getattr("check")?;
    check.call1((tokenizer, vocabulary, &served.model.name)).map(drop)
}

/// The model's vocabulary, as far as the card tells of it, field by field.
pub fn of_card<'py>(py: Python<'py>, vocabulary: Option<&Vocabulary>) -> PyResult<Option<Bound<'py, PyDict>>> {
    let Some(vocabulary) = vocabulary else { return Ok(None) };
    let fields = PyDict::new(py);
    fields.set_item("fingerprint", &vocabulary.fingerprint)?;
    fields.set_item("size", vocabulary.size)?;
    fields.set_item("block_hashes", PyBytes::new(py, &vocabulary.block_hashes))?;
    fields.set_item("samples", &vocabulary.samples)?;
    Ok(Some(fields))
}
