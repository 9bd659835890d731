//! The answers of one lane.
//!
//! Invariants: answering never waits. An answer goes into the reward ring, or, where that is full, which only answers with many
//! reads and new cards can make it, into a queue that the poller empties as the client reads. And no rewards go out before the
//! generation that they bear was announced.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::task::AbortHandle;

use super::Control;
use super::generation::{Generation, Generations};
use super::unread::Unread;
use crate::proto::code_to_wire;
use crate::reward::{Code, Outcome, Rejection};
use crate::shm::Broken;
use crate::shm::frame::rewards_words;
use crate::shm::lane::RewardSender;
use crate::sidecar::{Cancellation, Interest, Ticket};

/// See the module. Tickets have it, and the lane.
#[derive(Debug)]
pub(super) struct Outbox {
    control: Arc<Control>,
    generations: Arc<Generations>,
    /// `None` once the lane is closed: its memory is not kept for answers that nobody will read.
    open: Mutex<Option<Open>>,
}

#[derive(Debug)]
struct Open {
    rewards: RewardSender,
    /// What found no room, in its order.
    overflow: VecDeque<Message>,
    /// By the client's number.
    unanswered: HashMap<u64, Withdrawal>,
    unread: Unread,
    /// The latest generation that the client has been told of, or will be by what waits in `overflow`.
    announced: u64,
    in_flight_limit: usize,
    /// Words set aside for each rollout.
    reply_words: usize,
    /// The poller waits for an answer, or for the queue to be emptied.
    waited_for: bool,
    broken: Option<Broken>,
}

/// What goes into the reward ring.
#[derive(Debug)]
enum Message {
    Answer(u64, Outcome),
    /// A generation's card from this byte on.
    Card(Arc<Generation>, usize),
}

/// How an unanswered rollout is withdrawn.
#[derive(Debug)]
struct Withdrawal {
    cancellation: Cancellation,
    /// Its way through intake, where it has to wait there.
    deferral: Option<AbortHandle>,
}

/// How much a lane sets aside.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reserve {
    /// Most rollouts that may be unanswered.
    pub(super) in_flight_limit: usize,
    /// Words of the reward ring for each of them.
    pub(super) reply_words: usize,
}

