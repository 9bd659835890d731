//! The rollouts that were submitted to one lane client and are not answered yet, sent or not. Pure: no lane, no clock.
//!
//! Invariant: whatever enters leaves exactly once, through its slot.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::client::blocking::inbox::Slot;
use crate::client::deadline::Deadline;
use crate::client::table::Losses;
use crate::client::waiter::Waiter as _;
use crate::client::{Answer, ClientError};
use crate::reward::{Code, Rejection};
use crate::rollout::Rollouts;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Table {
    entries: BTreeMap<u64, Entry>,
    /// Those that are not on the present lane.
    waiting: BTreeSet<u64>,
    deadlines: BTreeSet<(Instant, u64)>,
    /// On the present lane, and answered by the client itself: the sidecar's answers are discarded.
    discarded: BTreeSet<u64>,
    /// Of those, the ones of which the sidecar has not been told.
    cancels: VecDeque<u64>,
    next: u64,
    /// Somebody wants the card, and nothing else.
    card_wanted: bool,
    /// How often all was given up, and why the last time.
    given_up: (u64, Option<ClientError>),
}

/// A rollout that is unanswered.
pub(super) struct Entry {
    pub(super) rollouts: Arc<dyn Rollouts>,
    pub(super) index: usize,
    pub(super) slot: Slot,
    pub(super) deadline: Option<Deadline>,
    losses: Losses,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entry").field("index", &self.index).field("losses", &self.losses).finish_non_exhaustive()
    }
}

impl Entry {
    pub(super) fn new(rollouts: Arc<dyn Rollouts>, index: usize, slot: Slot, deadline: Option<Deadline>) -> Self {
        Self { rollouts, index, slot, deadline, losses: Losses::default() }
    }

    /// Answers it. Who has the answer finds the rollouts free.
    fn resolve(self, answer: Answer) {
        let Self { slot, rollouts, .. } = self;
        drop(rollouts);
        slot.resolve(answer);
    }

    /// The caller's name for it.
    pub(super) fn id(&self) -> String {
        self.rollouts.get(self.index).id.to_owned()
    }
}

/// What an answer was.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// To a rollout that waited for it.
    Answered,
    /// To a rollout that the client has answered itself.
    Discarded,
    /// To no rollout of this table.
    Unknown,
}

impl Table {
    /// A new rollout, not sent yet. Returns its number.
    pub(super) fn insert(&mut self, entry: Entry) -> u64 {
        let number = self.next;
        self.next += 1;
        if let Some(deadline) = entry.deadline {
            self.deadlines.insert((deadline.at().into_std(), number));
        }
        self.entries.insert(number, entry);
        self.waiting.insert(number);
        number
    }

    pub(super) fn get(&self, number: u64) -> Option<&Entry> {
        self.entries.get(&number)
    }

    /// It is on the lane.
    pub(super) fn sent(&mut self, number: u64, now: Instant) {
        if let Some(entry) = self.entries.get_mut(&number)
            && self.waiting.remove(&number)
        {
            entry.losses.end_wait(now.into());
        }
    }

    /// Nobody waits for it, or its caller will try again: it leaves without an answer.
    pub(super) fn forget(&mut self, number: u64) {
        if let Some(entry) = self.remove(number) {
            entry.slot.forget();
        }
    }

    /// The sidecar has answered.
    pub(super) fn reply(&mut self, number: u64, answer: impl FnOnce(&Entry) -> Answer) -> Reply {
        if self.discarded.remove(&number) {
            return Reply::Discarded;
        }
        if self.waiting.contains(&number) {
            return Reply::Unknown;
        }
        let Some(entry) = self.remove(number) else { return Reply::Unknown };
        let answer = answer(&entry);
        entry.resolve(answer);
        Reply::Answered
    }

    /// The sidecar has given it back unanswered, since it is going; it waits for the next lane.
    pub(super) fn returned(&mut self, number: u64, now: Instant) -> Reply {
        if self.discarded.remove(&number) {
            return Reply::Discarded;
        }
        if self.lose(number, now) { Reply::Answered } else { Reply::Unknown }
    }

    /// Ends one rollout, sent or not.
    pub(super) fn resolve(&mut self, number: u64, answer: Answer) {
        if let Some(entry) = self.remove(number) {
            entry.resolve(answer);
        }
    }

    /// Ends all, and every wait for the card.
    pub(super) fn resolve_all(&mut self, error: &ClientError) {
        self.waiting.clear();
        self.deadlines.clear();
        for entry in std::mem::take(&mut self.entries).into_values() {
            entry.resolve(Err(error.clone()));
        }
        self.card_wanted = false;
        self.given_up = (self.given_up.0 + 1, Some(error.clone()));
    }

