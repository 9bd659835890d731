//! `Batch` and `Result`: what a caller gets.

use numpy::IntoPyArray as _;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyList, PyTuple, PyType};
use reward_sidecar::reward::{ReadRewards, Rewards};

use crate::arrays::{Array, full};
use crate::error::{self, Failure};
use crate::gathered::Gathered;

/// The rewards of a batch of rollouts, in their order.
#[pyclass(frozen, module = "reward_sidecar")]
pub struct Batch {
    rows: usize,
    failed: usize,
    names: Py<PyTuple>,
    #[pyo3(get)]
    model_version: String,
    rewards: Array<f32>,
    attributes: Array<f32>,
    tokens: Array<u32>,
    truncated: Array<bool>,
    failures: Vec<(usize, Failure)>,
    errors: PyOnceLock<Py<PyList>>,
    unread: Vec<Vec<ReadRewards>>,
    reads: PyOnceLock<Py<PyList>>,
}

impl Batch {
    pub fn new(py: Python<'_>, gathered: Gathered) -> PyResult<Self> {
        let (rows, columns) = (gathered.len(), gathered.names.len());
        Ok(Self {
            rows,
            failed: gathered.failures.len(),
            names: PyTuple::new(py, gathered.names)?.unbind(),
            model_version: gathered.model_version,
            rewards: Array::of(gathered.rewards),
            attributes: Array::of_rows(gathered.attributes, columns),
            tokens: Array::of(gathered.tokens),
            truncated: Array::of(gathered.truncated),
            failures: gathered.failures,
            errors: PyOnceLock::new(),
            unread: gathered.reads,
            reads: PyOnceLock::new(),
        })
    }

    /// The exception that says that rollouts failed, and carries the batch; `None` where all have rewards.
    pub fn failure<'py>(this: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = this.py();
        let Some((row, first)) = this.get().failures.first() else { return Ok(None) };
        let (failed, rows) = (this.get().failed, this.get().rows);
        let message = match failed {
            1 => first.message.clone(),
            _ => format!("{} (and {} more of {rows} rollouts failed)", first.message, failed - 1),
        };
        error::class(py)?.call1((first.code, message, row, this)).map(Some)
    }
}

#[pymethods]
impl Batch {
    /// Puts a batch together, as it comes out of a pickle.
    #[new]
    #[pyo3(signature = (names, model_version, rewards, attributes, tokens, truncated, errors, reads))]
    #[expect(clippy::too_many_arguments, reason = "they are the columns")]
    fn restore(
        py: Python<'_>,
        names: Py<PyTuple>,
        model_version: String,
        rewards: Py<PyAny>,
        attributes: Py<PyAny>,
        tokens: Py<PyAny>,
        truncated: Py<PyAny>,
        errors: Py<PyList>,
        reads: Py<PyList>,
    ) -> PyResult<Self> {
        let (rows, failed) = (rewards.bind(py).len()?, errors.bind(py).len());
        Ok(Self {
            rows,
            failed,
            names,
            model_version,
            rewards: Array::given(py, rewards),
            attributes: Array::given(py, attributes),
            tokens: Array::given(py, tokens),
            truncated: Array::given(py, truncated),
            failures: Vec::new(),
            errors: full(py, errors),
            unread: Vec::new(),
            reads: full(py, reads),
        })
    }

    fn __reduce__<'py>(this: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyType>, Bound<'py, PyTuple>)> {
        let (py, batch) = (this.py(), this.get());
        let columns = (
            &batch.names,
            &batch.model_version,
            batch.rewards(py)?,
            batch.attributes(py)?,
            batch.tokens(py)?,
            batch.truncated(py)?,
            batch.errors(py)?,
            batch.reads(py)?,
        );
        Ok((this.get_type(), columns.into_pyobject(py)?))
    }

    /// Names of the attributes, in the order of the columns of `attributes`.
    #[getter]
    fn names(&self) -> &Py<PyTuple> {
        &self.names
    }

    /// float32 [n]: the rewards; NaN where a rollout failed.
    #[getter]
    fn rewards<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.rewards.get(py, self.rows).cloned()
    }

    /// float32 [n, k]: the attributes; NaN where a rollout failed.
    #[getter]
    fn attributes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.attributes.get(py, self.rows).cloned()
    }

    /// uint32 [n]: tokens that were scored.
    #[getter]
    fn tokens<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.tokens.get(py, self.rows).cloned()
    }

    /// bool [n]: whether the prompt was cut to fit the context.
    #[getter]
    fn truncated<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.truncated.get(py, self.rows).cloned()
    }

    /// What went wrong, by `index`.
    #[getter]
    fn errors<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let make = || {
            let errors: Vec<_> = self
                .failures
                .iter()
                .map(|(row, failure)| failure.exception(py, Some(*row)))
                .collect::<PyResult<_>>()?;
            PyResult::Ok(PyList::new(py, errors)?.unbind())
        };
        Ok(self.errors.get_or_try_init(py, make)?.bind(py).clone())
    }

    /// For each rollout its reads, where the model reads at several places; else empty.
    #[getter]
    fn reads<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let make = || {
            let rows: Vec<_> = self
                .unread
                .iter()
                .map(|reads| reads_of(py, reads, self.names.bind(py).len()))
                .collect::<PyResult<_>>()?;
            PyResult::Ok(PyList::new(py, rows)?.unbind())
        };
        Ok(self.reads.get_or_try_init(py, make)?.bind(py).clone())
    }

    fn __len__(&self) -> usize {
        self.rows
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let names = self.names.bind(py).repr()?;
        Ok(format!("<Batch of {} rollouts, {} failed, attributes {names}>", self.rows, self.failed))
    }
}

