//! `Client`, as far as it is Rust: options, the connection of this process, `score` and `stream`.
//!
//! Invariant: a connection belongs to the process that made it; a child that was forked makes its own.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};
use reward_sidecar::client::blocking;
use reward_sidecar::client::{BackOff, ClientError};

use crate::batch::Batch;
use crate::error::Failure;
use crate::gathered::gather;
use crate::options::Options;
use crate::process::OfThisProcess;
use crate::rows::Request;
use crate::stream::Stream;
use crate::wait::wait;

/// A client of one server.
#[pyclass(frozen, subclass, module = "reward_sidecar._native")]
pub struct Client {
    settings: Settings,
    /// Locked with the interpreter's lock held, and never while that is given up: so it is free in a child, too.
    connection: Mutex<Connection>,
}

/// What a client is made with, and made again in another process.
struct Settings {
    address: String,
    in_flight_limit: Option<usize>,
    deadline_ms: Option<u64>,
    spin_us: Option<u64>,
    connect_timeout_s: f64,
}

enum Connection {
    NotYet,
    Open(OfThisProcess<blocking::Client>),
    Closed,
}

impl Settings {
    fn builder(&self) -> PyResult<blocking::Builder> {
        let budget = Duration::try_from_secs_f64(self.connect_timeout_s).map_err(|_| {
            PyValueError::new_err(format!("connect_timeout_s is {}; give seconds, at least 0", self.connect_timeout_s))
        })?;
        let mut builder = blocking::Client::builder(&self.address);
        builder = builder.back_off(BackOff { budget, ..BackOff::default() });
        if let Some(rollouts) = self.in_flight_limit {
            builder = builder.in_flight_limit(rollouts);
        }
        if let Some(milliseconds) = self.deadline_ms {
            builder = builder.deadline(Duration::from_millis(milliseconds));
        }
        if let Some(microseconds) = self.spin_us {
            builder = builder.spin(Duration::from_micros(microseconds));
        }
        Ok(builder)
    }
}

impl Client {
    /// The connection of this process, which is made when there is none.
    pub fn connection(&self, py: Python<'_>) -> PyResult<blocking::Client> {
        let failed = |error: ClientError| Failure::from(&error).raised(py);
        {
            let connection = self.lock();
            match &*connection {
                Connection::Open(client) => {
                    if let Some(client) = client.get() {
                        return Ok(client.clone());
                    }
                }
                Connection::Closed => {
                    drop(connection);
                    return Err(failed(ClientError::Closed));
                }
                Connection::NotYet => {}
            }
        }
        let client = self.settings.builder()?.connect_lazy().map_err(failed)?;
        *self.lock() = Connection::Open(OfThisProcess::new(client.clone()));
        Ok(client)
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        // Nothing that holds it panics.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl Client {
    #[new]
    #[pyo3(signature = (address, *, in_flight_limit=None, deadline_ms=None, spin_us=None, connect_timeout_s=30.0))]
    fn new(
        py: Python<'_>,
        address: String,
        in_flight_limit: Option<usize>,
        deadline_ms: Option<u64>,
        spin_us: Option<u64>,
        connect_timeout_s: f64,
    ) -> PyResult<Self> {
        let settings = Settings { address, in_flight_limit, deadline_ms, spin_us, connect_timeout_s };
        settings.builder()?.check().map_err(|error| Failure::from(&error).raised(py))?;
        Ok(Self { settings, connection: Mutex::new(Connection::NotYet) })
    }

    fn __getnewargs_ex__<'py>(&self, py: Python<'py>) -> PyResult<((&str,), Bound<'py, PyDict>)> {
        let settings = &self.settings;
        let options = PyDict::new(py);
        options.set_item("in_flight_limit", settings.in_flight_limit)?;
        options.set_item("deadline_ms", settings.deadline_ms)?;
        options.set_item("spin_us", settings.spin_us)?;
        options.set_item("connect_timeout_s", settings.connect_timeout_s)?;
        Ok(((&settings.address,), options))
    }

    /// The address, as it was given.
    #[getter]
    fn address(&self) -> &str {
        &self.settings.address
    }

    /// What the server serves, field by field.
    fn _card<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let client = self.connection(py)?;
        let served = wait(py, |check| client.card(check))?;
        let (model, card) = (&served.model, PyDict::new(py));
        card.set_item("name", &model.name)?;
        card.set_item("model_version", &*model.model_version)?;
        card.set_item("architecture", &model.architecture)?;
        card.set_item("attributes", pyo3::types::PyTuple::new(py, &model.attributes)?)?;
        card.set_item("weightings", &model.weightings)?;
        card.set_item("default_weighting", &model.default_weighting)?;
        card.set_item("context_tokens", model.context_tokens)?;
        card.set_item("vocabulary_size", model.vocabulary_size)?;
        card.set_item("chat_template", &model.text.chat_template)?;
        card.set_item("in_flight_limit", served.in_flight_limit)?;
        card.set_item("over_long", &served.over_long)?;
        card.set_item("aggregations", pyo3::types::PyTuple::new(py, &served.aggregations)?)?;
        Ok(card)
    }

    /// Scores rollouts, and returns when all are answered. See the package's documentation.
    #[pyo3(signature = (**arguments), text_signature = "($self, /, *, prompts=None, completions=None, texts=None, \
        input_ids=None, prompt_ids=None, completion_ids=None, weights=None, weighting=None, aggregation=None, group=None, \
        groups=None, finish_reasons=None, deadline_ms=None, priority=None, traceparent=None, raise_on_error=True)")]
    fn score<'py>(&self, py: Python<'py>, arguments: Option<&Bound<'py, PyDict>>) -> PyResult<Bound<'py, Batch>> {
        let Request { rows, raise_on_error } = Request::of(arguments)?;
        let client = self.connection(py)?;
        let gathered = wait(py, move |check| gather(&client, rows, check))?;
        let batch = Bound::new(py, Batch::new(py, gathered)?)?;
        match Batch::failure(&batch)?.filter(|_| raise_on_error) {
            Some(exception) => Err(PyErr::from_value(exception)),
            None => Ok(batch),
        }
    }

    /// Scores rollouts as they come, and gives their results as they finish.
    #[pyo3(signature = (rollouts, group=None, **options), text_signature = "($self, /, rollouts, group=None, *, \
        weights=None, weighting=None, aggregation=None, deadline_ms=None, priority=None, traceparent=None)")]
    fn stream<'py>(
        &self,
        py: Python<'py>,
        rollouts: &Bound<'py, PyAny>,
        group: Option<&Bound<'py, PyString>>,
        options: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Stream> {
        let options = Options::of(options, group)?;
        Ok(Stream::new(self.connection(py)?, rollouts.try_iter()?, options))
    }

    /// Ends the connection. Calls that wait in other threads still get their answers.
    fn close(&self, py: Python<'_>) {
        let connection = std::mem::replace(&mut *self.lock(), Connection::Closed);
        py.detach(|| drop(connection));
    }

    fn __enter__(this: Bound<'_, Self>) -> Bound<'_, Self> {
        this
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(this: &Bound<'_, Self>, _exception: &Bound<'_, PyAny>) -> PyResult<()> {
        // The subclass has more to close.
        this.call_method0("close").map(drop)
    }

    fn __repr__(this: &Bound<'_, Self>) -> PyResult<String> {
        Ok(format!("{}({:?})", this.get_type().name()?, this.get().settings.address))
    }
}
