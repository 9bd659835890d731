//! The lane arm: a client whose own threads do all the work, and which has none of its own.
//!
//! Whoever submits writes into the rollout ring, under a lock. Of those who wait, one at a time is the *reader*: it watches
//! the reward ring (spinning first, then asleep on the lane's bell), hands each answer to the inbox that waits for it, dials
//! again when the sidecar is gone, and asks again what is unanswered. Whoever stops reading wakes the others, one of whom goes
//! on. So a client with one thread pays for no hand-over at all.
//!
//! Invariant: what was taken is answered, by the sidecar or by a [`ClientError`], as long as anybody waits.

mod options;
mod reader;
mod table;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use self::options::Options;
use self::reader::Reader;
use self::table::{Question, Table};
use super::inbox::Inbox;
use super::{Check, PULSE, Stopped, Wire, no_ids};
use crate::client::waiter::Waiter as _;
use crate::client::{BackOff, Builder, ClientError, ServedModel};
use crate::reward::{Code, Rejection};
use crate::rollout::{RolloutRef, Rollouts};
use crate::shm::Broken;
use crate::shm::lane::RolloutSender;

/// How long a reader watches the ring before it sleeps, where the user does not say. On cores that are shared with the
/// sidecar every microsecond of watching is taken from its work.
const SPIN: Duration = Duration::ZERO;

/// How long a thread waits at most where there is nothing to read.
const IDLE: Duration = Duration::from_millis(1);

/// One lane, made anew whenever it is lost.
#[derive(Debug)]
pub(super) struct Lane {
    config: Config,
    shared: Mutex<Shared>,
}

/// What a lane client is made with.
#[derive(Debug)]
struct Config {
    address: Arc<str>,
    path: PathBuf,
    spin: Duration,
    in_flight_limit: usize,
    back_off: BackOff,
    deadline_ms: Option<u64>,
}

/// What the client's threads share.
#[derive(Debug)]
struct Shared {
    table: Table,
    /// The way out, while there is a lane.
    sending: Option<Sending>,
    card: Option<Arc<ServedModel>>,
    /// Whoever takes it is the reader.
    reader: Option<Reader>,
    /// Those who wait for the reader.
    followers: Vec<Weak<Inbox>>,
    /// A record of so many bytes found no room.
    wants_room: Option<usize>,
}

/// The sending half of a lane.
#[derive(Debug)]
struct Sending {
    rollouts: RolloutSender,
    options: Options,
    in_flight_limit: usize,
    /// Of the sidecar, which takes no more on this lane.
    draining: bool,
}

/// What became of a rollout that was to be asked.
enum Asked {
    Yes,
    NoRoom,
    /// It is answered already.
    Settled,
}

impl Lane {
    /// A client that connects when it is first waited for.
    pub(super) fn new(builder: &Builder, spin: Option<Duration>, path: &Path) -> Self {
        let config = Config {
            address: builder.address.as_str().into(),
            path: path.to_owned(),
            // Whoever waits is asked as often whether to go on; and the clock can say it.
            spin: spin.unwrap_or(SPIN).min(PULSE),
            in_flight_limit: builder.in_flight_limit,
            back_off: builder.back_off,
            deadline_ms: builder.deadline.map(|deadline| deadline.as_millis() as u64),
        };
        let shared = Shared {
            table: Table::default(),
            sending: None,
            card: None,
            reader: Some(Reader::default()),
            followers: Vec::new(),
            wants_room: None,
        };
        Self { config, shared: Mutex::new(shared) }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        // Nothing that holds the lock leaves it half changed: a panic there is a mistake in a record's length, before the
        // record exists.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads, dials and asks again, or waits for the thread that does, until there is news or `longest` has passed.
    fn turn(&self, inbox: &Arc<Inbox>, longest: Duration) {
        let mut shared = self.lock();
        if shared.table.is_idle() {
            // Whatever this thread waits for is in its inbox by now, and nobody is kept from reading meanwhile.
            drop(shared);
            return inbox.wait(longest.min(IDLE));
        }
        // Another reader may have had this thread's answer since it last looked. The next one to come may be long.
        if inbox.has_answers() {
            return;
        }
        let Some(reader) = shared.reader.take() else {
            shared.followers.push(Arc::downgrade(inbox));
            drop(shared);
            return inbox.wait(longest);
        };
        drop(shared);
        // Given back however this ends.
        let mut turn = Turn { lane: self, reader: Some(reader) };
        if let Some(reader) = &mut turn.reader {
            reader.read(self, inbox, longest);
        }
    }
}

/// The reader's time.
struct Turn<'a> {
    lane: &'a Lane,
    reader: Option<Reader>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut shared = self.lane.lock();
        shared.reader = self.reader.take();
        shared.wake_followers();
    }
}

