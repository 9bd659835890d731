//! The unanswered rollouts of one lane client. Pure: no lane, no clock.
//!
//! Invariant: whatever enters leaves exactly once, through its slot.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::client::blocking::inbox::Slot;
use crate::client::{Answer, ClientError};
use crate::rollout::Rollouts;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Table {
    questions: BTreeMap<u64, Question>,
    /// Those that are not on the present lane.
    unasked: BTreeSet<u64>,
    next: u64,
    /// Somebody wants the card, and nothing else.
    card_wanted: bool,
    /// How often all was given up, and why the last time.
    given_up: (u64, Option<ClientError>),
}

/// A rollout that is unanswered.
pub(super) struct Question {
    pub(super) rollouts: Arc<dyn Rollouts>,
    pub(super) index: usize,
    pub(super) slot: Slot,
    pub(super) issued: Instant,
    /// When first a lane was lost, or the sidecar drained, with this question on it.
    lost: Option<Instant>,
}

impl std::fmt::Debug for Question {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Question").field("index", &self.index).field("lost", &self.lost).finish_non_exhaustive()
    }
}

impl Question {
    pub(super) fn new(rollouts: Arc<dyn Rollouts>, index: usize, slot: Slot, issued: Instant) -> Self {
        Self { rollouts, index, slot, issued, lost: None }
    }

    /// The caller's name for it.
    pub(super) fn id(&self) -> String {
        self.rollouts.get(self.index).id.to_owned()
    }
}

impl Table {
    /// A new question, not asked yet. Returns its number.
    pub(super) fn insert(&mut self, question: Question) -> u64 {
        let number = self.next;
        self.next += 1;
        self.questions.insert(number, question);
        self.unasked.insert(number);
        number
    }

    pub(super) fn get(&self, number: u64) -> Option<&Question> {
        self.questions.get(&number)
    }

    /// It is on the lane.
    pub(super) fn was_asked(&mut self, number: u64) {
        self.unasked.remove(&number);
    }

    /// It never was here: its caller will try again.
    pub(super) fn take_back(&mut self, number: u64) {
        self.unasked.remove(&number);
        if let Some(question) = self.questions.remove(&number) {
            question.slot.forget();
        }
    }

    /// Nobody waits for it.
    pub(super) fn forget(&mut self, number: u64) {
        self.take_back(number);
    }

    /// Ends one question; `false` where there is none of this number, or it was not asked.
    pub(super) fn hear(&mut self, number: u64, answer: impl FnOnce(&Question) -> Answer) -> bool {
        if self.unasked.contains(&number) {
            return false;
        }
        let Some(question) = self.questions.remove(&number) else { return false };
        let answer = answer(&question);
        question.slot.settle(answer);
        true
    }

    /// Ends one question, asked or not.
    pub(super) fn settle(&mut self, number: u64, answer: Answer) {
        self.unasked.remove(&number);
        if let Some(question) = self.questions.remove(&number) {
            question.slot.settle(answer);
        }
    }

    /// Ends all, and every wait for the card.
    pub(super) fn settle_all(&mut self, error: &ClientError) {
        self.unasked.clear();
        for question in std::mem::take(&mut self.questions).into_values() {
            question.slot.settle(Err(error.clone()));
        }
        self.card_wanted = false;
        self.given_up = (self.given_up.0 + 1, Some(error.clone()));
    }

    /// The sidecar has given it back unanswered; `false` where it was not asked.
    pub(super) fn lose(&mut self, number: u64, now: Instant) -> bool {
        match self.questions.get_mut(&number) {
            Some(question) if self.unasked.insert(number) => {
                question.lost.get_or_insert(now);
                true
            }
            _ => false,
        }
    }

    /// The lane is gone, with all that was on it.
    pub(super) fn lose_all(&mut self, now: Instant) {
        let asked: Vec<u64> = self.questions.keys().copied().filter(|number| !self.unasked.contains(number)).collect();
        for number in asked {
            self.lose(number, now);
        }
    }

    /// Questions that have been asked and lost, again and again, for longer than `budget`.
    pub(super) fn lost_for(&self, budget: Duration, now: Instant) -> Vec<(u64, Duration)> {
        let lost = |question: &Question| question.lost.map(|since| now.saturating_duration_since(since));
        self.questions.iter().filter_map(|(&n, q)| lost(q).filter(|&d| d > budget).map(|d| (n, d))).collect()
    }

    /// The oldest question that is not on the lane.
    pub(super) fn first_unasked(&self) -> Option<u64> {
        self.unasked.first().copied()
    }

    /// Questions that are not on the lane.
    pub(super) fn unasked(&self) -> usize {
        self.unasked.len()
    }

    /// All questions.
    pub(super) fn len(&self) -> usize {
        self.questions.len()
    }

    /// Whether anything here needs a lane.
    pub(super) fn is_idle(&self) -> bool {
        self.questions.is_empty() && !self.card_wanted
    }

    /// Somebody wants the card, and hears of a failure by [`Table::given_up_since`] with the number that this returns.
    pub(super) fn want_card(&mut self) -> u64 {
        self.card_wanted = true;
        self.given_up.0
    }

    pub(super) fn has_card(&mut self) {
        self.card_wanted = false;
    }

    /// Why all was given up, if it was since then.
    pub(super) fn given_up_since(&self, count: u64) -> Option<ClientError> {
        self.given_up.1.clone().filter(|_| self.given_up.0 > count)
    }
}
