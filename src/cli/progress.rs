//! How far along a long run is, on stderr: a bar where that is a terminal, else a line now and then. At the end one line.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};

use serde::Serialize;

use super::pairs::{Pairs, PairsSummary};
use super::rewards_file::{RowAnswer, RowOutcome};
use crate::reward::Outcome;
use crate::sidecar::metrics::{self, Totals};

/// How often a line says how far it is, where there is no bar: a few hundred in a night.
const LINE_EVERY: Duration = Duration::from_secs(30);

/// Before it no time left is told: the first answers come at once, or late.
const ESTIMATE_AFTER: Duration = Duration::from_secs(3);

/// How often the bar is drawn. Answers come in bursts: what is drawn with one alone would stand there until the next.
const BAR_EVERY: Duration = Duration::from_millis(200);

/// Counts answers.
pub struct Progress {
    bar: ProgressBar,
    /// Size of the input, where it is known.
    bytes: Option<u64>,
    /// When the next line is due.
    line_at: Instant,
    /// Bytes of the input before the first answer of this run: what an earlier one did took no time of this one.
    skipped: Option<u64>,
    /// Rows, pairs counted once, that an earlier run has answered; and those of them with a rejection.
    kept: (u64, u64),
    started: Instant,
    before: Totals,
    scored: u64,
    rejected: BTreeMap<&'static str, u64>,
    pairs: Pairs,
}

impl Progress {
    /// From now on. `bytes`: size of the input where it is known. `kept`: rows that an earlier run has answered, and those of them
    /// with a rejection.
    pub fn start(bytes: Option<u64>, kept: (u64, u64)) -> Self {
        // Hidden by itself where stderr is no terminal.
        let bar = ProgressBar::with_draw_target(bytes, ProgressDrawTarget::stderr());
        let template = match bytes {
            Some(_) => "{bar:30} {percent:>3}% {msg}",
            None => "{spinner} {msg}",
        };
        if !bar.is_hidden() {
            bar.enable_steady_tick(BAR_EVERY);
        }
        bar.set_style(ProgressStyle::with_template(template).expect("the templates above are well-formed"));
        Self {
            bar,
            bytes,
            line_at: Instant::now() + LINE_EVERY,
            skipped: (kept.0 == 0).then_some(0),
            kept,
            started: Instant::now(),
            before: metrics::totals(),
            scored: 0,
            rejected: BTreeMap::new(),
            pairs: Pairs::default(),
        }
    }

    /// One more row was answered; `bytes` of the input lie before or in it.
    pub fn answered(&mut self, answer: &RowAnswer, bytes: u64) {
        match &answer.outcome {
            RowOutcome::One(outcome) => {
                self.count(outcome);
                if answer.is_pair {
                    self.pairs.unreadable();
                }
            }
            RowOutcome::Pair { chosen, rejected } => {
                self.count(chosen);
                self.count(rejected);
                self.pairs.answered(chosen, rejected);
            }
        }
        self.skipped.get_or_insert(bytes);
        if !self.bar.is_hidden() {
            self.bar.set_position(bytes);
            self.bar.set_message(self.line(bytes, self.started.elapsed()));
        } else if Instant::now() >= self.line_at {
            self.line_at = Instant::now() + LINE_EVERY;
            // Where stderr is gone, nobody reads it.
            let share = self.bytes.filter(|all| *all > 0).map(|all| format!("{} %, ", 100 * bytes.min(all) / all));
            let line = self.line(bytes, self.started.elapsed());
            let _ = writeln!(std::io::stderr(), "{}{line}", share.unwrap_or_default());
        }
    }

    /// Whether nothing was rejected.
    pub fn all_scored(&self) -> bool {
        self.rejected.is_empty() && self.kept.1 == 0
    }

    /// How far it is after `elapsed`, with the answers to `consumed` bytes of the input: how many, how fast, how long still.
    fn line(&self, consumed: u64, elapsed: Duration) -> String {
        let answered = self.scored + self.rejected_in_all();
        let seconds = elapsed.as_secs_f64();
        let mut line = rollouts(answered);
        if seconds > 0.0 {
            let rate = answered as f64 / seconds;
            // Of a large model a rollout may take seconds.
            let decimals = if rate < 10.0 { 2 } else { 0 };
            // Writing to a String cannot fail.
            let _ = write!(line, ", {rate:.decimals$}/s");
        }
        let skipped = self.skipped.unwrap_or(0);
        if let Some(bytes) =
            self.bytes.filter(|bytes| *bytes > skipped && consumed > skipped && elapsed >= ESTIMATE_AFTER)
        {
            let done = (consumed - skipped) as f64 / (bytes - skipped) as f64;
            let left = Duration::from_secs_f64(seconds * (1.0 - done.min(1.0)) / done);
            let _ = write!(line, ", {:#} left", HumanDuration(left));
        }
        line
    }