impl Shared {
    fn wake_followers(&mut self) {
        for follower in self.followers.drain(..) {
            if let Some(inbox) = follower.upgrade() {
                inbox.room();
            }
        }
    }

    /// Puts question `number` on the lane. It stays in the table unless it could be answered here.
    fn ask(&mut self, number: u64, config: &Config, now: Instant) -> Result<Asked, Broken> {
        let (Some(sending), Some(question)) = (&mut self.sending, self.table.get(number)) else {
            return Ok(Asked::NoRoom);
        };
        if question.slot.is_gone() {
            self.table.forget(number);
            return Ok(Asked::Settled);
        }
        let rollouts = Arc::clone(&question.rollouts);
        let mut rollout = rollouts.get(question.index);
        rollout.deadline_ms = rollout.deadline_ms.or(config.deadline_ms);
        // The sidecar counts from its receipt, the caller from the submission.
        if let Some(deadline_ms) = rollout.deadline_ms {
            let left =
                Duration::from_millis(deadline_ms).saturating_sub(now.saturating_duration_since(question.issued));
            rollout.deadline_ms = Some(left.as_millis() as u64);
            if left.is_zero() {
                let message = format!("{deadline_ms} ms passed before the rollout could be sent");
                self.table.settle(number, Ok(Err(Rejection::new(Code::DeadlineExceeded, message))));
                return Ok(Asked::Settled);
            }
        }
        let (bytes, most) = (RolloutSender::bytes_of(&rollout), sending.rollouts.most_bytes());
        if bytes > most {
            let message = format!(
                "the rollout has {bytes} bytes on a lane that holds {most}; serve with a larger shm_ring_bytes, or send it over gRPC"
            );
            self.table.settle(number, Ok(Err(Rejection::new(Code::TooLong, message))));
            return Ok(Asked::Settled);
        }
        match sending.send(number, &rollout)? {
            Ok(true) => {
                self.table.was_asked(number);
                Ok(Asked::Yes)
            }
            Ok(false) => {
                self.wants_room = Some(sending.options.unknown_bytes(rollout.aggregation).unwrap_or(bytes));
                Ok(Asked::NoRoom)
            }
            Err(rejection) => {
                self.table.settle(number, Ok(Err(rejection)));
                Ok(Asked::Settled)
            }
        }
    }
}

impl Sending {
    /// Writes a rollout, and what its options mean where that is new. `Ok(Ok(false))`: there is no room, and the sidecar has
    /// been asked to ring when there is.
    fn send(&mut self, number: u64, rollout: &RolloutRef) -> Result<Result<bool, Rejection>, Broken> {
        match self.try_send(number, rollout)? {
            Ok(false) => {
                self.rollouts.want_room();
                // It may have been made meanwhile.
                self.try_send(number, rollout)
            }
            sent => Ok(sent),
        }
    }

