//! How far along a long run is: a bar on stderr where that is a terminal, else nothing. At the end one line.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::reward::Outcome;
use crate::sidecar::metrics::{self, Totals};

/// Counts answers.
pub struct Progress {
    bar: ProgressBar,
    started: Instant,
    before: Totals,
    scored: u64,
    rejected: BTreeMap<&'static str, u64>,
}

impl Progress {
    /// From now on. `bytes`: size of the input where it is known.
    pub fn start(bytes: Option<u64>) -> Self {
        // Hidden by itself where stderr is no terminal.
        let bar = ProgressBar::with_draw_target(bytes, ProgressDrawTarget::stderr());
        let template = match bytes {
            Some(_) => "{bar:30} {percent:>3}% {msg}, {eta} left",
            None => "{spinner} {msg}",
        };
        bar.set_style(ProgressStyle::with_template(template).expect("the templates above are well-formed"));
        Self { bar, started: Instant::now(), before: metrics::totals(), scored: 0, rejected: BTreeMap::new() }
    }

    /// One more line was answered; `bytes` of the input lie before or in it.
    pub fn answered(&mut self, outcome: &Outcome, bytes: u64) {
        match outcome {
            Ok(_) => self.scored += 1,
            Err(rejection) => *self.rejected.entry(rejection.code.name()).or_default() += 1,
        }
        if !self.bar.is_hidden() {
            self.bar.set_position(bytes);
            self.bar.set_message(format!("{} rollouts", self.scored + self.rejected_in_all()));
        }
    }

    /// Whether nothing was rejected.
    pub fn all_scored(&self) -> bool {
        self.rejected.is_empty()
    }

    /// The last line.
    pub fn finish(self) -> String {
        self.bar.finish_and_clear();
        let after = metrics::totals();
        summary(
            self.scored,
            &self.rejected,
            after.tokens_submitted - self.before.tokens_submitted,
            after.tokens_unique - self.before.tokens_unique,
            self.started.elapsed(),
        )
    }

    fn rejected_in_all(&self) -> u64 {
        self.rejected.values().sum()
    }
}

fn summary(scored: u64, rejected: &BTreeMap<&'static str, u64>, submitted: u64, unique: u64, time: Duration) -> String {
    let in_all: u64 = rejected.values().sum();
    let mut line = format!("{} rollouts: {scored} scored, {in_all} rejected", scored + in_all);
    if in_all > 0 {
        let codes: Vec<String> = rejected.iter().map(|(code, count)| format!("{code} {count}")).collect();
        // Writing to a String cannot fail.
        let _ = write!(line, " ({})", codes.join(", "));
    }
    let seconds = time.as_secs_f64();
    // An empty input takes no time worth dividing by.
    let per_second = if submitted == 0 { 0.0 } else { submitted as f64 / seconds };
    let _ = write!(line, "; {submitted} tokens submitted, {unique} unique; {seconds:.2} s, {per_second:.0} tokens/s");
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reward::Code;

    #[test]
    fn the_last_line() {
        let rejected = BTreeMap::from([(Code::TooLong.name(), 2), (Code::Malformed.name(), 1)]);
        assert_eq!(
            summary(5, &rejected, 1000, 400, Duration::from_millis(500)),
            "8 rollouts: 5 scored, 3 rejected (MALFORMED 1, TOO_LONG 2); 1000 tokens submitted, 400 unique; 0.50 s, 2000 tokens/s"
        );
        assert!(summary(0, &BTreeMap::new(), 0, 0, Duration::ZERO).ends_with("0.00 s, 0 tokens/s"));
    }
}
