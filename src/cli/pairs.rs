//! What a preference file says about a model: how often the preferred rollout has the higher reward.

use serde::Serialize;

use crate::json::rewards::margin;
use crate::reward::Outcome;

/// The 97.5 % quantile of the standard normal distribution: an interval of 95 % has as much on either side.
const Z: f64 = 1.959_963_984_540_054;

/// Counts pairs.
#[derive(Debug, Default)]
pub struct Pairs {
    correct: u64,
    ties: u64,
    scored: u64,
    with_rejection: u64,
    margins: f64,
}

/// The result, as `--summary` writes it.
#[derive(Debug, Serialize)]
pub struct PairsSummary {
    /// Pairs of which both rollouts were scored.
    scored: u64,
    /// Pairs of which at least one was not: they count for nothing else.
    with_rejection: u64,
    /// Pairs whose preferred rollout has the higher reward.
    correct: u64,
    /// Pairs of equal rewards. As in reward-bench, a tie is not correct.
    ties: u64,
    /// Correct ones among the scored.
    accuracy: Option<f64>,
    /// Wilson's interval of 95 % for the accuracy.
    accuracy_interval: Option<[f64; 2]>,
    /// Mean of the preferred rollout's reward less the other's.
    mean_margin: Option<f64>,
}

impl Pairs {
    /// One more pair was answered.
    pub fn answered(&mut self, chosen: &Outcome, rejected: &Outcome) {
        let Some(margin) = margin(chosen, rejected) else { return self.unreadable() };
        self.scored += 1;
        self.margins += margin;
        self.correct += u64::from(margin > 0.0);
        self.ties += u64::from(margin == 0.0);
    }

    /// One more pair could not be read.
    pub fn unreadable(&mut self) {
        self.with_rejection += 1;
    }

    /// The result; `None` where there were no pairs.
    pub fn summary(&self) -> Option<PairsSummary> {
        let Self { correct, ties, scored, with_rejection, margins } = *self;
        let of_scored = |value: f64| (scored > 0).then(|| value / scored as f64);
        (scored + with_rejection > 0).then(|| PairsSummary {
            scored,
            with_rejection,
            correct,
            ties,
            accuracy: of_scored(correct as f64),
            accuracy_interval: (scored > 0).then(|| wilson(correct, scored)),
            mean_margin: of_scored(margins),
        })
    }
}

impl PairsSummary {
    /// As a line for people.
    pub fn line(&self) -> String {
        let mut line = match (self.accuracy, self.accuracy_interval, self.mean_margin) {
            (Some(accuracy), Some([low, high]), Some(margin)) => format!(
                "{} pairs: accuracy {:.4} (95 % interval {:.4} to {:.4}), {} ties, which count as wrong; mean margin {:.4}",
                self.scored, accuracy, low, high, self.ties, margin
            ),
            _ => "0 pairs scored".to_owned(),
        };
        if self.with_rejection > 0 {
            line += &format!("; {} more pairs not counted, a rollout of which was rejected", self.with_rejection);
        }
        line
    }
}

/// Wilson's score interval of 95 % for a proportion.
fn wilson(successes: u64, trials: u64) -> [f64; 2] {
    let n = trials as f64;
    let p = successes as f64 / n;
    let denominator = 1.0 + Z * Z / n;
    let centre = (p + Z * Z / (2.0 * n)) / denominator;
    let half = Z / denominator * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    [(centre - half).max(0.0), (centre + half).min(1.0)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reward::{Code, Rejection, Rewards};

    fn outcome(reward: f32) -> Outcome {
        Ok(Rewards {
            reward,
            attributes: vec![reward],
            tokens: 1,
            truncated: false,
            model_version: "v".into(),
            generation: 1,
            queue_ns: 0,
            forward_ns: 0,
            reads: Vec::new(),
            thinking: None,
        })
    }

    #[test]
    fn intervals_are_wilsons() {
        // From scipy: binomtest(successes, trials).proportion_ci(method="wilson").
        for (successes, trials, low, high) in
            [(8, 10, 0.490_162_471_5, 0.943_317_848_5), (0, 5, 0.0, 0.434_482_464_8), (5, 5, 0.565_517_535_2, 1.0)]
        {
            let found = wilson(successes, trials);
            assert!((found[0] - low).abs() < 1e-8 && (found[1] - high).abs() < 1e-8, "{found:?}");
        }
    }

    #[test]
    fn ties_are_not_correct_and_rejections_are_apart() {
        let mut pairs = Pairs::default();
        assert!(pairs.summary().is_none());
        pairs.answered(&outcome(2.0), &outcome(1.0));
        pairs.answered(&outcome(1.0), &outcome(1.0));
        pairs.answered(&outcome(1.0), &outcome(4.0));
        pairs.answered(&outcome(5.0), &outcome(1.0));
        pairs.answered(&outcome(5.0), &Err(Rejection::new(Code::TooLong, "")));
        pairs.unreadable();
        let summary = pairs.summary().unwrap();
        assert_eq!((summary.scored, summary.correct, summary.ties, summary.with_rejection), (4, 2, 1, 2));
        assert_eq!((summary.accuracy, summary.mean_margin), (Some(0.5), Some(0.5)));
        assert_eq!(
            summary.line(),
            "4 pairs: accuracy 0.5000 (95 % interval 0.1500 to 0.8500), 1 ties, which count as wrong; mean margin 0.5000; \
             2 more pairs not counted, a rollout of which was rejected"
        );
        let mut none = Pairs::default();
        none.unreadable();
        let json = serde_json::to_value(none.summary().unwrap()).unwrap();
        assert_eq!(json["accuracy"], serde_json::Value::Null);
    }
}
