//! `Batch`: the rewards of many rollouts, in columns.
//!
//! Invariant: all columns, and the ids where there are any, have a value for each rollout.

mod rows;

use pyo3::exceptions::PyKeyError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyIterator, PyList, PyMappingProxy, PySlice, PyString, PyTuple};
use reward_sidecar::nearest;
use reward_sidecar::reward::ReadRewards;

use crate::arrays::{Array, full};
use crate::columns::Columns;
use crate::error::{Failure, class_of};
use crate::gathered::Gathered;
use crate::pickle::{Restore, restore};
use crate::reads::reads_of;
use crate::thinking::Thinking;

/// The rewards of a batch of rollouts, in their order: what `Client.score` returns.
///
/// `n` is the number of rollouts and `k` the number of the model's attributes. All arrays are NumPy's, made when they are
/// first asked for and the caller's own from then on: `torch.from_dlpack(batch.rewards)` and `jax.numpy.from_dlpack` copy nothing. A
/// batch can be pickled, and shows itself as a table.
///
/// ```python
/// batch = client.score(prompts=["Hello"] * 2, completions=["Hello, how can I help?", "..."], id=["good", "bad"])
/// batch.rewards                     # float32 [2]
/// batch["helpfulness"]              # float32 [2]: one attribute
/// batch.by_id["good"].reward        # one rollout
/// ```
#[pyclass(frozen, module = "reward_sidecar")]
pub struct Batch {
    rows: usize,
    failed: usize,
    names: Py<PyTuple>,
    ids: Py<PyTuple>,
    /// The model that gave all of these: its weights, precision and template. The same version gives the same bits.
    ///
    /// `assert batch.model_version == client.card().model_version`
    #[pyo3(get)]
    model_version: String,
    /// For each rollout the model that gave its rewards: one and the same, but with `version="any"`.
    ///
    /// `set(batch.model_versions)`
    #[pyo3(get)]
    model_versions: Py<PyTuple>,
    rewards: Array<f32>,
    attributes: Array<f32>,
    tokens: Array<u32>,
    truncated: Array<bool>,
    failures: Vec<(usize, Failure)>,
    errors: PyOnceLock<Py<PyList>>,
    unread: Vec<Vec<ReadRewards>>,
    reads: PyOnceLock<Py<PyList>>,
    thinking: Vec<Option<Thinking>>,
    by_id: PyOnceLock<Py<PyMappingProxy>>,
}

/// The columns of a batch that comes out of a pickle.
#[derive(FromPyObject)]
pub struct Pickled(
    Py<PyTuple>,
    Py<PyTuple>,
    String,
    Py<PyTuple>,
    Py<PyAny>,
    Py<PyAny>,
    Py<PyAny>,
    Py<PyAny>,
    Py<PyList>,
    Py<PyList>,
    Vec<Option<Thinking>>,
);

impl Batch {
    pub fn new(py: Python<'_>, gathered: Gathered, ids: &[String]) -> PyResult<Self> {
        let (rows, columns) = (gathered.len(), gathered.names.len());
        let one: &str = &gathered.model_version;
        let model_versions = if gathered.versions.is_empty() {
            PyTuple::new(py, vec![PyString::new(py, one); rows])?
        } else {
            PyTuple::new(py, gathered.versions.iter().map(|version| &**version))?
        };
        Ok(Self {
            rows,
            failed: gathered.failures.len(),
            names: PyTuple::new(py, gathered.names)?.unbind(),
            ids: PyTuple::new(py, ids)?.unbind(),
            model_versions: model_versions.unbind(),
            model_version: gathered.model_version,
            rewards: Array::of(gathered.rewards),
            attributes: Array::of_rows(gathered.attributes, columns),
            tokens: Array::of(gathered.tokens),
            truncated: Array::of(gathered.truncated),
            failures: gathered.failures,
            errors: PyOnceLock::new(),
            unread: gathered.reads,
            reads: PyOnceLock::new(),
            thinking: gathered.thinking,
            by_id: PyOnceLock::new(),
        })
    }