    /// The lane is gone, with all that was on it.
    pub(super) fn disconnect(&mut self, now: Instant) {
        self.discarded.clear();
        self.cancels.clear();
        let sent: Vec<u64> = self.entries.keys().copied().filter(|number| !self.waiting.contains(number)).collect();
        for number in sent {
            self.lose(number, now);
        }
    }

    /// Rollouts that were sent in vain several times, and have waited for a lane for longer than `budget` in all.
    pub(super) fn lost(&self, budget: Duration, now: Instant) -> Vec<(u64, Losses)> {
        let all = self.entries.iter().map(|(&number, entry)| (number, entry.losses.until(now.into())));
        all.filter(|(_, losses)| losses.are_too_many(budget)).collect()
    }

    /// Answers what is too late; whether anything was.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        let mut any = false;
        while let Some(&(_, number)) = self.deadlines.first().filter(|(at, _)| *at <= now) {
            let Some(deadline) = self.entries.get(&number).and_then(|entry| entry.deadline) else { break };
            self.withdraw(number, deadline.rejection());
            any = true;
        }
        any
    }

    /// When [`Table::expire`] will have something to do.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|&(at, _)| at)
    }

    /// Answers the rollouts of a series with these tags as withdrawn.
    pub(super) fn cancel_series(&mut self, series: u64, tags: &RangeInclusive<u64>) {
        let wanted = |entry: &Entry| {
            entry.slot.origin().is_some_and(|origin| origin.series == series && tags.contains(&origin.tag))
        };
        let numbers: Vec<u64> =
            self.entries.iter().filter(|(_, entry)| wanted(entry)).map(|(&number, _)| number).collect();
        for number in numbers {
            self.withdraw(number, Rejection::new(Code::Cancelled, "the caller has withdrawn the rollout"));
        }
    }

    /// The rollout of which the sidecar is to be told next that nobody waits for it.
    pub(super) fn next_cancel(&self) -> Option<u64> {
        self.cancels.front().copied()
    }

    /// The sidecar was told of [`Table::next_cancel`].
    pub(super) fn cancel_sent(&mut self) {
        self.cancels.pop_front();
    }

    /// The oldest rollout that is not on the lane.
    pub(super) fn first_waiting(&self) -> Option<u64> {
        self.waiting.first().copied()
    }

    /// Rollouts that are not on the lane.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Rollouts to which the sidecar owes an answer on the present lane, wanted or not.
    pub(super) fn in_flight(&self) -> usize {
        self.entries.len() - self.waiting.len() + self.discarded.len()
    }

    /// All rollouts.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether anything here needs a lane.
    pub(super) fn is_idle(&self) -> bool {
        self.entries.is_empty() && !self.card_wanted
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

    /// Answers a rollout here; the sidecar is to be told where it has it.
    fn withdraw(&mut self, number: u64, rejection: Rejection) {
        let sent = !self.waiting.contains(&number);
        let Some(entry) = self.remove(number) else { return };
        if sent {
            self.discarded.insert(number);
            self.cancels.push_back(number);
        }
        entry.resolve(Ok(Err(rejection)));
    }

    fn lose(&mut self, number: u64, now: Instant) -> bool {
        match self.entries.get_mut(&number) {
            Some(entry) if self.waiting.insert(number) => {
                entry.losses.begin_wait(now.into());
                true
            }
            _ => false,
        }
    }

    fn remove(&mut self, number: u64) -> Option<Entry> {
        let entry = self.entries.remove(&number)?;
        self.waiting.remove(&number);
        if let Some(deadline) = entry.deadline {
            self.deadlines.remove(&(deadline.at().into_std(), number));
        }
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::blocking::inbox::Inbox;
    use crate::rollout::Rollout;

    const MS: Duration = Duration::from_millis(1);

    fn insert(table: &mut Table, inbox: &Arc<Inbox>, tag: u64, deadline_ms: Option<u64>, now: Instant) -> u64 {
        let deadline = Deadline::new(now.into(), deadline_ms);
        table.insert(Entry::new(Arc::new(vec![Rollout::default()]), 0, inbox.slot(tag), deadline))
    }

    fn answers(inbox: &Inbox) -> Vec<(u64, Code)> {
        let mut answers = VecDeque::new();
        inbox.take(&mut answers);
        answers.into_iter().map(|(tag, answer)| (tag, answer.unwrap().unwrap_err().code)).collect()
    }

    fn rejected(code: Code) -> Answer {
        Ok(Err(Rejection::new(code, "because")))
    }

    #[test]
    fn a_passed_deadline_is_answered_here_and_the_late_answer_discarded() {
        let (mut table, inbox, now) = (Table::default(), Arc::new(Inbox::default()), Instant::now());
        let sent = insert(&mut table, &inbox, 1, Some(200), now);
        let waiting = insert(&mut table, &inbox, 2, Some(100), now);
        table.sent(sent, now);
        assert_eq!(table.next_deadline(), Some(now + 100 * MS));
        assert!(!table.expire(now + 99 * MS) && table.expire(now + 100 * MS) && !table.expire(now + 199 * MS));
        assert!(table.expire(now + 200 * MS));
        assert_eq!(answers(&inbox), [(2, Code::DeadlineExceeded), (1, Code::DeadlineExceeded)]);
        // The place of the one that was sent is free here; the sidecar still owes an answer, and is told once.
        assert_eq!((table.len(), table.in_flight(), table.next_cancel()), (0, 1, Some(sent)));
        table.cancel_sent();
        assert_eq!(table.next_cancel(), None);
        assert_eq!(table.reply(waiting, |_| rejected(Code::Lost)), Reply::Unknown);
        assert_eq!(table.reply(sent, |_| rejected(Code::Lost)), Reply::Discarded);
        assert_eq!(table.reply(sent, |_| rejected(Code::Lost)), Reply::Unknown);
        assert_eq!((table.in_flight(), answers(&inbox)), (0, vec![]));
    }

    #[test]
    fn one_series_is_withdrawn_by_its_tags() {
        let (mut table, now) = (Table::default(), Instant::now());
        let (inbox, other) = (Arc::new(Inbox::default()), Arc::new(Inbox::default()));
        let numbers: Vec<u64> = (0..4).map(|tag| insert(&mut table, &inbox, tag, None, now)).collect();
        let others = insert(&mut table, &other, 1, None, now);
        table.sent(numbers[1], now);
        table.cancel_series(inbox.series(), &(1..=2));
        assert_eq!(answers(&inbox), [(1, Code::Cancelled), (2, Code::Cancelled)]);
        assert_eq!((table.next_cancel(), table.in_flight(), table.waiting()), (Some(numbers[1]), 1, 3));
        assert!(table.get(others).is_some());
        // A sidecar that gives it back has nothing to give back any more.
        assert_eq!(table.returned(numbers[1], now), Reply::Discarded);
        // With the lane goes what was to be said on it.
        table.sent(numbers[0], now);
        table.cancel_series(inbox.series(), &(0..=0));
        table.disconnect(now);
        assert_eq!((table.next_cancel(), table.in_flight()), (None, 0));
    }

    /// Time on the lane of a sidecar that lives is no loss, however long, and neither are two short outages.
    #[test]
    fn only_time_without_a_lane_counts_and_only_after_several_losses() {
        let (mut table, inbox, mut now) = (Table::default(), Arc::new(Inbox::default()), Instant::now());
        let number = insert(&mut table, &inbox, 1, None, now);
        for outage in 1..=4 {
            table.sent(number, now);
            now += 1000 * MS;
            table.disconnect(now);
            now += 30 * MS;
            let lost = table.lost(100 * MS, now);
            assert_eq!(lost.len(), usize::from(outage == 4), "{outage}");
            if let [(lost, losses)] = &lost[..] {
                assert_eq!((*lost, losses.times, losses.waited), (number, 4, 120 * MS));
            }
        }
        // Lost long ago, but no more than twice.
        let number = insert(&mut table, &inbox, 2, None, now);
        for _ in 0..2 {
            table.sent(number, now);
            table.disconnect(now);
            now += 1000 * MS;
        }
        assert!(table.lost(100 * MS, now).iter().all(|(lost, _)| *lost != number));
    }

    #[test]
    fn a_rollout_that_was_given_back_waits_again() {
        let (mut table, inbox, now) = (Table::default(), Arc::new(Inbox::default()), Instant::now());
        let number = insert(&mut table, &inbox, 1, None, now);
        assert_eq!(table.returned(number, now), Reply::Unknown);
        table.sent(number, now);
        assert_eq!(table.returned(number, now), Reply::Answered);
        assert_eq!((table.first_waiting(), table.in_flight(), table.len()), (Some(number), 0, 1));
        table.sent(number, now);
        assert_eq!(
            table.reply(number, |entry| rejected(if entry.id().is_empty() { Code::Empty } else { Code::Lost })),
            Reply::Answered
        );
        assert_eq!(answers(&inbox), [(1, Code::Empty)]);
    }
}
