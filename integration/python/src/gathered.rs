//! The answers to a batch, in its order: columns of numbers, and what went wrong. Knows no Python.
//!
//! Invariant: a row has rewards of the model that the batch names, or it is NaN and a failure.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use reward_sidecar::client::blocking::{Check, Client, Stopped};
use reward_sidecar::client::{Answer, ServedModel, VersionPin};
use reward_sidecar::reward::{Code, ReadRewards, Rejection, Rewards};
use reward_sidecar::rollout::Rollouts;

use crate::error::{Failure, rewards_of};
use crate::guard::Guard;
use crate::thinking::Thinking;
use crate::wait::Limit;

/// See the module. All columns have a value for each row.
#[derive(Debug, Default)]
pub struct Gathered {
    /// The attributes' names.
    pub names: Vec<String>,
    /// Of the first rewards; where there are none, what the server serves.
    pub model_version: String,
    /// For each row, where not all that have rewards are of one version; else none.
    pub versions: Vec<Arc<str>>,
    pub rewards: Vec<f32>,
    /// Row after row, a value for each name.
    pub attributes: Vec<f32>,
    pub tokens: Vec<u32>,
    pub truncated: Vec<bool>,
    /// For each row its reads; empty where the model reads no rollout of the batch at several places.
    pub reads: Vec<Vec<ReadRewards>>,
    /// For each row what was taken out of its completion; empty where that was asked of none.
    pub thinking: Vec<Option<Thinking>>,
    /// By their row, ascending.
    pub failures: Vec<(usize, Failure)>,
}

impl Gathered {
    /// Puts the answers together. `pin` has let them through. `cards`: what the server has served meanwhile, the latest last;
    /// none where it was never reached.
    pub fn of(answers: Vec<Result<Rewards, Failure>>, pin: &VersionPin, cards: &[Arc<ServedModel>]) -> Self {
        let first = answers.iter().find_map(|answer| answer.as_ref().ok()).map(|rewards| &rewards.model_version);
        let of_first = cards.iter().find(|card| first == Some(&card.model.model_version));
        let model = of_first.or(cards.last()).map(|served| &served.model);
        let names = model.map(|model| model.attributes.clone()).unwrap_or_default();
        let model_version = first.or(model.map(|model| &model.model_version)).map(ToString::to_string);
        let rows = answers.len();
        let mut gathered = Self {
            rewards: vec![f32::NAN; rows],
            attributes: vec![f32::NAN; rows * names.len()],
            tokens: vec![0; rows],
            truncated: vec![false; rows],
            names,
            model_version: model_version.unwrap_or_default(),
            ..Self::default()
        };
        // Under which names the numbers stand is known of the version that the card describes.
        let described = pin.is_any() || first.is_none() || of_first.is_some();
        for (row, answer) in answers.into_iter().enumerate() {
            let put = answer.and_then(|rewards| gathered.put(row, rewards, described));
            gathered.failures.extend(put.err().map(|failure| (row, failure)));
        }
        gathered
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rewards.len()
    }

    fn put(&mut self, row: usize, rewards: Rewards, described: bool) -> Result<(), Failure> {
        let columns = self.names.len();
        if !described || rewards.attributes.len() != columns {
            let message = format!(
                "model_version: scored by '{}', while the server has told of another model's attributes alone; score it again",
                rewards.model_version
            );
            return Err(Failure { code: Code::OtherVersion.name(), message });
        }
        if *rewards.model_version != *self.model_version && self.versions.is_empty() {
            self.versions = vec![self.model_version.as_str().into(); self.rewards.len()];
        }
        if let Some(version) = self.versions.get_mut(row) {
            version.clone_from(&rewards.model_version);
        }
        self.rewards[row] = rewards.reward;
        self.attributes[row * columns..][..columns].copy_from_slice(&rewards.attributes);
        self.tokens[row] = rewards.tokens;
        self.truncated[row] = rewards.truncated;
        if !rewards.reads.is_empty() {
            self.reads.resize_with(self.rewards.len(), Vec::new);
            self.reads[row] = rewards.reads;
        }
        if let Some(thinking) = &rewards.thinking {
            self.thinking.resize(self.rewards.len(), None);
            self.thinking[row] = Some(thinking.into());
        }
        Ok(())
    }
}

