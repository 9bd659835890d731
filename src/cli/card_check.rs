//! `inspect --check`: the scores that a model's card prints, beside those that the model gives here.
//!
//! Invariant: what is compared went the way of every rollout, through intake, template and tokenizer.

use std::time::Instant;

use serde::Serialize;
use tokio::sync::oneshot;

use super::failure::Failure;
use super::runtime;
use crate::config::Settings;
use crate::engine::Engine;
use crate::json::rollout;
use crate::model::CardCheck;
use crate::reward::Rewards;
use crate::sidecar::{Identity, Interest, Sidecar, Ticket};

/// What came of one check.
#[derive(Debug, Serialize)]
pub struct Checked {
    /// The published model.
    pub model: String,
    /// Where its score is printed.
    pub source: String,
    /// What it was computed in there.
    pub precision: String,
    /// What is printed.
    pub expected: Vec<f64>,
    /// What the model gives here; empty where it rejects the rollout.
    pub found: Vec<f32>,
    /// Why it does.
    pub rejected: Option<String>,
    /// The largest difference; `None` where there are not as many numbers.
    pub off_by: Option<f64>,
    /// How far off it may be.
    pub tolerance: f64,
    /// Whether it is no farther off.
    pub passed: bool,
}

impl Checked {
    fn of(check: &CardCheck, found: Result<Vec<f32>, String>) -> Self {
        let (found, rejected) = match found {
            Ok(found) => (found, None),
            Err(reason) => (Vec::new(), Some(reason)),
        };
        let expected = check.expected.numbers().to_vec();
        let differences = found.iter().zip(&expected).map(|(found, expected)| (f64::from(*found) - expected).abs());
        let off_by = (found.len() == expected.len()).then(|| differences.fold(0.0, f64::max));
        Self {
            model: check.model.clone(),
            source: check.source.clone(),
            precision: check.precision.clone(),
            passed: off_by.is_some_and(|off| off <= check.tolerance),
            expected,
            found,
            rejected,
            off_by,
            tolerance: check.tolerance,
        }
    }

    /// One line, for people.
    pub fn line(&self) -> String {
        let Self { model, source, precision, expected, found, rejected, off_by, tolerance, passed } = self;
        let verdict = if *passed { "passed" } else { "FAILED" };
        let printed = format!("{model}: {} prints {} ({precision})", source, list(expected));
        match (rejected, off_by) {
            (Some(reason), _) => format!("{verdict}: {printed}; rejected here: {reason}"),
            (None, None) => format!("{verdict}: {printed}; here {}, which are not as many", list(found)),
            (None, Some(off)) => {
                format!("{verdict}: {printed}; here {}: off by {off:.6}, at most {tolerance}", list(found))
            }
        }
    }
}

/// Whether the model is one of the published ones, as far as their cards tell: of one of them all checks have passed.
pub fn passed(checked: &[Checked]) -> bool {
    let all_of = |model: &str| checked.iter().filter(|check| check.model == model).all(|check| check.passed);
    checked.is_empty() || checked.iter().any(|check| all_of(&check.model))
}

fn list(numbers: &[impl ToString]) -> String {
    numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Scores the rollouts of all checks, one after the other.
///
/// # Errors
///
/// The sidecar could not be started or ended, or a check holds no rollout.
pub fn score(engine: Box<dyn Engine>, checks: &[CardCheck], settings: &Settings) -> Result<Vec<Checked>, Failure> {
    runtime::start()?.block_on(async {
        let sidecar = Sidecar::start(settings.sidecar_unheard(), engine).await?;
        let interest = Interest::of(&Identity::new("file", None));
        let mut checked = Vec::with_capacity(checks.len());
        for check in checks {
            let (sender, answer) = oneshot::channel();
            // Fails only where nobody waits any more.
            let ticket = Ticket::new(interest.clone(), move |outcome| drop(sender.send(outcome)));
            sidecar.intake().submit(rollout_of(check)?, ticket, Instant::now()).await;
            let found = match answer.await {
                Ok(Ok(rewards)) => Ok(numbers(&rewards)),
                Ok(Err(rejection)) => Err(rejection.to_string()),
                Err(_) => return Err(Failure::internal("a ticket was dropped without an answer".to_owned())),
            };
            checked.push(Checked::of(check, found));
        }
        sidecar.drain().await?;
        Ok(checked)
    })
}

fn rollout_of(check: &CardCheck) -> Result<crate::rollout::Rollout, Failure> {
    let no_rollout =
        |what: String| Failure::usage("PRESET", format!("card_check of {}: the rollout is none: {what}", check.model));
    let mut row = check.rollout.clone();
    row.insert("id".into(), "card-check".into());
    let json = serde_json::to_vec(&row).map_err(|e| no_rollout(e.to_string()))?;
    rollout::parse(&json).rollout.map_err(|e| no_rollout(e.to_string()))
}

/// The reward, or that of each step.
fn numbers(rewards: &Rewards) -> Vec<f32> {
    if rewards.reads.is_empty() { vec![rewards.reward] } else { rewards.reads.iter().map(|read| read.reward).collect() }
}
