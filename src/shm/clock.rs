//! The clock that both ends of a lane share: `CLOCK_MONOTONIC`, in nanoseconds. It is one clock for all processes of a host
//! (unless one of them was put into a time namespace of its own, which container engines do not do), it never goes back, and
//! it stands still while the host is suspended, as [`Instant`] does.
//!
//! Invariant: whatever number the other end writes as a time, every conversion here is defined and returns.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// The clock's present time.
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    // Both fields are positive, and the sum lasts for centuries of uptime.
    (now.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(now.tv_nsec as u64)
}

/// The clock's time at `instant`; its end where that is beyond it, and now where it has passed.
pub fn at_ns(instant: Instant) -> u64 {
    let from_now = instant.saturating_duration_since(Instant::now());
    now_ns().saturating_add(u64::try_from(from_now.as_nanos()).unwrap_or(u64::MAX))
}

/// The clock's time in so many milliseconds; its end where that is beyond it.
pub fn after_ms(ms: u64) -> u64 {
    now_ns().saturating_add(ms.saturating_mul(1_000_000))
}

/// How long it is until the clock shows `ns`; nothing where it has shown it already.
pub fn until(ns: u64) -> Duration {
    Duration::from_nanos(ns.saturating_sub(now_ns()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_survives_the_crossing() {
        let later = Instant::now() + Duration::from_secs(3600);
        let until_then = until(at_ns(later));
        assert!(until_then <= Duration::from_secs(3600) && until_then > Duration::from_secs(3500), "{until_then:?}");
        // A time that has passed has no time left, and neither has the clock's beginning.
        assert_eq!(until(at_ns(Instant::now())), Duration::ZERO);
        assert_eq!(until(0), Duration::ZERO);
        assert!(until(u64::MAX) > Duration::from_secs(1 << 32));
    }

    #[test]
    fn the_clock_is_the_one_that_instants_are_made_of() {
        let (instant, ns) = (Instant::now(), now_ns());
        while Instant::now().duration_since(instant) < Duration::from_millis(2) {
            std::thread::yield_now();
        }
        assert!(now_ns() - ns >= 1_000_000);
    }
}
