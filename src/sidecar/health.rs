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

/// The state of one running sidecar; clones share it. Passes are those of one model: see `of_model`.
#[derive(Debug, Clone)]
pub struct Health {
    failure: Arc<watch::Sender<Option<Arc<str>>>>,
    passes: Arc<Passes>,
}

#[derive(Debug)]
struct Passes {
    /// How many have failed since one did not.
    failed: AtomicU32,
    times: Mutex<Times>,
}

#[derive(Debug, Clone, Copy)]
struct Times {
    running_since: Option<Instant>,
    last_ended: Instant,
}

impl Default for Health {
    fn default() -> Self {
        Self { failure: Arc::new(watch::Sender::new(None)), passes: Arc::default() }
    }
}

impl Default for Passes {
    fn default() -> Self {
        let times = Times { running_since: None, last_ended: Instant::now() };
        Self { failed: AtomicU32::new(0), times: Mutex::new(times) }
    }
}

impl Health {
    /// The same for another model's passes: what fails there fails the sidecar, and what is well there says nothing of this one.
    pub(super) fn of_model(&self) -> Self {
        Self { failure: Arc::clone(&self.failure), passes: Arc::default() }
    }

    /// Something that the sidecar cannot do without has failed. Only the first reason counts.
    pub fn fail(&self, reason: impl Into<Arc<str>>) {
        let reason = reason.into();
        let first = self.failure.send_if_modified(|failure| {
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
        self.failure.borrow().clone()
    }

    /// Waits until it has failed.
    pub async fn failed(&self) -> Arc<str> {
        let mut failure = self.failure.subscribe();
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
        self.times().running_since = Some(Instant::now());
    }

    /// The pass has ended.
    pub fn pass_ended(&self, result: Result<(), &EngineError>) {
        *self.times() = Times { running_since: None, last_ended: Instant::now() };
        match result {
            Ok(()) => self.passes.failed.store(0, Ordering::Relaxed),
            Err(error @ EngineError::Fatal(_)) => self.fail(error.to_string()),
            Err(error @ EngineError::Forward(_)) => {
                let failed = self.passes.failed.fetch_add(1, Ordering::Relaxed) + 1;
                if failed >= FAILED_PASSES {
                    self.fail(format!("{failed} passes in a row have failed, the last one: {error}"));
                }
            }
        }
    }

    /// How long nothing has been scored; zero while a pass runs.
    pub fn idle(&self) -> Duration {
        let times = *self.times();
        if times.running_since.is_some() { Duration::ZERO } else { times.last_ended.elapsed() }
    }

    /// Watches over a model's passes until one of them has run for longer than `limit`, which is a failure, or until nobody is left
    /// who could make one.
    pub(super) async fn watch_passes(self, limit: Duration) {
        while Arc::strong_count(&self.passes) > 1 {
            let running = self.times().running_since.map(|since| since.elapsed());
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

    fn times(&self) -> std::sync::MutexGuard<'_, Times> {
        // Plain assignments cannot panic half-way.
        self.passes.times.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// One model that is well hides no other that is not.
    #[test]
    fn passes_of_several_models_are_counted_apart() {
        let (first, error) = (Health::default(), EngineError::Forward("no".into()));
        let second = first.of_model();
        for _ in 0..FAILED_PASSES {
            first.pass_ended(Err(&error));
            second.pass_ended(Ok(()));
        }
        assert_eq!(first.failure(), second.failure());
        assert!(second.failure().unwrap().contains("8 passes in a row"));
        first.pass_started();
        second.pass_ended(Ok(()));
        assert_eq!(first.idle(), Duration::ZERO, "its own pass runs");
    }

    #[tokio::test]
    async fn a_model_that_nobody_scores_with_any_more_is_not_watched() {
        let health = Health::default();
        let watchdog = tokio::spawn(health.of_model().watch_passes(Duration::from_millis(5)));
        assert!(watchdog.await.is_ok() && health.failure().is_none());
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