    fn try_send(&mut self, number: u64, rollout: &RolloutRef) -> Result<Result<bool, Rejection>, Broken> {
        match self.options.number_of(rollout.aggregation, &mut self.rollouts)? {
            Ok(Some(options)) => self.rollouts.rollout(number, options, rollout).map(Ok),
            Ok(None) => Ok(Ok(false)),
            Err(rejection) => Ok(Err(rejection)),
        }
    }
}

impl Wire for Lane {
    fn address(&self) -> &str {
        &self.config.address
    }

    fn card(&self, check: Check<'_>) -> Result<Arc<ServedModel>, Stopped> {
        let inbox = Arc::new(Inbox::default());
        let asked = {
            let mut shared = self.lock();
            if let Some(card) = &shared.card {
                return Ok(Arc::clone(card));
            }
            shared.table.want_card()
        };
        loop {
            {
                let shared = self.lock();
                if let Some(card) = &shared.card {
                    return Ok(Arc::clone(card));
                }
                if let Some(error) = shared.table.given_up_since(asked) {
                    return Err(error.into());
                }
            }
            if !check() {
                return Err(Stopped::Interrupted);
            }
            self.turn(&inbox, PULSE);
        }
    }

    fn try_submit(
        &self,
        inbox: &Arc<Inbox>,
        rollouts: &Arc<dyn Rollouts>,
        index: usize,
        tag: u64,
        issued: Instant,
    ) -> Result<bool, ClientError> {
        let slot = inbox.slot(tag);
        if let Err(bad) = rollouts.get(index).check_ids() {
            slot.settle(Ok(Err(no_ids(bad))));
            return Ok(true);
        }
        let mut shared = self.lock();
        let limit = shared.sending.as_ref().map_or(self.config.in_flight_limit, |sending| sending.in_flight_limit);
        let lane = shared.sending.as_ref().is_some_and(|sending| !sending.draining);
        // Those who wait to be asked again go first.
        if shared.table.len() >= limit || (lane && shared.table.unasked() > 0) {
            shared.wants_room.get_or_insert(0);
            slot.forget();
            return Ok(false);
        }
        let number = shared.table.insert(Question::new(Arc::clone(rollouts), index, slot, issued));
        if lane {
            match shared.ask(number, &self.config, issued) {
                Ok(Asked::Yes | Asked::Settled) => {}
                Ok(Asked::NoRoom) => {
                    shared.table.take_back(number);
                    return Ok(false);
                }
                // The reader finds that out as well, once it looks for room, and asks again over the next lane.
                Err(_) => shared.wants_room = Some(1),
            }
        }
        Ok(true)
    }

    fn wait(&self, inbox: &Arc<Inbox>, longest: Duration) {
        // A sidecar that dies rings no bell: whether it is there is looked at between two waits.
        self.turn(inbox, longest.min(PULSE));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Client as TaskClient;
    use crate::engine::{EchoEngine, Engine as _};

    fn lane() -> Lane {
        Lane::new(&TaskClient::builder("shm:///nowhere"), None, Path::new("/nowhere"))
    }

    #[test]
    fn whoever_has_an_answer_neither_reads_nor_follows() {
        let (lane, inbox) = (lane(), Arc::new(Inbox::default()));
        {
            let mut shared = lane.lock();
            // There is something to read for others, and another thread at it.
            shared.table.want_card();
            shared.reader = None;
        }
        inbox.slot(7).settle(Err(ClientError::Closed));
        lane.turn(&inbox, PULSE);
        assert!(lane.lock().followers.is_empty());
    }

    #[test]
    fn a_card_that_is_known_is_not_wanted() {
        let lane = lane();
        let model = EchoEngine::new(16).card().as_ref().clone();
        let served = ServedModel { model, in_flight_limit: 4, over_long: "reject".into(), aggregations: Vec::new() };
        lane.lock().card = Some(Arc::new(served.clone()));
        assert_eq!(lane.card(&mut || false), Ok(Arc::new(served)));
        assert!(lane.lock().table.is_idle());
    }
}
