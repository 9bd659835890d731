//! `Result`: the rewards of one rollout.
//!
//! Invariant: it has rewards and a model's version, or an error and NaN.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyTuple;
use reward_sidecar::reward::{ReadRewards, Rewards};

use crate::arrays::{Array, full};
use crate::error::Failure;
use crate::pickle::{Restore, restore};
use crate::reads::reads_of;
use crate::thinking::Thinking;

/// The rewards of one rollout, or why it has none: what `Client.stream` gives, and `Batch.by_id`.
///
/// `k` is the number of the model's attributes. A result can be pickled.
///
/// ```python
/// for result in client.stream(rollouts):
///     if result.error is None:
///         print(result.id, result.reward, result.attributes)
/// ```
#[pyclass(frozen, module = "reward_sidecar")]
pub struct Result {
    /// The rollout's place among the others, from 0.
    ///
    /// `rollouts[result.index]`, where they are a list.
    #[pyo3(get)]
    index: usize,
    /// The caller's name for the rollout; `None` where it has none.
    ///
    /// `rewards[result.id] = result.reward`
    #[pyo3(get)]
    id: Option<String>,
    /// The reward, aggregated of the attributes; NaN where the rollout failed.
    ///
    /// `best = max(results, key=lambda result: result.reward)`
    #[pyo3(get)]
    reward: f32,
    /// Tokens that were scored, prompt and completion; 0 where the rollout failed.
    ///
    /// `sum(result.tokens for result in results)`
    #[pyo3(get)]
    tokens: u32,
    /// Whether the prompt's oldest tokens were cut to fit the context.
    ///
    /// `kept = [result for result in results if not result.truncated]`
    #[pyo3(get)]
    truncated: bool,
    /// The model that gave it: the same version gives the same bits. `None` where the rollout failed.
    ///
    /// `assert result.model_version == client.card().model_version`
    #[pyo3(get)]
    model_version: Option<String>,
    attributes: Array<f32>,
    columns: usize,
    /// Until somebody asks for the exception.
    failure: Option<Failure>,
    error: PyOnceLock<Option<Py<PyAny>>>,
    unread: Vec<ReadRewards>,
    reads: PyOnceLock<Option<Py<PyAny>>>,
    /// Its `Thinking`, where `answer_only` asked for it to be taken out; else `None`.
    ///
    /// `if result.thinking and result.thinking.unclosed: ...`
    #[pyo3(get)]
    thinking: Option<Thinking>,
}

/// The fields of a result whose Python objects are there already: out of a pickle, or of a batch.
#[derive(FromPyObject)]
pub struct Fields(
    pub usize,
    pub Option<String>,
    pub f32,
    pub u32,
    pub bool,
    pub Option<String>,
    pub Py<PyAny>,
    pub Option<Py<PyAny>>,
    pub Option<Py<PyAny>>,
    pub Option<Thinking>,
);

impl Result {
    pub fn new(index: usize, id: Option<String>, rewards: std::result::Result<Rewards, Failure>) -> Self {
        let none = Self {
            index,
            id,
            reward: f32::NAN,
            tokens: 0,
            truncated: false,
            model_version: None,
            attributes: Array::of(Vec::new()),
            columns: 0,
            failure: None,
            error: PyOnceLock::new(),
            unread: Vec::new(),
            reads: PyOnceLock::new(),
            thinking: None,
        };
        match rewards {
            Ok(rewards) => Self {
                reward: rewards.reward,
                tokens: rewards.tokens,
                truncated: rewards.truncated,
                model_version: Some(rewards.model_version.to_string()),
                columns: rewards.attributes.len(),
                attributes: Array::of(rewards.attributes),
                thinking: rewards.thinking.as_ref().map(Into::into),
                unread: rewards.reads,
                ..none
            },
            Err(failure) => Self { failure: Some(failure), ..none },
        }
    }

    /// Puts a result together.
    pub fn restored(py: Python<'_>, fields: Fields) -> PyResult<Self> {
        let Fields(index, id, reward, tokens, truncated, model_version, attributes, error, reads, thinking) = fields;
        Ok(Self {
            index,
            id,
            reward,
            tokens,
            truncated,
            model_version,
            columns: attributes.bind(py).len()?,
            attributes: Array::given(py, attributes),
            failure: None,
            error: full(py, error),
            unread: Vec::new(),
            reads: full(py, reads),
            thinking,
        })
    }
}

#[pymethods]
impl Result {
    /// float32 [k]: every attribute as the model gave it, in the order of the card's `attributes`; empty where the rollout
    /// failed.
    ///
    /// `dict(zip(client.card().attributes, result.attributes))`
    #[getter]
    fn attributes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.attributes.get(py, self.columns).cloned()
    }

    /// Why the rollout has no rewards: a `RewardSidecarError`, or `None`.
    ///
    /// `if result.error is not None: raise result.error`
    #[getter]
    fn error<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let make = || {
            let exception = self.failure.as_ref().map(|failure| failure.exception(py, Some(self.index)));
            PyResult::Ok(exception.transpose()?.map(Bound::unbind))
        };
        Ok(self.error.get_or_try_init(py, make)?.as_ref().map(|error| error.bind(py).clone()))
    }

    /// Its `Reads`, where the model reads it at several places; else `None`.
    ///
    /// `result.reads.rewards` are the rewards of its steps or turns.
    #[getter]
    fn reads<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let make = || {
            if self.unread.is_empty() {
                return PyResult::Ok(None);
            }
            Ok(Some(Bound::new(py, reads_of(py, &self.unread, self.columns)?)?.into_any().unbind()))
        };
        Ok(self.reads.get_or_try_init(py, make)?.as_ref().map(|reads| reads.bind(py).clone()))
    }

    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<Restore<'py>> {
        let fields = (
            self.index,
            &self.id,
            self.reward,
            self.tokens,
            self.truncated,
            &self.model_version,
            self.attributes(py)?,
            self.error(py)?,
            self.reads(py)?,
            self.thinking.clone(),
        );
        restore(py, "_result", fields)
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let id = self.id.as_ref().map(|id| format!(" {id:?}")).unwrap_or_default();
        Ok(match self.error(py)? {
            None => format!("<Result {}{id}: {}>", self.index, self.reward),
            Some(error) => format!("<Result {}{id}: {}>", self.index, error.getattr("code")?),
        })
    }
}

/// A result, of the fields that its pickle holds.
#[pyfunction]
#[pyo3(signature = (*fields))]
pub fn _result(py: Python<'_>, fields: &Bound<'_, PyTuple>) -> PyResult<Result> {
    Result::restored(py, fields.extract::<Fields>()?)
}
