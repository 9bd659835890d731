//! Where the answers to one series of rollouts arrive, from whatever thread, for the one that waits for them.
//!
//! Invariant: a [`Slot`] puts one answer into its inbox, the server's or, when it is dropped, [`ClientError::Closed`].

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use crate::client::error::ClientError;
use crate::client::waiter::{Answer, Origin, Waiter};

/// The answers that have arrived and were not taken, each with the tag of its rollout.
#[derive(Debug)]
pub(super) struct Inbox {
    /// Unique in this process: names the series.
    series: u64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    answers: VecDeque<(u64, Answer)>,
    /// The client has been asked to tell when there is room.
    wants_room: bool,
    /// There may be room now.
    room: bool,
}

impl Default for Inbox {
    fn default() -> Self {
        static SERIES: AtomicU64 = AtomicU64::new(0);
        let series = SERIES.fetch_add(1, Ordering::Relaxed);
        Self { series, state: Mutex::default(), changed: Condvar::new() }
    }
}

impl Inbox {
    /// The number of the series, which no other has.
    pub(super) fn series(&self) -> u64 {
        self.series
    }

    /// A place for the answer to one more rollout.
    pub(super) fn slot(self: &Arc<Self>, tag: u64) -> Slot {
        Slot { inbox: Arc::downgrade(self), origin: Origin { series: self.series, tag } }
    }

    /// Puts an answer in.
    pub(super) fn put(&self, tag: u64, answer: Answer) {
        self.lock().answers.push_back((tag, answer));
        self.changed.notify_one();
    }

    /// Takes everything out, behind what is in `answers` already.
    pub(super) fn take(&self, answers: &mut VecDeque<(u64, Answer)>) {
        let mut state = self.lock();
        if answers.is_empty() {
            std::mem::swap(&mut state.answers, answers);
        } else {
            answers.append(&mut state.answers);
        }
    }

    /// Whether there is something to take out.
    pub(super) fn has_answers(&self) -> bool {
        !self.lock().answers.is_empty()
    }

    /// Asks the client to call [`Inbox::room`]; `false`: it has been asked already, and has not called yet.
    pub(super) fn call_for_room(&self) -> bool {
        !std::mem::replace(&mut self.lock().wants_room, true)
    }

    /// Tells the thread that waits that there may be room.
    pub(super) fn room(&self) {
        let mut state = self.lock();
        (state.wants_room, state.room) = (false, true);
        drop(state);
        self.changed.notify_one();
    }

    /// Waits for an answer or for room, but no longer than this.
    pub(super) fn wait(&self, longest: Duration) {
        let idle = |state: &mut State| state.answers.is_empty() && !state.room;
        let waited = self.changed.wait_timeout_while(self.lock(), longest, idle);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.room = false;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that holds the lock can panic with the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The way back of one rollout's answer.
#[derive(Debug)]
pub(super) struct Slot {
    /// Gone with the [`Answers`](super::Answers): then nobody waits any more.
    inbox: Weak<Inbox>,
    origin: Origin,
}

impl Slot {
    /// Gives the answer.
    pub(super) fn resolve(mut self, answer: Answer) {
        self.put(answer);
    }

    /// There will be no answer, since the rollout was not taken.
    pub(super) fn forget(mut self) {
        self.inbox = Weak::new();
    }

    fn put(&mut self, answer: Answer) {
        if let Some(inbox) = std::mem::take(&mut self.inbox).upgrade() {
            inbox.put(self.origin.tag, answer);
        }
    }
}

impl Waiter for Slot {
    fn is_gone(&self) -> bool {
        self.inbox.strong_count() == 0
    }

    fn answer(mut self: Box<Self>, answer: Answer) {
        self.put(answer);
    }

    fn origin(&self) -> Option<Origin> {
        Some(self.origin)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.put(Err(ClientError::Closed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reward::{Code, Rejection};

    fn taken(inbox: &Inbox) -> Vec<(u64, Answer)> {
        let mut answers = VecDeque::new();
        inbox.take(&mut answers);
        answers.into()
    }

    #[test]
    fn a_slot_answers_once() {
        let inbox = Arc::new(Inbox::default());
        let rejected: Answer = Ok(Err(Rejection::new(Code::Empty, "because")));
        Box::new(inbox.slot(7)).answer(rejected.clone());
        drop(inbox.slot(8));
        assert_eq!(taken(&inbox), [(7, rejected), (8, Err(ClientError::Closed))]);
        assert_eq!(taken(&inbox), []);
    }

    #[test]
    fn nobody_waits_behind_an_inbox_that_is_gone() {
        let inbox = Arc::new(Inbox::default());
        let slot = inbox.slot(1);
        assert!(!slot.is_gone());
        drop(inbox);
        assert!(slot.is_gone());
    }

    #[test]
    fn answers_are_taken_in_their_order_behind_those_before() {
        let inbox = Arc::new(Inbox::default());
        let mut answers = VecDeque::new();
        for tag in 0..3 {
            inbox.put(tag, Err(ClientError::Closed));
            inbox.take(&mut answers);
        }
        assert_eq!(answers.iter().map(|(tag, _)| *tag).collect::<Vec<_>>(), [0, 1, 2]);
    }

    #[test]
    fn waiting_ends_with_an_answer_with_room_or_in_time() {
        let (inbox, long) = (Arc::new(Inbox::default()), Duration::from_secs(3600));
        inbox.wait(Duration::ZERO);
        // Room is told once for each call.
        assert!(inbox.call_for_room() && !inbox.call_for_room());
        let telling = std::thread::spawn({
            let inbox = Arc::clone(&inbox);
            move || inbox.room()
        });
        inbox.wait(long);
        telling.join().unwrap();
        assert!(inbox.call_for_room());
        let answering = std::thread::spawn({
            let slot = inbox.slot(3);
            move || drop(slot)
        });
        inbox.wait(long);
        answering.join().unwrap();
        assert_eq!(taken(&inbox).len(), 1);
    }
}
