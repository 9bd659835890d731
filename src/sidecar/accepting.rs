//! What an acceptor does while the system gives it no connection.
//!
//! The invariant: it waits instead of spinning, and says so once for as long as it lasts.

use std::io;
use std::time::{Duration, Instant};

use super::metrics;

/// How long nothing is accepted after the system refused: without a descriptor to spare, trying at once would not end.
pub const PAUSE: Duration = Duration::from_millis(100);

/// How often it is said at most: where clients come and go at the limit, the log is not to be full of it.
const SAID_EVERY: Duration = Duration::from_secs(60);

/// Whether nothing was wrong but with one client, which is gone again: the next can be accepted at once.
pub fn client_left(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted)
}

/// An acceptor that waits, or does not.
#[derive(Debug)]
pub struct Pauses {
    /// What it accepts, for the log and the metric.
    of: &'static str,
    paused: bool,
    said: Option<Instant>,
}

impl Pauses {
    /// It does not wait.
    pub fn of(of: &'static str) -> Self {
        Self { of, paused: false, said: None }
    }

    /// Nobody more can be accepted as things stand, which `what` says; counted once until [`Self::end`].
    pub fn begin(&mut self, what: impl FnOnce() -> String) {
        if !std::mem::replace(&mut self.paused, true) {
            metrics::accept_paused(self.of);
            let now = Instant::now();
            if self.said.is_none_or(|said| now.duration_since(said) >= SAID_EVERY) {
                self.said = Some(now);
                tracing::warn!("{}: {}", self.of, what());
            }
        }
    }

    /// The system refused to accept.
    pub fn refused(&mut self, error: &io::Error) {
        self.begin(|| format!("no client can be accepted for now: {error} (too few descriptors? see ulimit -n)"));
    }

    /// Something was accepted without waiting.
    pub fn end(&mut self) {
        self.paused = false;
    }
}
