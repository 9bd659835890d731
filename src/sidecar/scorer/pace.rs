//! How long the engine takes, as far as it is known: a mean over its latest passes, the shortest of all, and what a pass costs
//! beside its tokens.

use std::time::Duration;

/// The share of a pass in the mean that it keeps with each later one.
const MEMORY: f64 = 7.0 / 8.0;

/// No pass counts as longer than so many times what the mean lets expect: a core that is taken away for a few milliseconds
/// says nothing of the engine. One that has become slow is known after a few passes.
const SURPRISE: u32 = 8;

/// The same for the line through times and tokens, which needs more of them.
const LINE_MEMORY: f64 = 31.0 / 32.0;

/// Passes before a line is drawn.
const LINE_PASSES: u32 = 16;

/// What a pass may cost beside its tokens, as a share of them: a smaller micro-batch would answer sooner, and a larger one
/// hardly cheaper.
const OVERHEAD: f64 = 0.02;

/// Passes that are this short keep nobody waiting.
const SHORT: Duration = Duration::from_millis(100);

/// The least that a budget comes down to, as a share of what is configured.
const LEAST_SHARE: usize = 4;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Time and unique tokens of all passes, the latest counting most: their quotient is little moved by a short pass.
    nanoseconds: f64,
    tokens: f64,
    /// What a pass takes however short it is; a larger one takes longer.
    shortest: Option<Duration>,
    line: Line,
}

/// Sums for a line of least squares through seconds and tokens of the passes.
#[derive(Debug, Default)]
struct Line {
    passes: u32,
    weight: f64,
    tokens: f64,
    seconds: f64,
    tokens_squared: f64,
    products: f64,
}

impl Line {
    fn saw(&mut self, tokens: usize, took: Duration) {
        let (tokens, seconds) = (tokens as f64, took.as_secs_f64());
        self.passes = self.passes.saturating_add(1);
        for (sum, value) in [
            (&mut self.weight, 1.0),
            (&mut self.tokens, tokens),
            (&mut self.seconds, seconds),
            (&mut self.tokens_squared, tokens * tokens),
            (&mut self.products, tokens * seconds),
        ] {
            *sum = *sum * LINE_MEMORY + value;
        }
    }

    /// Seconds of a pass without tokens, and of each token; `None` as long as the passes do not tell them apart.
    fn coefficients(&self) -> Option<(f64, f64)> {
        let spread = self.weight * self.tokens_squared - self.tokens * self.tokens;
        // Passes whose sizes differ by less than a quarter of their mean say nothing of a pass without tokens.
        if self.passes < LINE_PASSES || spread < 0.0625 * self.tokens * self.tokens {
            return None;
        }
        let each = (self.weight * self.products - self.tokens * self.seconds) / spread;
        let whole = (self.seconds - each * self.tokens) / self.weight;
        (each > 0.0 && whole >= 0.0).then_some((whole, each))
    }
}

impl Pace {
    /// A pass that computed so many unique tokens took so long. One that reused them all counts as one token: a pass takes time
    /// whatever it computes, and no mean may come of a division by zero.
    pub fn saw(&mut self, tokens: usize, took: Duration) {
        let tokens = tokens.max(1);
        let took = self.expected(tokens).map_or(took, |expected| took.min(SURPRISE * expected));
        self.nanoseconds = self.nanoseconds * MEMORY + took.as_nanos() as f64;
        self.tokens = self.tokens * MEMORY + tokens as f64;
        self.shortest = Some(self.shortest.map_or(took, |shortest| shortest.min(took)));
        self.line.saw(tokens, took);
    }

    /// Tokens of a micro-batch, `most` at most: so many that what a pass costs beside them hardly counts, and no more, so that
    /// answers come soon.
    pub fn budget(&self, most: usize) -> usize {
        match self.line.coefficients() {
            Some((whole, each)) if whole + each * most as f64 > SHORT.as_secs_f64() => {
                let enough = whole / (OVERHEAD * each);
                (enough as usize).clamp((most / LEAST_SHARE).max(1), most.max(1))
            }
            _ => most,
        }
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
    fn a_short_pass_is_no_measure_for_long_ones() {
        let mut pace = Pace::default();
        assert_eq!(pace.expected(1), None);
        pace.saw(1000, 2 * MICROSECOND);
        pace.saw(1, 2 * MICROSECOND);
        assert!(pace.expected(10_000).is_some_and(|pass| pass < 50 * MICROSECOND));
    }

    #[test]
    fn a_budget_is_as_small_as_a_pass_is_cheap() {
        const MOST: usize = 4096;
        let budget = |whole: f64, each: f64| {
            let mut pace = Pace::default();
            for n in 0..40 {
                assert!(n >= LINE_PASSES || pace.budget(MOST) == MOST, "too early");
                let tokens = 100 + 97 * n as usize;
                pace.saw(tokens, Duration::from_secs_f64(whole + each * tokens as f64));
            }
            pace.budget(MOST)
        };
        // 2 % of a millisecond for each of 2000 tokens.
        assert!(budget(0.04, 0.001).abs_diff(2000) < 20);
        assert_eq!(budget(0.0, 0.001), MOST / LEAST_SHARE);
        assert_eq!(budget(1.0, 0.001), MOST);
        assert_eq!(budget(0.000_004, 0.000_000_1), MOST, "nobody waits for so short a pass");
    }

    #[test]
    fn a_budget_is_never_zero() {
        for most in 1..4 {
            let mut pace = Pace::default();
            for tokens in 1..100 {
                pace.saw(tokens, Duration::from_millis(50) * tokens as u32);
            }
            assert!((1..=most).contains(&pace.budget(most)));
        }
    }

    /// An engine may have kept everything from earlier passes, even at the first that is seen.
    #[test]
    fn passes_that_compute_nothing_are_passes() {
        let mut pace = Pace::default();
        for _ in 0..100 {
            pace.saw(0, MICROSECOND);
        }
        assert!(pace.expected(1000).is_some_and(|pass| pass >= MICROSECOND));
        assert_eq!(pace.budget(4096), 4096);
    }

    #[test]
    fn passes_of_one_size_say_nothing_of_others() {
        let mut pace = Pace::default();
        for _ in 0..100 {
            pace.saw(4096, Duration::from_secs(4));
        }
        assert_eq!(pace.budget(4096), 4096);
    }

    #[test]
    fn one_slow_pass_is_an_accident_and_many_are_none() {
        let mut pace = Pace::default();
        pace.saw(1000, MICROSECOND);
        pace.saw(1000, Duration::from_millis(10));
        assert!(pace.expected(1000).is_some_and(|pass| pass < 50 * MICROSECOND));
        // Each may nearly double the mean: six doublings of one microsecond.
        for _ in 0..7 {
            pace.saw(1000, Duration::from_millis(10));
        }
        assert!(pace.expected(1000).is_some_and(|pass| pass > 50 * MICROSECOND));
        for _ in 0..100 {
            pace.saw(1000, MICROSECOND);
        }
        assert!(pace.expected(1000).is_some_and(|pass| pass < 50 * MICROSECOND));
    }
}
