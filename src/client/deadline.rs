//! When a rollout's time is over. Pure: the clock comes from outside.
//!
//! Invariant: a deadline counts from the submission, whatever happens between that and the answer.

use std::time::Duration;

use tokio::time::Instant;

use crate::limits::MAX_DEADLINE_MS;
use crate::reward::{Code, Rejection};

/// The end of the time that a rollout's submitter gave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Deadline {
    at: Instant,
    given_ms: u64,
}

impl Deadline {
    /// The deadline of a rollout that was submitted then. `None`: it has none, or one so long that the server refuses it.
    pub(super) fn new(submitted: Instant, given_ms: Option<u64>) -> Option<Self> {
        let given_ms = given_ms.filter(|&ms| ms <= MAX_DEADLINE_MS)?;
        let at = submitted.checked_add(Duration::from_millis(given_ms))?;
        Some(Self { at, given_ms })
    }

    pub(super) fn at(self) -> Instant {
        self.at
    }

    pub(super) fn has_passed(self, now: Instant) -> bool {
        now >= self.at
    }

    /// What is left of it, in milliseconds for the server: rounded up, so that it is 0 only when the deadline has passed.
    pub(super) fn remaining_ms(self, now: Instant) -> u64 {
        let micros = self.at.saturating_duration_since(now).as_micros().div_ceil(1000);
        // Never more than was given.
        u64::try_from(micros).unwrap_or(self.given_ms).min(self.given_ms)
    }

    /// What the submitter is told once it has passed.
    pub(super) fn rejection(self) -> Rejection {
        let message = format!(
            "deadline_ms: {} ms have passed since the rollout was submitted; give it more time, or submit less at a time",
            self.given_ms
        );
        Rejection::new(Code::DeadlineExceeded, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_remains_is_rounded_up() {
        let submitted = Instant::now();
        let deadline = Deadline::new(submitted, Some(5)).unwrap();
        let micros = |micros| submitted + Duration::from_micros(micros);
        assert_eq!(deadline.remaining_ms(submitted), 5);
        assert_eq!(deadline.remaining_ms(micros(1)), 5);
        assert_eq!(deadline.remaining_ms(micros(4001)), 1);
        assert!(!deadline.has_passed(micros(4999)) && deadline.has_passed(micros(5000)));
        assert_eq!(deadline.remaining_ms(micros(6000)), 0);
        assert!(deadline.rejection().message.contains("5 ms"));
    }

    #[test]
    fn a_deadline_beyond_the_limit_is_left_to_the_server() {
        assert_eq!(Deadline::new(Instant::now(), Some(MAX_DEADLINE_MS + 1)), None);
        assert_eq!(Deadline::new(Instant::now(), None), None);
    }
}