/// What the model says at each of the places at which it reads a rollout.
#[pyclass(frozen, get_all, module = "reward_sidecar")]
pub struct Reads {
    /// uint32 [m]: tokens up to and including the one that is read.
    tokens: Py<PyAny>,
    /// float32 [m, k].
    attributes: Py<PyAny>,
    /// float32 [m].
    rewards: Py<PyAny>,
}

#[pymethods]
impl Reads {
    #[new]
    fn restore(tokens: Py<PyAny>, attributes: Py<PyAny>, rewards: Py<PyAny>) -> Self {
        Self { tokens, attributes, rewards }
    }

    fn __reduce__<'py>(this: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyType>, Bound<'py, PyTuple>)> {
        let reads = this.get();
        let columns = (&reads.tokens, &reads.attributes, &reads.rewards).into_pyobject(this.py())?;
        Ok((this.get_type(), columns))
    }

    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        self.tokens.bind(py).len()
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        Ok(format!("<Reads at {} places>", self.tokens.bind(py).len()?))
    }
}

fn reads_of(py: Python<'_>, reads: &[ReadRewards], columns: usize) -> PyResult<Reads> {
    let array = |values: Vec<f32>| Array::of(values);
    let attributes = reads.iter().flat_map(|read| read.attributes.iter().copied()).collect();
    Ok(Reads {
        tokens: reads.iter().map(|read| read.tokens).collect::<Vec<_>>().into_pyarray(py).into_any().unbind(),
        attributes: Array::of_rows(attributes, columns).get(py, reads.len())?.clone().unbind(),
        rewards: array(reads.iter().map(|read| read.reward).collect()).get(py, reads.len())?.clone().unbind(),
    })
}

/// The rewards of one rollout, or why it has none.
#[pyclass(frozen, module = "reward_sidecar")]
pub struct Result {
    /// Its place among the rollouts, from 0.
    #[pyo3(get)]
    index: usize,
    /// The caller's name for it.
    #[pyo3(get)]
    id: Option<String>,
    /// NaN where it failed.
    #[pyo3(get)]
    reward: f32,
    /// Tokens that were scored.
    #[pyo3(get)]
    tokens: u32,
    /// Whether the prompt was cut to fit the context.
    #[pyo3(get)]
    truncated: bool,
    /// The model that gave it.
    #[pyo3(get)]
    model_version: Option<String>,
    attributes: Array<f32>,
    failure: Option<Failure>,
    unread: Vec<ReadRewards>,
    columns: usize,
}

impl Result {
    pub fn new(index: usize, id: Option<String>, rewards: std::result::Result<Rewards, Failure>) -> Self {
        match rewards {
            Ok(rewards) => Self {
                index,
                id,
                reward: rewards.reward,
                tokens: rewards.tokens,
                truncated: rewards.truncated,
                model_version: Some(rewards.model_version.to_string()),
                columns: rewards.attributes.len(),
                attributes: Array::of(rewards.attributes),
                failure: None,
                unread: rewards.reads,
            },
            Err(failure) => Self {
                index,
                id,
                reward: f32::NAN,
                tokens: 0,
                truncated: false,
                model_version: None,
                columns: 0,
                attributes: Array::of(Vec::new()),
                failure: Some(failure),
                unread: Vec::new(),
            },
        }
    }
}

#[pymethods]
impl Result {
    /// float32 [k], in the order of the card's attributes; empty where it failed.
    #[getter]
    fn attributes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.attributes.get(py, self.columns).cloned()
    }

    /// Why it has no rewards.
    #[getter]
    fn error<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.failure.as_ref().map(|failure| failure.exception(py, Some(self.index))).transpose()
    }

    /// Its reads, where the model reads at several places.
    #[getter]
    fn reads(&self, py: Python<'_>) -> PyResult<Option<Reads>> {
        match self.unread.is_empty() {
            true => Ok(None),
            false => reads_of(py, &self.unread, self.columns).map(Some),
        }
    }

    fn __repr__(&self) -> String {
        let id = self.id.as_ref().map(|id| format!(" {id:?}")).unwrap_or_default();
        match &self.failure {
            None => format!("<Result {}{id}: {}>", self.index, self.reward),
            Some(Failure { code, .. }) => format!("<Result {}{id}: {code}>", self.index),
        }
    }
}
