//! Waiting without the interpreter's lock.
//!
//! Invariant: no client is called while the lock is held, so that a thread that holds one of the client's locks never waits
//! for the interpreter's.

use std::time::{Duration, Instant};

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use reward_sidecar::client::ClientError;
use reward_sidecar::client::blocking::{Check, Stopped};
use reward_sidecar::reward::{Code, Rejection};

use crate::error::Failure;
use crate::guard::Guard;
use crate::logs;

/// Does some of the client's work without the interpreter's lock.
pub fn detached<T: Send>(py: Python<'_>, work: impl FnOnce() -> T + Send) -> T {
    py.detach(|| logs::reporting(work))
}

/// The same for work that waits. A signal, Ctrl-C among them, ends it with what its handler raises, and so does the end of the
/// server that `guard` watches; what the client reports meanwhile is logged.
pub fn wait<T: Send>(
    py: Python<'_>,
    guard: &Guard,
    work: impl FnOnce(Check<'_>) -> Result<T, Stopped> + Send,
) -> PyResult<T> {
    let mut raised = None;
    let look = |py: Python<'_>| {
        logs::deliver(py)?;
        py.check_signals()?;
        guard.look(py)
    };
    let done = detached(py, || {
        work(&mut || match Python::try_attach(look) {
            Some(Ok(goes_on)) => goes_on,
            Some(Err(error)) => {
                raised = Some(error);
                false
            }
            // The interpreter is ending, and nobody will hear of this.
            None => false,
        })
    });
    logs::deliver(py)?;
    done.map_err(|stopped| match (stopped, raised) {
        (Stopped::Interrupted, Some(error)) => error,
        (Stopped::Interrupted, None) => {
            guard.failure().unwrap_or_else(|| Failure::from(&ClientError::Closed)).raised(py)
        }
        (Stopped::Failed(error), _) => Failure::from(&error).raised(py),
    })
}

/// Waits no longer than the caller's limit allows.
pub fn in_time<T: Send>(
    py: Python<'_>,
    limit: Limit,
    guard: &Guard,
    work: impl FnOnce(Check<'_>) -> Result<T, Stopped> + Send,
) -> PyResult<T> {
    let done = wait(py, guard, |check| match work(&mut || !limit.has_passed() && check()) {
        Err(Stopped::Interrupted) if limit.has_passed() => Ok(None),
        done => done.map(Some),
    })?;
    done.ok_or_else(|| Failure::from(&limit.rejection()).raised(py))
}

/// How long a call may take: the `timeout` of its caller, from now on.
#[derive(Debug, Clone, Copy, Default)]
pub struct Limit {
    timeout: Option<Duration>,
    until: Option<Instant>,
}

impl Limit {
    /// Of an argument in seconds.
    pub fn of(timeout: Option<&Bound<'_, PyAny>>) -> PyResult<Self> {
        let Some(given) = timeout.filter(|timeout| !timeout.is_none()) else { return Ok(Self::default()) };
        let wrong = || PyTypeError::new_err(format!("timeout is {given}; give a number of seconds, or None"));
        let seconds: f64 = given.extract().map_err(|_| wrong())?;
        if seconds.is_nan() || seconds < 0.0 {
            return Err(PyValueError::new_err(format!("timeout is {seconds}; give seconds, at least 0")));
        }
        // What is longer than the clock can say is as good as none.
        let timeout = Duration::try_from_secs_f64(seconds).ok();
        Ok(Self { timeout, until: None }.begun())
    }

    /// The same, from now on.
    pub fn begun(self) -> Self {
        Self { until: self.timeout.and_then(|timeout| Instant::now().checked_add(timeout)), ..self }
    }

    pub fn until(self) -> Option<Instant> {
        self.until
    }

    pub fn has_passed(self) -> bool {
        self.until.is_some_and(|until| Instant::now() >= until)
    }

    /// What is said of a rollout, or of a card, that was not there in time.
    pub fn rejection(self) -> Rejection {
        let seconds = self.timeout.unwrap_or_default().as_secs_f64();
        Rejection::new(Code::DeadlineExceeded, format!("timeout: there was no answer within {seconds} s"))
    }
}