impl Outbox {
    /// Of a lane whose client knows the generation `announced`.
    pub(super) fn new(
        rewards: RewardSender,
        reserve: Reserve,
        announced: u64,
        generations: Arc<Generations>,
        control: Arc<Control>,
    ) -> Self {
        let open = Open {
            rewards,
            overflow: VecDeque::new(),
            unanswered: HashMap::new(),
            unread: Unread::default(),
            announced,
            in_flight_limit: reserve.in_flight_limit,
            reply_words: reserve.reply_words,
            waited_for: false,
            broken: None,
        };
        Self { control, generations, open: Mutex::new(Some(open)) }
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
    pub(super) fn ticket(self: &Arc<Self>, number: u64, interest: &Interest) -> Result<Ticket, Broken> {
        let cancellation = Cancellation::default();
        if let Some(open) = &mut *self.lock() {
            open.add(number, cancellation.clone())?;
        }
        let outbox = Arc::clone(self);
        let ticket = Ticket::new(interest.clone(), move |outcome| outbox.answer(number, outcome));
        Ok(ticket.cancelled_by(cancellation))
    }

    /// The rollout has to wait in intake, and `deferral` ends that.
    pub(super) fn defer(&self, number: u64, deferral: AbortHandle) {
        if let Some(open) = &mut *self.lock()
            && let Some(withdrawal) = open.unanswered.get_mut(&number)
        {
            withdrawal.deferral = Some(deferral);
        }
    }

    /// Withdraws a rollout; whether it was unanswered. Call [`Intake::sweep`](crate::sidecar::Intake::sweep) after one or
    /// several.
    pub(super) fn cancel(&self, number: u64) -> bool {
        let deferral = {
            let mut open = self.lock();
            let Some(open) = &mut *open else { return false };
            let Some(withdrawal) = open.unanswered.get_mut(&number) else {
                open.unread.withdrawn(number);
                return false;
            };
            withdrawal.cancellation.cancel();
            withdrawal.deferral.take()
        };
        if let Some(deferral) = deferral {
            deferral.abort();
        }
        true
    }

    fn answer(&self, number: u64, outcome: Outcome) {
        let mut open = self.lock();
        // The client is gone.
        let Some(open) = &mut *open else { return };
        open.unanswered.remove(&number);
        if let Err(broken) = open.send_answer(number, outcome, &self.generations) {
            open.broken.get_or_insert(broken);
            open.waited_for = true;
        }
        if std::mem::take(&mut open.waited_for) {
            self.control.ring();
        }
    }

    /// Announces the latest generation, if the client has not been told of it.
    pub(super) fn announce_latest(&self) -> Result<(), Broken> {
        match &mut *self.lock() {
            Some(open) => open.announce(self.generations.latest()),
            None => Ok(()),
        }
    }

    /// Sends what found no room before, as far as there is some now.
    pub(super) fn flush(&self) -> Result<(), Broken> {
        match &mut *self.lock() {
            Some(open) => open.flush(),
            None => Ok(()),
        }
    }

    /// Whether every rollout is answered, and every answer that somebody waits for has been read. Where not, the poller will be
    /// rung for when that may have changed.
    pub(super) fn is_finished_or_rings(&self) -> Result<bool, Broken> {
        let mut open = self.lock();
        let Some(open) = &mut *open else { return Ok(true) };
        open.flush()?;
        if open.is_finished()? {
            return Ok(true);
        }
        open.rewards.want_room();
        open.waited_for = true;
        open.flush()?;
        open.is_finished()
    }

    /// Answers that somebody waits for and that the client has not read.
    pub(super) fn undelivered(&self) -> usize {
        match &mut *self.lock() {
            // Of a client that broke the lane's rules nobody knows what it has read.
            Some(open) => open.undelivered().unwrap_or(0),
            None => 0,
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
        let reserved = (self.unanswered.len() + 1) * self.reply_words;
        Ok(self.unanswered.len() < self.in_flight_limit
            && self.overflow.is_empty()
            && self.rewards.used()? + reserved <= self.rewards.capacity())
    }

    fn add(&mut self, number: u64, cancellation: Cancellation) -> Result<(), Broken> {
        match self.unanswered.entry(number) {
            Entry::Vacant(entry) => {
                entry.insert(Withdrawal { cancellation, deferral: None });
                Ok(())
            }
            Entry::Occupied(_) => Err(Broken::Count("a rollout bears the number of another that is unanswered")),
        }
    }

    fn send_answer(&mut self, number: u64, outcome: Outcome, generations: &Generations) -> Result<(), Broken> {
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
        if let Ok(rewards) = &outcome
            && rewards.generation > self.announced
        {
            self.announce(generations.bearing(rewards))?;
        }
        self.send(Message::Answer(number, outcome))
    }

    fn announce(&mut self, generation: Arc<Generation>) -> Result<(), Broken> {
        if generation.number <= self.announced {
            return Ok(());
        }
        self.announced = generation.number;
        self.send(Message::Card(generation, 0))
    }

    fn send(&mut self, mut message: Message) -> Result<(), Broken> {
        if !self.overflow.is_empty() || !self.write(&mut message)? {
            self.overflow.push_back(message);
            // The poller is to empty it.
            self.waited_for = true;
        }
        Ok(())
    }

    /// Writes the message, or as much of it as there is room for; whether that was all.
    fn write(&mut self, message: &mut Message) -> Result<bool, Broken> {
        match message {
            Message::Answer(number, outcome) => {
                let sent = match outcome {
                    Ok(rewards) => self.rewards.rewards(*number, rewards)?,
                    Err(rejection) => {
                        self.rewards.rejection(*number, code_to_wire(rejection.code) as u32, &rejection.message)?
                    }
                };
                if sent && is_waited_for(outcome) {
                    let read = self.rewards.read()?;
                    self.unread.published(*number, self.rewards.published(), read);
                }
                Ok(sent)
            }
            Message::Card(generation, at) => {
                let (card, part_bytes) = (&generation.card, self.rewards.card_part_bytes());
                loop {
                    let part = &card[*at..card.len().min(*at + part_bytes)];
                    if !self.rewards.card(generation.number, card.len(), part)? {
                        return Ok(false);
                    }
                    *at += part.len();
                    if *at == card.len() {
                        return Ok(true);
                    }
                }
            }
        }
    }

    fn flush(&mut self) -> Result<(), Broken> {
        if let Some(broken) = &self.broken {
            return Err(broken.clone());
        }
        while let Some(mut message) = self.overflow.pop_front() {
            if !self.write(&mut message)? {
                self.overflow.push_front(message);
                break;
            }
        }
        Ok(())
    }

    fn undelivered(&mut self) -> Result<usize, Broken> {
        let waits = |message: &&Message| matches!(message, Message::Answer(_, outcome) if is_waited_for(outcome));
        let read = self.rewards.read()?;
        Ok(self.overflow.iter().filter(waits).count() + self.unread.count(read))
    }

    fn is_finished(&mut self) -> Result<bool, Broken> {
        Ok(self.unanswered.is_empty() && self.undelivered()? == 0)
    }
}

/// Whether a caller waits for this answer: one who was told to ask elsewhere, or has withdrawn the rollout, does not.
fn is_waited_for(outcome: &Outcome) -> bool {
    !matches!(outcome, Err(Rejection { code: Code::Draining | Code::Cancelled, .. }))
}

#[cfg(test)]
#[path = "outbox_tests.rs"]
mod tests;
