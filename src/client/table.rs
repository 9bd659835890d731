//! The rollouts that were submitted and are not answered yet, sent or not, and who waits for each. Pure: no connection, no
//! clock.
//!
//! Invariant: whatever enters leaves exactly once, through the waiter that came with it; its room is free from then on.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::time::Duration;

use prost::Message as _;
use tokio::time::Instant;

use super::deadline::Deadline;
use super::error::ClientError;
use super::room::Permit;
use super::waiter::{Answer, Waiter};
use crate::limits::{MAX_ID_BYTES, MAX_MESSAGE_BYTES};
use crate::proto::{outcome_from_wire, v1};
use crate::reward::{Code, Rejection};

/// See [`Table::lost`].
const MIN_LOSSES: u32 = 3;

/// The unanswered rollouts of one client, by a number that is unique among them. The callers' own ids are their business:
/// they may repeat.
#[derive(Debug, Default)]
pub(super) struct Table {
    entries: BTreeMap<u64, Entry>,
    /// Those that are not on the present stream.
    waiting: BTreeSet<u64>,
    deadlines: BTreeSet<(Instant, u64)>,
    /// On the present stream, and answered by the client itself: the server's replies are discarded.
    discarded: BTreeSet<u64>,
}

#[derive(Debug)]
struct Entry {
    rollout: v1::Rollout,
    waiter: Box<dyn Waiter>,
    deadline: Option<Deadline>,
    losses: Losses,
    /// Held for as long as the entry is there.
    _permit: Permit,
}

/// How often a rollout was sent in vain.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Losses {
    /// Connections that were lost, or servers that drained, with this rollout sent and unanswered.
    pub(super) times: u32,
    /// Time that it waited to be sent again after them.
    pub(super) waited: Duration,
    /// When the present wait began.
    since: Option<Instant>,
}

/// A rollout to be sent.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) number: u64,
    pub(super) rollout: v1::Rollout,
    pub(super) deadline: Option<Deadline>,
}

/// A rollout that the client answered itself after it was handed to the stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Withdrawn {
    pub(super) number: u64,
    /// Its id on the wire.
    pub(super) wire_id: String,
}

/// What a reply was.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// The answer to a rollout.
    Answered,
    /// The server is going; the rollout stays, for the next connection.
    Draining,
    /// To a rollout that the client has answered itself.
    Discarded,
    /// To no rollout of this table.
    Unknown,
}

impl Table {
    /// Takes a rollout in, to be sent.
    pub(super) fn insert(
        &mut self,
        number: u64,
        rollout: v1::Rollout,
        waiter: Box<dyn Waiter>,
        deadline: Option<Deadline>,
        permit: Permit,
    ) {
        if let Some(deadline) = deadline {
            self.deadlines.insert((deadline.at(), number));
        }
        self.waiting.insert(number);
        let entry = Entry { rollout, waiter, deadline, losses: Losses::default(), _permit: permit };
        self.entries.insert(number, entry);
    }

    /// The oldest rollout that waits to be sent; it counts as sent from now on. Where there is no use in sending it, because
    /// nobody waits for it or because it cannot be sent, it leaves the table, and the next one is tried.
    pub(super) fn next_to_send(&mut self, now: Instant) -> Option<Outgoing> {
        while let Some(number) = self.waiting.first().copied() {
            let entry = self.entries.get_mut(&number)?;
            if entry.waiter.is_gone() {
                self.remove(number);
                continue;
            }
            if let Some(deadline) = entry.deadline.filter(|deadline| deadline.has_passed(now)) {
                self.resolve(number, Ok(Err(deadline.rejection())));
                continue;
            }
            let mut rollout = entry.rollout.clone();
            if rollout.model_version.is_empty() {
                rollout.model_version = entry.waiter.model_version().unwrap_or_default();
            }
            rollout.id = wire_id(number, &rollout.id);
            let bytes = rollout.encoded_len();
            if bytes > MAX_MESSAGE_BYTES {
                // The server would end the stream, and with it everybody else's rollouts.
                let message =
                    format!("the rollout has {bytes} bytes on the wire; at most {MAX_MESSAGE_BYTES} are allowed");
                self.resolve(number, Ok(Err(Rejection::new(Code::TooLong, message))));
                continue;
            }
            entry.losses.end_wait(now);
            self.waiting.remove(&number);
            return Some(Outgoing { number, rollout, deadline: entry.deadline });
        }
        None
    }

    /// Takes a reply in.
    pub(super) fn reply(&mut self, reply: v1::Reply, now: Instant) -> Reply {
        let (id, outcome) = outcome_from_wire(reply);
        let Some(number) = number_of(&id) else { return Reply::Unknown };
        if self.discarded.remove(&number) {
            return Reply::Discarded;
        }
        if !self.entries.contains_key(&number) {
            return Reply::Unknown;
        }
        if matches!(&outcome, Ok(Err(rejection)) if rejection.code == Code::Draining) {
            self.lose(number, now);
            return Reply::Draining;
        }
        self.resolve(number, outcome.map_err(ClientError::from));
        Reply::Answered
    }