    /// Puts a batch together, as it comes out of a pickle.
    pub fn restored(py: Python<'_>, columns: Pickled) -> PyResult<Self> {
        let Pickled(
            names,
            ids,
            model_version,
            model_versions,
            rewards,
            attributes,
            tokens,
            truncated,
            errors,
            reads,
            thinking,
        ) = columns;
        let (rows, failed) = (rewards.bind(py).len()?, errors.bind(py).len());
        Ok(Self {
            rows,
            failed,
            names,
            ids,
            model_version,
            model_versions,
            rewards: Array::given(py, rewards),
            attributes: Array::given(py, attributes),
            tokens: Array::given(py, tokens),
            truncated: Array::given(py, truncated),
            failures: Vec::new(),
            errors: full(py, errors),
            unread: Vec::new(),
            reads: full(py, reads),
            thinking,
            by_id: PyOnceLock::new(),
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
        class_of(py, first.code)?.call1((first.code, message, row, this)).map(Some)
    }
}

#[pymethods]
impl Batch {
    fn __reduce__<'py>(this: &Bound<'py, Self>) -> PyResult<Restore<'py>> {
        let (py, batch) = (this.py(), this.get());
        let columns = (
            &batch.names,
            &batch.ids,
            &batch.model_version,
            &batch.model_versions,
            batch.rewards(py)?,
            batch.attributes(py)?,
            batch.tokens(py)?,
            batch.truncated(py)?,
            batch.errors(py)?,
            batch.reads(py)?,
            batch.thinking.clone(),
        );
        restore(py, "_batch", columns)
    }

    /// Names of the model's attributes, in the order of the columns of `attributes`.
    ///
    /// `batch.names` is `('helpfulness', 'relevance', ...)`.
    #[getter]
    fn names(&self) -> &Py<PyTuple> {
        &self.names
    }

    /// The ids that were given to `score`, one for each rollout; empty where none were.
    ///
    /// `client.score(texts=["a", "b"], id=["first", "second"]).ids` is `('first', 'second')`.
    #[getter]
    fn ids(&self) -> &Py<PyTuple> {
        &self.ids
    }

