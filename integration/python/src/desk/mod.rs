//! `Desk`: scoring for an event loop, which must not wait. Rollouts are handed in on the loop's thread, a thread of the desk
//! waits for their answers, and a descriptor that the loop watches becomes readable when a call is done.
//!
//! Invariant: the desk's thread never touches Python, so that it can neither delay the interpreter nor outlive it.

mod counter;

use std::io::Read as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use pyo3::exceptions::{PyOSError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use reward_sidecar::client::ClientError;

use self::counter::{Counter, Done, Wanted};
use crate::batch::Batch;
use crate::client::{Client, card_of};
use crate::error::{Failure, rewards_of};
use crate::line::Line;
use crate::logs;
use crate::options::Options;
use crate::owners::DropOwners;
use crate::process::OfThisProcess;
use crate::result::Result;
use crate::rows::Request;
use crate::wait::{Limit, detached};

/// See the module. One for each event loop.
#[pyclass(frozen, module = "reward_sidecar._native")]
pub struct Desk(OfThisProcess<Inner>);

struct Inner {
    counter: Arc<Counter>,
    bell: UnixStream,
    /// The version that a call is held to that does not say itself.
    version: Option<String>,
}

/// What holds for each rollout of a stream.
#[pyclass(frozen, module = "reward_sidecar._native")]
pub struct Defaults(Options);

#[pymethods]
impl Defaults {
    #[new]
    #[pyo3(signature = (client, group=None, **options))]
    fn new(
        client: &Bound<'_, Client>,
        group: Option<&Bound<'_, PyAny>>,
        options: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Self> {
        Options::of(options, group, client.get().version()).map(Self)
    }
}

impl Desk {
    fn inner(&self, py: Python<'_>) -> PyResult<&Inner> {
        self.0.get().ok_or_else(|| {
            let message = "this event loop is the parent process's; begin one of your own".into();
            Failure { code: ClientError::Closed.code(), message }.raised(py)
        })
    }
}

#[pymethods]
impl Desk {
    #[new]
    fn new(py: Python<'_>, client: &Bound<'_, Client>) -> PyResult<Self> {
        let version = client.get().version().map(str::to_owned);
        let client = client.get().connection(py)?;
        let (bell, ringing) = UnixStream::pair()?;
        bell.set_nonblocking(true)?;
        ringing.set_nonblocking(true)?;
        let counter = Counter::start(client, ringing).map_err(|error| PyOSError::new_err(error.to_string()))?;
        Ok(Self(OfThisProcess::new(Inner { counter, bell, version })))
    }

    /// What the loop is to watch for reading.
    fn fileno(&self, py: Python<'_>) -> PyResult<i32> {
        Ok(self.inner(py)?.bell.as_raw_fd())
    }

    /// Begins what `Client.score` does; returns the number under which [`Desk::finished`] will have it. Its timeout is
    /// the loop's business.
    #[pyo3(signature = (**arguments))]
    fn score(&self, py: Python<'_>, arguments: Option<&Bound<'_, PyDict>>) -> PyResult<u64> {
        let _owners = DropOwners::at_end(py);
        let inner = self.inner(py)?;
        let Request { rows, raise_on_error, progress, .. } = Request::of(arguments, inner.version.as_deref())?;
        if progress.is_some() {
            return Err(PyTypeError::new_err(
                "progress is for score alone; asynchronously, count the results of a stream",
            ));
        }
        let counter = &inner.counter;
        let wanted = Wanted::Batch { raise_on_error, ids: rows.ids.clone() };
        let begun = detached(py, || counter.begin(rows, wanted));
        begun.map_err(|error| Failure::from(&error).raised(py))
    }

    /// What the server serves, field by field, or where it is not known yet, the number under which [`Desk::finished`] will
    /// have it.
    fn card<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let counter = &self.inner(py)?.counter;
        if let Some(served) = detached(py, || counter.known_card()) {
            return Ok(card_of(py, &served)?.into_any());
        }
        match detached(py, || Counter::begin_card(counter)) {
            Ok(number) => Ok(number.into_pyobject(py)?.into_any()),
            Err(error) => Err(Failure::from(&error).raised(py)),
        }
    }

    /// Begins to score one rollout of a stream, `index` by its place; returns its number, or the result where there is no
    /// asking for it.
    fn score_one<'py>(
        &self,
        py: Python<'py>,
        rollout: &Bound<'py, PyAny>,
        index: usize,
        defaults: &Defaults,
    ) -> PyResult<Bound<'py, PyAny>> {
        let _owners = DropOwners::at_end(py);
        let Line { id, rows } = Line::of(rollout, &defaults.0)?;
        let counter = &self.inner(py)?.counter;
        match rows {
            Err(failure) => Ok(Bound::new(py, Result::new(index, id, Err(failure)))?.into_any()),
            Ok(rows) => match detached(py, || counter.begin(rows, Wanted::Result { index, id })) {
                Ok(number) => Ok(number.into_pyobject(py)?.into_any()),
                Err(error) => Err(Failure::from(&error).raised(py)),
            },
        }
    }

    /// Nobody waits for this one any more: what of it is unanswered is withdrawn.
    fn forget(&self, py: Python<'_>, number: u64) {
        let _owners = DropOwners::at_end(py);
        if let Some(inner) = self.0.get() {
            detached(py, || inner.counter.forget(number));
        }
    }

    /// The time of this one is over, which was so many seconds: what of it is unanswered fails, and is withdrawn.
    fn expire(&self, py: Python<'_>, number: u64, timeout: &Bound<'_, PyAny>) -> PyResult<()> {
        let _owners = DropOwners::at_end(py);
        let late = Limit::of(Some(timeout))?.rejection();
        if let Some(inner) = self.0.get() {
            detached(py, || inner.counter.expire(number, late));
        }
        Ok(())
    }

    /// What is done since the last call: numbers, each with what was wanted, or with the exception instead.
    /// One that cannot be turned into Python's objects raises for itself, and takes none of the others with it.
    fn finished<'py>(&self, py: Python<'py>) -> PyResult<Vec<(u64, Bound<'py, PyAny>, bool)>> {
        let _owners = DropOwners::at_end(py);
        let inner = self.inner(py)?;
        logs::deliver(py)?;
        let finished = py.detach(|| {
            // Quiet before it is emptied: what is done from now on rings again.
            let mut rings = [0; 64];
            while (&inner.bell).read(&mut rings).is_ok_and(|read| read > 0) {}
            inner.counter.finished()
        });
        let told = finished.into_iter().map(|(number, done)| match result(py, done) {
            Ok((result, raised)) => (number, result, raised),
            Err(error) => (number, error.into_value(py).into_bound(py).into_any(), true),
        });
        Ok(told.collect())
    }

    /// Ends the desk's thread. What is not done fails with `CLOSED`.
    fn close(&self, py: Python<'_>) {
        let _owners = DropOwners::at_end(py);
        if let Some(inner) = self.0.get() {
            py.detach(|| inner.counter.stop());
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.counter.stop();
    }
}

/// What the caller gets, and whether it is to be raised.
fn result(py: Python<'_>, done: Done) -> PyResult<(Bound<'_, PyAny>, bool)> {
    match done {
        Done::Card(Ok(served)) => Ok((card_of(py, &served)?.into_any(), false)),
        Done::Card(Err(failure)) => Ok((failure.exception(py, None)?, true)),
        Done::Batch { gathered, raise_on_error, ids } => {
            let batch = Bound::new(py, Batch::new(py, gathered, &ids)?)?;
            match Batch::failure(&batch)?.filter(|_| raise_on_error) {
                Some(exception) => Ok((exception, true)),
                None => Ok((batch.into_any(), false)),
            }
        }
        // Nobody will answer the others either.
        Done::Result { answer: Err(error), .. } if error.is_final() => {
            Ok((Failure::from(&error).exception(py, None)?, true))
        }
        Done::Result { index, id, answer } => {
            Ok((Bound::new(py, Result::new(index, id, rewards_of(answer)))?.into_any(), false))
        }
    }
}