    /// The stream is gone, and what was sent on it must be sent again.
    pub(super) fn disconnect(&mut self, now: Instant) {
        self.discarded.clear();
        for number in self.numbers() {
            self.lose(number, now);
        }
    }

    /// Rollouts that have been sent in vain several times, and have waited to be sent again for longer than `budget` in all.
    /// One long outage, or two, say nothing against the rollouts that wait through them: only time without a connection counts,
    /// and only after [`MIN_LOSSES`] losses.
    pub(super) fn lost(&self, budget: Duration, now: Instant) -> Vec<(u64, Losses)> {
        let all = self.entries.iter().map(|(&number, entry)| (number, entry.losses.until(now)));
        all.filter(|(_, losses)| losses.are_too_many(budget)).collect()
    }

    /// Answers what is too late. Returns what of it was handed to the stream.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<Withdrawn> {
        let mut withdrawn = Vec::new();
        while let Some(&(_, number)) = self.deadlines.first().filter(|(at, _)| *at <= now) {
            let Some(deadline) = self.entries.get(&number).and_then(|entry| entry.deadline) else { break };
            withdrawn.extend(self.withdraw(number, deadline.rejection()));
        }
        withdrawn
    }

    /// When [`Table::expire`] will have something to do.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|&(at, _)| at)
    }

    /// Answers a rollout for which nobody waits any more. Returns it if it was handed to the stream.
    pub(super) fn cancel(&mut self, number: u64) -> Option<Withdrawn> {
        let rejection = Rejection::new(Code::Cancelled, "the caller has withdrawn the rollout");
        self.withdraw(number, rejection)
    }

    /// The same for rollouts of a series, by their tags.
    pub(super) fn cancel_series(&mut self, series: u64, tags: &RangeInclusive<u64>) -> Vec<Withdrawn> {
        let wanted = |entry: &Entry| {
            entry.waiter.origin().is_some_and(|origin| origin.series == series && tags.contains(&origin.tag))
        };
        let numbers: Vec<u64> =
            self.entries.iter().filter(|(_, entry)| wanted(entry)).map(|(&number, _)| number).collect();
        numbers.into_iter().filter_map(|number| self.cancel(number)).collect()
    }

    /// The server will reply to a rollout that is not here any more.
    pub(super) fn expect_discarded(&mut self, number: u64) {
        self.discarded.insert(number);
    }

    /// Ends one rollout.
    pub(super) fn resolve(&mut self, number: u64, answer: Answer) {
        if let Some(entry) = self.remove(number) {
            entry.waiter.answer(answer);
        }
    }

    /// Ends every rollout.
    pub(super) fn resolve_all(&mut self, error: &ClientError) {
        for number in self.numbers() {
            self.resolve(number, Err(error.clone()));
        }
    }

    /// Number of rollouts.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Rollouts to which the server owes a reply on the present stream, wanted or not.
    pub(super) fn in_flight(&self) -> usize {
        self.entries.len() - self.waiting.len() + self.discarded.len()
    }

    fn numbers(&self) -> Vec<u64> {
        self.entries.keys().copied().collect()
    }

    fn withdraw(&mut self, number: u64, rejection: Rejection) -> Option<Withdrawn> {
        let sent = !self.waiting.contains(&number);
        let entry = self.remove(number)?;
        let wire_id = wire_id(number, &entry.rollout.id);
        entry.waiter.answer(Ok(Err(rejection)));
        sent.then_some(Withdrawn { number, wire_id })
    }

    fn remove(&mut self, number: u64) -> Option<Entry> {
        let entry = self.entries.remove(&number)?;
        self.waiting.remove(&number);
        if let Some(deadline) = entry.deadline {
            self.deadlines.remove(&(deadline.at(), number));
        }
        Some(entry)
    }

    fn lose(&mut self, number: u64, now: Instant) {
        if let Some(entry) = self.entries.get_mut(&number)
            && self.waiting.insert(number)
        {
            entry.losses.begin_wait(now);
        }
    }
}

impl Losses {
    pub(super) fn begin_wait(&mut self, now: Instant) {
        self.times += 1;
        self.since = Some(now);
    }

    pub(super) fn end_wait(&mut self, now: Instant) {
        *self = Self { since: None, ..self.until(now) };
    }

    /// With the present wait counted up to now.
    pub(super) fn until(self, now: Instant) -> Self {
        let present = self.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        Self { waited: self.waited + present, ..self }
    }

    /// Whether the rollout may be to blame.
    pub(super) fn are_too_many(&self, budget: Duration) -> bool {
        self.times >= MIN_LOSSES && self.waited > budget
    }
}

/// Unique by its number; the caller's id follows it for readers of the server's logs.
fn wire_id(number: u64, id: &str) -> String {
    let mut wire = format!("{number}:{id}");
    let mut end = wire.len().min(MAX_ID_BYTES);
    while !wire.is_char_boundary(end) {
        end -= 1;
    }
    wire.truncate(end);
    wire
}

fn number_of(wire_id: &str) -> Option<u64> {
    wire_id.split_once(':')?.0.parse().ok()
}

#[cfg(test)]
mod tests;
