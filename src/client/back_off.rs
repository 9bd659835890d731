//! How long to wait before trying a server again, and when to give up. Pure: time and randomness come from outside.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::Duration;

/// Exponential back-off with jitter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackOff {
    /// Delay after the first failure; doubles with every further one.
    pub initial: Duration,
    /// Longest delay.
    pub max: Duration,
    /// How long the client tries to connect before it gives up: what is unanswered then is
    /// [`Disconnected`](super::ClientError::Disconnected). Also how long one rollout is asked again when connections
    /// come and go: then it is [`NeverAnswered`](super::ClientError::NeverAnswered).
    pub budget: Duration,
}

/// How long a Unix socket that does not exist is waited for before the first connection, where the user does not say: a
/// mistyped path is more likely than a server that is about to start.
pub(super) const SOCKET_TIMEOUT: Duration = Duration::from_secs(2);

/// After so long without a connection the user is told, once.
pub(super) const TELL: Duration = Duration::from_secs(1);

impl Default for BackOff {
    fn default() -> Self {
        Self { initial: Duration::from_millis(50), max: Duration::from_secs(5), budget: Duration::from_secs(30) }
    }
}

impl BackOff {
    /// How long to try where the latest attempt found no socket, and there was none before it either.
    pub(super) fn for_absent(&self, socket_timeout: Duration) -> Duration {
        self.budget.min(socket_timeout)
    }

    /// The delay after `failures` failures in a row (at least 1): between half of `initial * 2^(failures - 1)` and all
    /// of it, so that clients that lost a server together do not come back together.
    pub(super) fn delay(&self, failures: u32, random: u64) -> Duration {
        let factor = 1u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
        let full = self.initial.saturating_mul(factor).min(self.max);
        let share = (random >> 32) as f64 / f64::from(u32::MAX);
        full.mul_f64(0.5 + 0.5 * share)
    }
}

/// Randomness enough for jitter: the standard library seeds its hashers with it.
pub(super) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_delay_doubles_up_to_its_cap(failures in 1u32..100, random: u64) {
            let back_off = BackOff::default();
            let full = back_off.initial.as_secs_f64() * 2f64.powi(failures as i32 - 1);
            let full = full.min(back_off.max.as_secs_f64());
            let delay = back_off.delay(failures, random).as_secs_f64();
            // A nanosecond for the rounding of `Duration`.
            prop_assert!((full / 2.0 - 1e-9..=full + 1e-9).contains(&delay), "{delay} of {full}");
        }
    }

    #[test]
    fn jitter_spreads_over_the_whole_range() {
        let back_off = BackOff::default();
        assert_eq!(back_off.delay(1, 0), back_off.initial / 2);
        assert_eq!(back_off.delay(1, u64::MAX), back_off.initial);
        assert_ne!(random(), random());
    }
}
