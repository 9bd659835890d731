//! How long the engine takes, as far as it is known: a mean over its latest passes, and the shortest of all.

use std::time::Duration;

/// Handing work to another thread and hearing of its end: two wake-ups across cores, each of 20 to 60 µs on a virtual machine
/// and a few on bare metal.
pub(super) const HAND_OVER: Duration = Duration::from_micros(50);

/// Packing and answering one rollout, whatever the engine.
const PER_ROLLOUT: Duration = Duration::from_micros(1);

/// The share of a pass in the mean that it keeps with each later one.
const MEMORY: f64 = 7.0 / 8.0;

/// No pass counts as longer than so many times what the mean lets expect: a core that is taken away for a few milliseconds
/// says nothing of the engine. One that has become slow is known after a few passes.
const SURPRISE: u32 = 8;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Time and unique tokens of all passes, the latest counting most: their quotient is little moved by a short pass.
    nanoseconds: f64,
    tokens: f64,
    /// What a pass takes however short it is; a larger one takes longer.
    shortest: Option<Duration>,
}

impl Pace {
    /// A pass over so many unique tokens took so long.
    pub fn saw(&mut self, tokens: usize, took: Duration) {
        let took = self.expected(tokens).map_or(took, |expected| took.min(SURPRISE * expected));
        self.nanoseconds = self.nanoseconds * MEMORY + took.as_nanos() as f64;
        self.tokens = self.tokens * MEMORY + tokens as f64;
        self.shortest = Some(self.shortest.map_or(took, |shortest| shortest.min(took)));
    }

    /// Whether scoring and answering these is expected to take less than `limit`. Not before the engine has been seen at work.
    pub fn beats(&self, limit: Duration, tokens: usize, rollouts: usize) -> bool {
        let answering = PER_ROLLOUT * u32::try_from(rollouts).unwrap_or(u32::MAX);
        self.expected(tokens).is_some_and(|pass| pass + answering < limit)
    }

    /// What a pass over so many tokens is expected to take; nothing is before the first one.
    fn expected(&self, tokens: usize) -> Option<Duration> {
        let shortest = self.shortest?;
        Some(Duration::from_secs_f64(1e-9 * self.nanoseconds / self.tokens * tokens as f64).max(shortest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MICROSECOND: Duration = Duration::from_micros(1);

    #[test]
    fn an_unknown_engine_is_slow() {
        assert!(!Pace::default().beats(HAND_OVER, 1, 1));
    }

    #[test]
    fn a_quick_one_is_quick_up_to_a_size() {
        let mut pace = Pace::default();
        pace.saw(1000, 2 * MICROSECOND);
        assert!(pace.beats(HAND_OVER, 10_000, 1));
        assert!(!pace.beats(HAND_OVER, 25_000, 1), "50 us of scoring");
        assert!(!pace.beats(HAND_OVER, 10, 50), "50 us of answering");
        // A short pass is no measure for long ones, and does not become one.
        pace.saw(1, 2 * MICROSECOND);
        assert!(pace.beats(HAND_OVER, 10_000, 1));
    }

    /// What a GPU is like: many tokens cost little more than one.
    #[test]
    fn one_that_takes_long_for_anything_is_slow_for_little() {
        let mut pace = Pace::default();
        for _ in 0..100 {
            pace.saw(1_000_000, Duration::from_millis(10));
            assert!(!pace.beats(HAND_OVER, 1, 1));
        }
    }

    #[test]
    fn one_slow_pass_is_an_accident_and_many_are_none() {
        let mut pace = Pace::default();
        pace.saw(1000, MICROSECOND);
        pace.saw(1000, Duration::from_millis(10));
        assert!(pace.beats(HAND_OVER, 1000, 1));
        // Each may nearly double the mean: six doublings of one microsecond.
        for _ in 0..7 {
            pace.saw(1000, Duration::from_millis(10));
        }
        assert!(!pace.beats(HAND_OVER, 1000, 1));
        for _ in 0..100 {
            pace.saw(1000, MICROSECOND);
        }
        assert!(pace.beats(HAND_OVER, 1000, 1));
    }
}
