//! Card checks: rollouts of which a published model's card prints the score, so that whoever has the weights can see whether a
//! preset is right.
//!
//! ```toml
//! [[card_check]]
//! model = "who/which"             # whose card it is
//! source = "its model card"       # where the score is printed
//! precision = "bfloat16"          # what it was computed in there
//! when = { hidden_size = 4096 }   # fields by which this model's configuration differs from others of the preset
//! rollout = { prompt = "2+2?", completion = "4." }   # as in a line of a rollout file, without an id
//! expected = 1.25                 # the reward; of a process model, that of each step
//! tolerance = 0.1                 # how far off a right implementation in float32 may be
//! ```
//!
//! Invariant: a check says a number that somebody else has printed, and is never a reason to load or refuse a model.

use serde_json::Value;

/// One rollout and its score on a model's card.
#[derive(Debug, Clone, PartialEq, serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
pub struct CardCheck {
    /// The published model.
    pub model: String,
    /// Where its score is printed.
    pub source: String,
    /// The type of numbers that it was computed in there.
    pub precision: String,
    /// Fields of the configuration, and their values, that the model has.
    #[serde(default)]
    pub when: toml::Table,
    /// The rollout, as in a line of a rollout file, without an id.
    pub rollout: toml::Table,
    /// What is printed.
    pub expected: Expected,
    /// How far off a reward may be, as an absolute difference.
    pub tolerance: f64,
}

/// What a card prints of a rollout.
#[derive(Debug, Clone, PartialEq, serde::Deserialize, serde::Serialize)]
#[serde(untagged, expecting = "a number, or a list of one for each step")]
pub enum Expected {
    /// The reward.
    Reward(f64),
    /// The reward of each step, in order.
    Steps(Vec<f64>),
}

impl Expected {
    /// The numbers, in order.
    pub fn numbers(&self) -> &[f64] {
        match self {
            Self::Reward(reward) => std::slice::from_ref(reward),
            Self::Steps(steps) => steps,
        }
    }
}

impl CardCheck {
    /// Whether it can be met at all; the error is a sentence.
    pub(super) fn check(&self) -> Result<(), String> {
        let of = format!("card_check of {}", self.model);
        let numbers = self.expected.numbers();
        if numbers.is_empty() || numbers.iter().any(|number| !number.is_finite()) {
            return Err(format!("{of}: expected is no finite number, or an empty list"));
        }
        if !(self.tolerance.is_finite() && self.tolerance > 0.0) {
            return Err(format!("{of}: tolerance is {}, which is not above 0", self.tolerance));
        }
        if self.rollout.is_empty() || self.rollout.contains_key("id") {
            return Err(format!("{of}: rollout is a rollout without an id"));
        }
        Ok(())
    }

    /// Whether a model with this configuration may be the published one.
    pub fn fits(&self, config: &Value) -> bool {
        self.when.iter().all(|(field, expected)| {
            serde_json::to_value(expected).is_ok_and(|expected| config.get(field) == Some(&expected))
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parsed(numbers: &str) -> Result<CardCheck, String> {
        let text = format!(
            "model = 'm'\nsource = 's'\nprecision = 'float32'\nwhen = {{ hidden_size = 8 }}\nrollout = {{ text = 't' }}\n{numbers}"
        );
        let check: CardCheck = toml::from_str(&text).map_err(|e| e.to_string())?;
        check.check().map(|()| check)
    }

    #[test]
    fn a_check_says_what_can_be_met() {
        let check = parsed("expected = 23\ntolerance = 0.5").unwrap();
        assert_eq!(check.expected.numbers(), [23.0]);
        assert!(check.fits(&json!({"hidden_size": 8, "x": 1})) && !check.fits(&json!({"hidden_size": 9})));
        assert!(!check.fits(&json!({})));
        assert_eq!(parsed("expected = [0.5, 1]\ntolerance = 1e-3").unwrap().expected.numbers(), [0.5, 1.0]);
        for (numbers, says) in [
            ("expected = []\ntolerance = 0.1", "empty list"),
            ("expected = nan\ntolerance = 0.1", "no finite number"),
            ("expected = 1.0\ntolerance = 0.0", "not above 0"),
            ("expected = 'x'\ntolerance = 0.1", "a number, or a list"),
            ("tolerance = 0.1", "expected"),
        ] {
            let error = parsed(numbers).unwrap_err();
            assert!(error.contains(says), "{numbers}: {error}");
        }
    }
}
