//! Whether the sidecar can be trusted to answer: what its own threads and the engine report, and a watchdog over both.
//!
//! The invariant: a failure is final. The first reason given stays; a server shows it, refuses work and ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::engine::EngineError;

/// Passes that may fail in a row; after so many the engine counts as broken.
pub const FAILED_PASSES: u32 = 8;

/// The state of one running sidecar; clones share it.
#[derive(Debug, Clone)]
pub struct Health(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    failure: watch::Sender<Option<Arc<str>>>,
    failed_passes: AtomicU32,
    /// When the running pass began, and when the last one ended.
    passes: Mutex<Passes>,
}

#[derive(Debug, Clone, Copy)]
struct Passes {
    running_since: Option<Instant>,
    last_ended: Instant,
}

impl Default for Health {
    fn default() -> Self {
        Self(Arc::new(Shared {
            failure: watch::Sender::new(None),
            failed_passes: AtomicU32::new(0),
            passes: Mutex::new(Passes { running_since: None, last_ended: Instant::now() }),
        }))
    }
}

impl Health {
    /// Something that the sidecar cannot do without has failed. Only the first reason counts.
    pub fn fail(&self, reason: impl Into<Arc<str>>) {
        let reason = reason.into();
        let first = self.0.failure.send_if_modified(|failure| {
            let first = failure.is_none();
            if first {
                *failure = Some(Arc::clone(&reason));
            }
            first
        });
        if first {
            tracing::error!(%reason, "the sidecar has failed");
        }
    }

    /// Why it failed, if it has.
    pub fn failure(&self) -> Option<Arc<str>> {
        self.0.failure.borrow().clone()
    }

    /// Waits until it has failed.
    pub async fn failed(&self) -> Arc<str> {
        let mut failure = self.0.failure.subscribe();
        loop {
            if let Some(reason) = failure.borrow_and_update().clone() {
                return reason;
            }
            // The sender lives in `self`.
            if failure.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// A pass begins.
    pub fn pass_started(&self) {
        self.passes().running_since = Some(Instant::now());
    }

    /// The pass has ended.
    pub fn pass_ended(&self, result: Result<(), &EngineError>) {
        *self.passes() = Passes { running_since: None, last_ended: Instant::now() };
        match result {
            Ok(()) => self.0.failed_passes.store(0, Ordering::Relaxed),
            Err(error @ EngineError::Fatal(_)) => self.fail(error.to_string()),
            Err(error @ EngineError::Forward(_)) => {
                let failed = self.0.failed_passes.fetch_add(1, Ordering::Relaxed) + 1;
                if failed >= FAILED_PASSES {
                    self.fail(format!("{failed} passes in a row have failed, the last one: {error}"));
                }
            }
        }
    }

    /// How long nothing has been scored; zero while a pass runs.
    pub fn idle(&self) -> Duration {
        let passes = *self.passes();
        if passes.running_since.is_some() { Duration::ZERO } else { passes.last_ended.elapsed() }
    }

    /// Watches over the passes until one of them has run for longer than `limit`, which is a failure. Never returns.
    pub(super) async fn watch_passes(self, limit: Duration) {
        loop {
            let running = self.passes().running_since.map(|since| since.elapsed());
            match running {
                Some(running) if running >= limit => {
                    self.fail(format!(
                        "a pass has been running for {running:.1?}; the watchdog allows {limit:?} (watchdog_ms)"
                    ));
                    return std::future::pending().await;
                }
                Some(running) => tokio::time::sleep(limit - running).await,
                None => tokio::time::sleep(limit).await,
            }
        }
    }

    /// For a thread of the sidecar's own to hold: if it panics, the sidecar has failed.
    pub fn guard(&self, thread: &'static str) -> ThreadGuard {
        ThreadGuard { health: self.clone(), thread }
    }

    fn passes(&self) -> std::sync::MutexGuard<'_, Passes> {
        // Plain assignments cannot panic half-way.
        self.0.passes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See [`Health::guard`].
#[derive(Debug)]
pub struct ThreadGuard {
    health: Health,
    thread: &'static str,
}

impl Drop for ThreadGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.health.fail(format!("the {} thread panicked; its message is in the log", self.thread));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_that_fail_in_a_row_are_a_failure_and_others_are_not() {
        let (health, error) = (Health::default(), EngineError::Forward("no".into()));
        for _ in 0..3 {
            for _ in 1..FAILED_PASSES {
                health.pass_ended(Err(&error));
            }
            assert_eq!(health.failure(), None);
            health.pass_ended(Ok(()));
        }
        (0..FAILED_PASSES).for_each(|_| health.pass_ended(Err(&error)));
        let reason = health.failure().unwrap();
        assert!(reason.contains("8 passes in a row") && reason.ends_with(": no"), "{reason}");
    }

    #[test]
    fn one_fatal_error_is_enough_and_the_first_reason_stays() {
        let health = Health::default();
        health.pass_ended(Err(&EngineError::Fatal("rank 1 is gone".into())));
        health.fail("later");
        assert!(health.failure().unwrap().contains("rank 1 is gone"));
    }

    #[test]
    fn a_thread_that_panics_is_a_failure_and_one_that_ends_is_none() {
        let health = Health::default();
        let end = |panics: bool| {
            let guard = health.guard("packer");
            let thread = std::thread::spawn(move || {
                let _guard = guard;
                assert!(!panics, "on purpose");
            });
            thread.join().is_err()
        };
        assert!(!end(false) && health.failure().is_none());
        assert!(end(true) && health.failure().unwrap().starts_with("the packer thread panicked"));
    }

    #[tokio::test]
    async fn a_pass_that_outlasts_the_watchdog_is_a_failure() {
        let health = Health::default();
        let watchdog = tokio::spawn(health.clone().watch_passes(Duration::from_millis(5)));
        health.pass_started();
        let reason = health.failed().await;
        assert!(reason.contains("a pass has been running"), "{reason}");
        watchdog.abort();
    }
}
