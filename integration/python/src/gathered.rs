//! The answers to a batch, in its order: columns of numbers, and what went wrong. Knows no Python.
//!
//! Invariant: a row has rewards of the model that the batch names, or it is NaN and a failure.

use std::sync::Arc;
use std::time::Instant;

use reward_sidecar::client::blocking::{Check, Client, Stopped};
use reward_sidecar::client::{Answer, ServedModel};
use reward_sidecar::reward::{ReadRewards, Rewards};
use reward_sidecar::rollout::Rollouts;

use crate::error::{Failure, rewards_of};
use crate::wait::Limit;

/// See the module. All columns have a value for each row.
#[derive(Debug, Default)]
pub struct Gathered {
    /// The attributes' names.
    pub names: Vec<String>,
    pub model_version: String,
    pub rewards: Vec<f32>,
    /// Row after row, a value for each name.
    pub attributes: Vec<f32>,
    pub tokens: Vec<u32>,
    pub truncated: Vec<bool>,
    /// For each row its reads; empty where the model reads no rollout of the batch at several places.
    pub reads: Vec<Vec<ReadRewards>>,
    /// By their row, ascending.
    pub failures: Vec<(usize, Failure)>,
}

impl Gathered {
    /// Puts the answers together. `served`: what the server serves now, if it was ever reached.
    pub fn of(answers: Vec<Answer>, served: Option<&ServedModel>) -> Self {
        let model = served.map(|served| &served.model);
        let names = model.map(|model| model.attributes.clone()).unwrap_or_default();
        let model_version = model.map(|model| model.model_version.to_string()).unwrap_or_default();
        let rows = answers.len();
        let mut gathered = Self {
            rewards: vec![f32::NAN; rows],
            attributes: vec![f32::NAN; rows * names.len()],
            tokens: vec![0; rows],
            truncated: vec![false; rows],
            reads: Vec::new(),
            failures: Vec::new(),
            names,
            model_version,
        };
        for (row, answer) in answers.into_iter().enumerate() {
            if let Err(failure) = rewards_of(answer).and_then(|rewards| gathered.put(row, rewards)) {
                gathered.failures.push((row, failure));
            }
        }
        gathered
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rewards.len()
    }

    fn put(&mut self, row: usize, rewards: Rewards) -> Result<(), Failure> {
        let columns = self.names.len();
        if *rewards.model_version != *self.model_version || rewards.attributes.len() != columns {
            let message = format!(
                "scored by model {}, while the server serves {} now; score it again",
                rewards.model_version, self.model_version
            );
            return Err(Failure { code: Failure::MODEL_CHANGED, message });
        }
        self.rewards[row] = rewards.reward;
        self.attributes[row * columns..][..columns].copy_from_slice(&rewards.attributes);
        self.tokens[row] = rewards.tokens;
        self.truncated[row] = rewards.truncated;
        if !rewards.reads.is_empty() {
            self.reads.resize_with(self.rewards.len(), Vec::new);
            self.reads[row] = rewards.reads;
        }
        Ok(())
    }
}

/// Scores all, as [`Client::score_all`] does, but what fails alone costs the others nothing: what has no answer when `limit`
/// has passed, among others.
pub fn gather(
    client: &Client,
    rollouts: Arc<dyn Rollouts>,
    limit: Limit,
    check: Check<'_>,
) -> Result<Gathered, Stopped> {
    let issued = Instant::now();
    let mut answers = client.answers();
    if let Some(until) = limit.until() {
        answers.check_at(until);
    }
    let check = &mut || !limit.has_passed() && check();
    let mut gathered: Vec<Option<Answer>> = vec![None; rollouts.len()];
    let mut next = 0;
    while next < gathered.len() || answers.unanswered() > 0 {
        while next < gathered.len() {
            match answers.try_submit_since(&rollouts, next, next as u64, issued) {
                Ok(true) => next += 1,
                Ok(false) => break,
                Err(error) => {
                    // Given up: the rest is not tried.
                    gathered[next..].fill(Some(Err(error)));
                    next = gathered.len();
                }
            }
        }
        let stopped = match answers.next(check) {
            Ok(Some((tag, answer))) => {
                gathered[tag as usize] = Some(answer);
                None
            }
            // Other threads have taken all the room.
            Ok(None) if next < gathered.len() => {
                let submitted = answers.submit_since(&rollouts, next, next as u64, issued, check);
                next += usize::from(submitted.is_ok());
                // Where the connection is given up, the next attempt says so of this rollout and the rest.
                submitted.err().filter(|stopped| *stopped == Stopped::Interrupted)
            }
            Ok(None) => None,
            Err(stopped) => Some(stopped),
        };
        match stopped {
            None => {}
            // What is unanswered is withdrawn with `answers`.
            Some(Stopped::Interrupted) if limit.has_passed() => break,
            Some(stopped) => return Err(stopped),
        }
    }
    let late = || Ok(Err(limit.rejection()));
    let answers = gathered.into_iter().map(|answer| answer.unwrap_or_else(late)).collect();
    Ok(Gathered::of(answers, client.known_card().as_deref()))
}
