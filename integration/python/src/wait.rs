//! Waiting without the interpreter's lock.
//!
//! Invariant: no client is called while the lock is held, so that whoever holds one of the client's locks never waits for
//! the interpreter's.

use pyo3::prelude::*;
use reward_sidecar::client::ClientError;
use reward_sidecar::client::blocking::{Check, Stopped};

use crate::error::Failure;

/// Runs `work` without the interpreter's lock. A signal, Ctrl-C among them, ends it with what its handler raises.
pub fn wait<T: Send>(py: Python<'_>, work: impl FnOnce(Check<'_>) -> Result<T, Stopped> + Send) -> PyResult<T> {
    let mut raised = None;
    let done = py.detach(|| {
        work(&mut || match Python::try_attach(|py| py.check_signals()) {
            Some(Ok(())) => true,
            Some(Err(error)) => {
                raised = Some(error);
                false
            }
            // The interpreter is ending, and nobody will hear of this.
            None => false,
        })
    });
    done.map_err(|stopped| match (stopped, raised) {
        (Stopped::Interrupted, Some(error)) => error,
        (Stopped::Interrupted, None) => Failure::from(&ClientError::Closed).raised(py),
        (Stopped::Failed(error), _) => Failure::from(&error).raised(py),
    })
}