    /// float32 [n]: the rewards, each aggregated of its rollout's attributes; NaN where a rollout failed.
    ///
    /// `advantages = batch.rewards - batch.rewards.mean()`; `torch.from_dlpack(batch.rewards)` is the same memory as a tensor.
    #[getter]
    fn rewards<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.rewards.get(py, self.rows).cloned()
    }

    /// float32 [n, k]: every attribute as the model gave it, untransformed; NaN where a rollout failed.
    ///
    /// `batch.attributes[:, batch.names.index("verbosity")]`, which is `batch["verbosity"]`.
    #[getter]
    fn attributes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.attributes.get(py, self.rows).cloned()
    }

    /// uint32 [n]: tokens that were scored, prompt and completion; 0 where a rollout failed.
    ///
    /// `batch.tokens.sum()` is what the batch cost, shared prompts counted each time.
    #[getter]
    fn tokens<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.tokens.get(py, self.rows).cloned()
    }

    /// bool [n]: whether the prompt's oldest tokens were cut to fit the context (`over_long="truncate-left"`).
    ///
    /// `batch.rewards[~batch.truncated]` leaves those rollouts out.
    #[getter]
    fn truncated<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.truncated.get(py, self.rows).cloned()
    }

    /// The rollouts that failed: an exception for each, ordered by `index`, their place in the batch.
    ///
    /// `for error in batch.errors: print(error.index, error.code, error.message)`
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

    /// For each rollout its `Reads`, where the model reads rollouts at several places (a process reward model, or turns with
    /// `score=True`); else empty.
    ///
    /// `batch.reads[0].rewards` are the rewards of the first rollout's steps or turns.
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

    /// For each rollout its `Thinking`, where `answer_only` asked for it to be taken out; else empty.
    ///
    /// `[thinking.unclosed for thinking in batch.thinking]`
    #[getter]
    fn thinking(&self) -> Vec<Option<Thinking>> {
        self.thinking.clone()
    }

    /// Each rollout by its id: a mapping from the ids that were given to `score` to `Result`; empty where none were.
    ///
    /// `batch.by_id["a1"].reward`
    #[getter]
    fn by_id<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyMappingProxy>> {
        let make = || {
            let results = PyDict::new(py);
            if !self.ids.bind(py).is_empty() {
                for (id, result) in self.ids.bind(py).iter().zip(self.results(py)?) {
                    results.set_item(id, result)?;
                }
            }
            PyResult::Ok(PyMappingProxy::new(py, results.as_mapping()).unbind())
        };
        Ok(self.by_id.get_or_try_init(py, make)?.bind(py).clone())
    }

    /// By a str one attribute of all rollouts, float32 [n]; by an int one rollout by itself, a `Result`.
    ///
    /// `batch["helpfulness"].mean()`, `batch[0].reward`
    fn __getitem__<'py>(&self, py: Python<'py>, key: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let Ok(attribute) = key.cast::<PyString>() else { return self.rollout(py, key) };
        let names = self.names.bind(py);
        match names.iter().position(|name| name.eq(attribute).unwrap_or(false)) {
            Some(column) => self.attributes(py)?.get_item((PySlice::full(py), column)),
            None => {
                let known: Vec<String> = names.extract::<Vec<String>>()?;
                let hint = nearest::hint(&attribute.to_string_lossy(), known.iter().map(String::as_str));
                let message = format!("the model has no attribute '{attribute}'; it has {}{hint}", names.repr()?);
                Err(PyKeyError::new_err(message))
            }
        }
    }

    /// Each rollout by itself, in their order.
    ///
    /// `best = max(batch, key=lambda result: result.reward)`
    fn __iter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyIterator>> {
        PyList::new(py, self.results(py)?)?.try_iter()
    }

    /// The columns by their names: `id` where ids were given, `reward`, `tokens`, `truncated`, `error`, which is
    /// a code or None, and each attribute.
    ///
    /// `polars.DataFrame(batch.to_dict())`
    fn to_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let mut columns = Columns::of(py);
        if !self.ids.bind(py).is_empty() {
            columns.add("id", &self.ids.bind(py).to_list())?;
        }
        columns.add("reward", &self.rewards(py)?)?;
        columns.add("tokens", &self.tokens(py)?)?;
        columns.add("truncated", &self.truncated(py)?)?;
        columns.add_errors(self.rows, &self.errors(py)?)?;
        columns.with_attributes(self.names.bind(py), &self.attributes(py)?)
    }

    /// The columns of `to_dict` as a pandas data frame. Needs pandas, which the package does not bring along.
    ///
    /// `batch.to_pandas().sort_values("reward")`
    fn to_pandas<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        py.import("pandas")?.call_method1("DataFrame", (self.to_dict(py)?,))
    }

    /// The columns of `to_dict` as a Polars data frame. Needs polars, which the package does not bring along.
    ///
    /// `batch.to_polars().sort("reward")`
    fn to_polars<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        py.import("reward_sidecar._frames")?.call_method1("to_polars", (self.to_dict(py)?,))
    }

    /// The columns of `to_dict` as an Arrow table. Needs pyarrow, which the package does not bring along.
    ///
    /// `pyarrow.parquet.write_table(batch.to_arrow(), "rewards.parquet")`
    fn to_arrow<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        py.import("reward_sidecar._frames")?.call_method1("to_arrow", (self.to_dict(py)?,))
    }

    fn __len__(&self) -> usize {
        self.rows
    }

    fn __repr__<'py>(this: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        this.py().import("reward_sidecar._show")?.call_method1("text", (this,))
    }

    /// As a table, in a notebook.
    fn _repr_html_<'py>(this: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        this.py().import("reward_sidecar._show")?.call_method1("html", (this,))
    }
}

/// A batch, of the columns that its pickle holds.
#[pyfunction]
#[pyo3(signature = (*columns))]
pub fn _batch(py: Python<'_>, columns: &Bound<'_, PyTuple>) -> PyResult<Batch> {
    Batch::restored(py, columns.extract::<Pickled>()?)
}
