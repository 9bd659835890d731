//! The answers of one lane.
//!
//! Invariant: whoever answers never waits. An answer goes into the reward ring, or, where that is full, which only answers
//! with many reads can make it, into a queue that the poller empties as the client reads.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Control;
use crate::proto::code_to_wire;
use crate::reward::{Code, Outcome, Rejection};
use crate::shm::Broken;
use crate::shm::frame::{rejection_words, rewards_words};
use crate::shm::lane::RewardSender;
use crate::shm::layout::HEADER;
use crate::sidecar::{Interest, Ticket};

/// See the module. Tickets have it, and the lane.
#[derive(Debug)]
pub(super) struct Outbox {
    control: Arc<Control>,
    /// `None` once the lane is closed: its memory is not kept for answers that nobody will read.
    open: Mutex<Option<Open>>,
}

#[derive(Debug)]
struct Open {
    rewards: RewardSender,
    /// Answers that found no room, in their order.
    overflow: VecDeque<(u64, Outcome)>,
    /// Their words in the ring.
    overflow_words: usize,
    unanswered: usize,
    in_flight_limit: usize,
    /// Words set aside for each rollout.
    reply_words: usize,
    /// The poller waits for an answer, or for the queue to be emptied.
    waited_for: bool,
    broken: Option<Broken>,
}

impl Outbox {
    pub(super) fn new(
        rewards: RewardSender,
        in_flight_limit: usize,
        reply_words: usize,
        control: Arc<Control>,
    ) -> Self {
        let open = Open {
            rewards,
            overflow: VecDeque::new(),
            overflow_words: 0,
            unanswered: 0,
            in_flight_limit,
            reply_words,
            waited_for: false,
            broken: None,
        };
        Self { control, open: Mutex::new(Some(open)) }
    }

    /// Whether one more rollout may be admitted: there is room for its answer.
    pub(super) fn admits(&self) -> Result<bool, Broken> {
        match &mut *self.lock() {
            Some(open) => open.admits(),
            None => Ok(false),
        }
    }

    /// As [`Self::admits`]; where it may not, the poller will be rung for when that has changed.
    pub(super) fn admits_or_rings(&self) -> Result<bool, Broken> {
        let mut open = self.lock();
        let Some(open) = &mut *open else { return Ok(false) };
        if open.admits()? {
            return Ok(true);
        }
        open.rewards.want_room();
        open.waited_for = true;
        open.flush()?;
        open.admits()
    }

    /// The ticket of an admitted rollout.
    pub(super) fn ticket(self: &Arc<Self>, number: u64, interest: &Interest) -> Ticket {
        if let Some(open) = &mut *self.lock() {
            open.unanswered += 1;
        }
        let outbox = Arc::clone(self);
        Ticket::new(interest.clone(), move |outcome| outbox.answer(number, outcome))
    }

    fn answer(&self, number: u64, outcome: Outcome) {
        let mut open = self.lock();
        // Nobody listens any more.
        let Some(open) = &mut *open else { return };
        open.unanswered -= 1;
        if let Err(broken) = open.send(number, outcome) {
            open.broken.get_or_insert(broken);
            open.waited_for = true;
        }
        if std::mem::take(&mut open.waited_for) {
            self.control.ring();
        }
    }

    /// Sends what found no room before, as far as there is some now.
    pub(super) fn flush(&self) -> Result<(), Broken> {
        match &mut *self.lock() {
            Some(open) => open.flush(),
            None => Ok(()),
        }
    }

    /// No answer goes out any more.
    pub(super) fn close(&self) {
        self.lock().take();
    }

    fn lock(&self) -> MutexGuard<'_, Option<Open>> {
        // A record that was begun and not published never was, and nothing else is half done.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    fn admits(&mut self) -> Result<bool, Broken> {
        let promised = self.overflow_words + (self.unanswered + 1) * self.reply_words;
        Ok(self.unanswered < self.in_flight_limit
            && self.overflow.is_empty()
            && self.rewards.used()? + promised <= self.rewards.capacity())
    }

    fn send(&mut self, number: u64, outcome: Outcome) -> Result<(), Broken> {
        let outcome = match outcome {
            Ok(rewards) if !self.rewards.fits(rewards_words(&rewards)) => Err(Rejection::new(
                Code::TooLong,
                format!(
                    "the rollout was scored, but its {} reads are more than this lane can carry; send it over gRPC",
                    rewards.reads.len()
                ),
            )),
            outcome => outcome,
        };
        if !self.overflow.is_empty() || !self.write(number, &outcome)? {
            self.overflow_words += words(&outcome);
            self.overflow.push_back((number, outcome));
            // The poller is to empty it.
            self.waited_for = true;
        }
        Ok(())
    }

    fn write(&mut self, number: u64, outcome: &Outcome) -> Result<bool, Broken> {
        match outcome {
            Ok(rewards) => self.rewards.rewards(number, rewards),
            Err(rejection) => self.rewards.rejection(number, code_to_wire(rejection.code) as u32, &rejection.message),
        }
    }

    fn flush(&mut self) -> Result<(), Broken> {
        if let Some(broken) = &self.broken {
            return Err(broken.clone());
        }
        while let Some((number, outcome)) = self.overflow.pop_front() {
            if !self.write(number, &outcome)? {
                self.overflow.push_front((number, outcome));
                break;
            }
            self.overflow_words -= words(&outcome);
        }
        Ok(())
    }
}

fn words(outcome: &Outcome) -> usize {
    HEADER
        + match outcome {
            Ok(rewards) => rewards_words(rewards),
            Err(rejection) => rejection_words(&rejection.message),
        }
}