    fn count(&mut self, outcome: &Outcome) {
        match outcome {
            Ok(_) => self.scored += 1,
            Err(rejection) => *self.rejected.entry(rejection.code.name()).or_default() += 1,
        }
    }

    /// Everything has been answered.
    pub fn finish(self) -> Summary {
        self.bar.finish_and_clear();
        let after = metrics::totals();
        Summary {
            scored: self.scored,
            rejected: self.rejected_in_all(),
            tokens_submitted: after.tokens_submitted - self.before.tokens_submitted,
            tokens_unique: after.tokens_unique - self.before.tokens_unique,
            seconds: self.started.elapsed().as_secs_f64(),
            pairs: self.pairs.summary(),
            rejections: self.rejected,
            kept: self.kept.0,
        }
    }

    fn rejected_in_all(&self) -> u64 {
        self.rejected.values().sum()
    }
}

/// What became of a whole file, as `--summary` writes it.
#[derive(Debug, Serialize)]
pub struct Summary {
    /// Rollouts that have a reward.
    scored: u64,
    /// Rollouts that have none; a row that could not be read counts as one.
    rejected: u64,
    /// Rows that an earlier run has answered, which count nowhere else; left out where there are none.
    #[serde(skip_serializing_if = "is_zero")]
    kept: u64,
    /// Those that were rejected, by code.
    rejections: BTreeMap<&'static str, u64>,
    /// Tokens of all rollouts.
    tokens_submitted: u64,
    /// Tokens that were computed: what rollouts share counts once.
    tokens_unique: u64,
    /// Time from the first row to the last answer.
    seconds: f64,
    /// Of a preference file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pairs: Option<PairsSummary>,
}

impl Summary {
    /// For people: a line, and one more for a preference file.
    pub fn lines(&self) -> String {
        let Self { scored, rejected, tokens_submitted: submitted, tokens_unique: unique, seconds, .. } = self;
        let mut lines = format!("{}: {scored} scored, {rejected} rejected", rollouts(scored + rejected));
        if *rejected > 0 {
            let codes: Vec<String> = self.rejections.iter().map(|(code, count)| format!("{code} {count}")).collect();
            // Writing to a String cannot fail.
            let _ = write!(lines, " ({})", codes.join(", "));
        }
        // An empty input takes no time worth dividing by.
        let per_second = if *submitted == 0 { 0.0 } else { *submitted as f64 / seconds };
        let _ =
            write!(lines, "; {submitted} tokens submitted, {unique} unique; {seconds:.2} s, {per_second:.0} tokens/s");
        if self.kept > 0 {
            let _ = write!(lines, "\n{} rows were kept from an earlier run and are counted nowhere above", self.kept);
        }
        if let Some(pairs) = &self.pairs {
            let _ = write!(lines, "\n{}", pairs.line());
        }
        lines
    }
}

fn rollouts(count: u64) -> String {
    if count == 1 { "1 rollout".into() } else { format!("{count} rollouts") }
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reward::Code;

    fn summary(
        scored: u64,
        rejections: BTreeMap<&'static str, u64>,
        submitted: u64,
        unique: u64,
        seconds: f64,
    ) -> String {
        let rejected = rejections.values().sum();
        let (tokens_submitted, tokens_unique, pairs) = (submitted, unique, None);
        Summary { scored, rejected, rejections, tokens_submitted, tokens_unique, seconds, pairs, kept: 0 }.lines()
    }

    #[test]
    fn a_line_on_the_way() {
        let mut progress = Progress::start(Some(200), (0, 0));
        progress.count(&Err(crate::reward::Rejection::new(Code::TooLong, "x")));
        assert_eq!(progress.line(50, Duration::from_secs(10)), "1 rollout, 0.10/s, 30s left");
        progress.scored = 599;
        assert_eq!(progress.line(50, Duration::from_secs(10)), "600 rollouts, 60/s, 30s left");
        // Of 150 bytes that are left to this run, it has done 30 in ten seconds.
        progress.skipped = Some(50);
        assert_eq!(progress.line(80, Duration::from_secs(10)), "600 rollouts, 60/s, 40s left");
        assert_eq!(Progress::start(None, (0, 0)).line(50, Duration::from_secs(10)), "0 rollouts, 0.00/s");
    }

    #[test]
    fn the_last_line() {
        let rejected = BTreeMap::from([(Code::TooLong.name(), 2), (Code::Malformed.name(), 1)]);
        assert_eq!(
            summary(5, rejected, 1000, 400, 0.5),
            "8 rollouts: 5 scored, 3 rejected (MALFORMED 1, TOO_LONG 2); 1000 tokens submitted, 400 unique; 0.50 s, 2000 tokens/s"
        );
        assert!(summary(0, BTreeMap::new(), 0, 0, 0.0).ends_with("0.00 s, 0 tokens/s"));
    }
}