/// What a call is held to, beside its rollouts.
pub struct Terms<'a> {
    pub pin: &'a VersionPin,
    pub limit: Limit,
    pub guard: &'a Guard,
    /// Rows that are answered already: what is no rollout is not asked for.
    pub refused: &'a [(usize, Rejection)],
    /// Counts the rows that are answered, for somebody who watches.
    pub answered: Option<&'a AtomicUsize>,
}

impl Terms<'_> {
    fn count(&self, rows: usize) {
        if let Some(answered) = self.answered {
            answered.fetch_add(rows, Ordering::Relaxed);
        }
    }
}

/// Scores all, as [`Client::score_all`] does, but what fails alone costs the others nothing: what has no answer when the limit
/// has passed, among others.
pub fn gather(
    client: &Client,
    rollouts: Arc<dyn Rollouts>,
    terms: &Terms<'_>,
    check: Check<'_>,
) -> Result<Gathered, Stopped> {
    let (issued, limit) = (Instant::now(), terms.limit);
    let mut cards = Cards::of(client);
    let mut answers = client.answers();
    if let Some(until) = limit.until() {
        answers.check_at(until);
    }
    let check = &mut || !limit.has_passed() && check();
    let mut gathered: Vec<Option<Answer>> = vec![None; rollouts.len()];
    for (row, rejection) in terms.refused {
        gathered[*row] = Some(Ok(Err(rejection.clone())));
    }
    terms.count(terms.refused.len());
    let mut next = 0;
    while next < gathered.len() || answers.unanswered() > 0 {
        while next < gathered.len() {
            if gathered[next].is_some() {
                next += 1;
                continue;
            }
            match answers.try_submit_since(&rollouts, next, next as u64, issued) {
                Ok(true) => next += 1,
                Ok(false) => break,
                Err(error) => {
                    // Given up: the rest is not tried.
                    let rest = gathered[next..].iter_mut().filter(|answer| answer.is_none());
                    rest.for_each(|answer| *answer = Some(Err(error.clone())));
                    next = gathered.len();
                }
            }
        }
        let stopped = match answers.next(check) {
            Ok(Some((tag, answer))) => {
                let answer = terms.pin.check(answer);
                cards.note(client, &answer);
                gathered[tag as usize] = Some(answer);
                terms.count(1);
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
            Some(Stopped::Interrupted) if limit.has_passed() || terms.guard.failure().is_some() => break,
            Some(stopped) => return Err(stopped),
        }
    }
    let missing = terms.guard.failure().unwrap_or_else(|| Failure::from(&limit.rejection()));
    let answers = gathered.into_iter().map(|answer| answer.map_or_else(|| Err(missing.clone()), rewards_of)).collect();
    Ok(Gathered::of(answers, terms.pin, &cards.all(client)))
}

/// What the server has served since a call began: another model may take over meanwhile, and the card with it.
#[derive(Debug, Default)]
pub struct Cards(Vec<Arc<ServedModel>>);

impl Cards {
    /// As the call begins.
    pub fn of(client: &Client) -> Self {
        Self(client.known_card().into_iter().collect())
    }

    /// Looks again when the first rewards are of a model that is not known yet.
    pub fn note(&mut self, client: &Client, answer: &Answer) {
        let Ok(Ok(rewards)) = answer else { return };
        if self.0.last().is_none_or(|card| card.model.model_version != rewards.model_version)
            && let Some(present) = client.known_card()
            && self.0.last().is_none_or(|card| !Arc::ptr_eq(card, &present))
        {
            self.0.push(present);
        }
    }

    /// All, the present one last.
    pub fn all(self, client: &Client) -> Vec<Arc<ServedModel>> {
        self.0.into_iter().chain(client.known_card()).collect()
    }
}
