//! The lane arm: a client whose own threads do all the work, and which has none of its own.
//!
//! A thread that submits writes into the rollout ring, under a lock. Of the threads that wait, one at a time is the *reader*:
//! it watches the reward ring (spinning first, then asleep on the lane's bell), hands each answer to the inbox that waits for
//! it, answers by itself what is too late, connects again when the sidecar is gone or hangs, and sends again what is
//! unanswered. A thread that stops reading wakes the others, one of which goes on. So a client with one thread pays for no
//! hand-over at all.
//!
//! Invariant: what was taken is answered, by the sidecar, by its deadline or by a [`ClientError`], as long as a thread waits.

mod generations;
mod options;
mod reader;
mod sending;
mod table;

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use self::reader::Reader;
use self::sending::{Sending, Sent};
use self::table::{Entry, Table};
use super::inbox::Inbox;
use super::{Check, PULSE, Stopped, Wire, no_ids};
use crate::client::command::UNCONNECTED;
use crate::client::deadline::Deadline;
use crate::client::{BackOff, Builder, ClientError, ServedModel};
use crate::reward::{Code, Rejection};
use crate::rollout::Rollouts;
use crate::shm::heartbeat::LONGEST_PAUSE;

/// How long a reader watches the ring before it sleeps, where the user does not say. On cores that are shared with the
/// sidecar every microsecond of watching is taken from its work.
const SPIN: Duration = Duration::ZERO;

/// How long the sidecar's heartbeat may stand still before the sidecar counts as lost, where the user does not say: long
/// enough for a machine that is short of cores, since what is lost is asked again.
const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(8);

/// How long a thread waits at most where there is nothing to read.
const IDLE: Duration = Duration::from_millis(1);

/// One lane, made anew whenever it is lost.
#[derive(Debug)]
pub(super) struct Lane {
    config: Config,
    shared: Mutex<Shared>,
}

/// What the user has said of lanes in particular.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct LaneOptions {
    pub(super) spin: Option<Duration>,
    pub(super) heartbeat_timeout: Option<Duration>,
}

/// What a lane client is made with.
#[derive(Debug)]
struct Config {
    address: Arc<str>,
    path: PathBuf,
    spin: Duration,
    heartbeat_timeout: Duration,
    in_flight_limit: usize,
    back_off: BackOff,
    deadline_ms: Option<u64>,
    socket_timeout: Duration,
}

/// What the client's threads share.
#[derive(Debug)]
struct Shared {
    table: Table,
    /// The way out, while there is a lane.
    sending: Option<Sending>,
    card: Option<Arc<ServedModel>>,
    /// The thread that takes it is the reader.
    reader: Option<Reader>,
    /// The inboxes of threads that wait for the reader.
    followers: Vec<Weak<Inbox>>,
    /// A record of so many bytes found no room.
    wants_room: Option<usize>,
}

impl Lane {
    /// A client that connects when it is first waited for.
    pub(super) fn new(builder: &Builder, own: LaneOptions, path: &Path) -> Self {
        let config = Config {
            address: builder.address.as_str().into(),
            path: path.to_owned(),
            // A thread that waits asks as often whether to go on; and the clock can say it.
            spin: own.spin.unwrap_or(SPIN).min(PULSE),
            heartbeat_timeout: own.heartbeat_timeout.unwrap_or(HEARTBEAT_TIMEOUT).max(LONGEST_PAUSE),
            in_flight_limit: builder.in_flight_limit,
            back_off: builder.back_off,
            deadline_ms: builder.deadline.map(|deadline| deadline.as_millis() as u64),
            socket_timeout: builder.socket_timeout,
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

    /// The deadline of a rollout that was submitted then.
    fn deadline(&self, issued: Instant, own_ms: Option<u64>) -> Option<Deadline> {
        Deadline::new(issued.into(), own_ms.or(self.config.deadline_ms))
    }

    /// Reads, connects and sends again, or waits for the thread that does, until there is news or `longest` has passed.
    fn wait_or_read(&self, inbox: &Arc<Inbox>, longest: Duration) {
        let mut shared = self.lock();
        shared.expire(&self.config);
        if shared.table.is_idle() {
            // What this thread waits for is in its inbox by now, and nobody is kept from reading meanwhile.
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
        // Some of what waits may be too late before anything comes.
        let deadline = shared.table.next_deadline();
        drop(shared);
        let until = deadline.map_or(longest, |at| at.saturating_duration_since(Instant::now()).min(longest));
        // Given back however this ends.
        let mut tenure = Tenure { lane: self, reader: Some(reader) };
        if let Some(reader) = &mut tenure.reader {
            reader.read(self, inbox, until);
        }
    }
}

/// The time for which a thread is the reader.
struct Tenure<'a> {
    lane: &'a Lane,
    reader: Option<Reader>,
}

impl Drop for Tenure<'_> {
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

    /// Answers what is too late, and tells the sidecar.
    fn expire(&mut self, config: &Config) {
        let Some(deadline) = self.table.next_deadline() else { return };
        let now = Instant::now();
        if deadline <= now && self.table.expire(now) {
            self.places_are_free(config, now);
        }
    }

    /// Rollouts were answered here: the sidecar is told, and others may be sent.
    fn places_are_free(&mut self, config: &Config, now: Instant) {
        // What is broken the reader finds as well, once it looks for room.
        if self.send_waiting(config, now).is_err() {
            self.wants_room = Some(1);
        }
        self.wake_followers();
    }
}

/// A lane's records carry no model's name.
fn names_no_model(model: &str) -> Result<(), Rejection> {
    if model.is_empty() {
        return Ok(());
    }
    let what = format!(
        "model: '{model}' cannot be asked for over a lane, which is the server's first model's; use grpc:// or unix://"
    );
    Err(Rejection::new(Code::BadOption, what))
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
            self.wait_or_read(&inbox, PULSE);
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
        let rollout = rollouts.get(index);
        if let Err(bad) = rollout.check_ids() {
            slot.resolve(Ok(Err(no_ids(bad))));
            return Ok(true);
        }
        // On the lane they are cut to little more than the limit, and the sidecar would not know how long they were.
        if let Err(rejection) = rollout.check_names().and_then(|()| names_no_model(rollout.model)) {
            slot.resolve(Ok(Err(rejection)));
            return Ok(true);
        }
        let deadline = self.deadline(issued, rollout.deadline_ms);
        let now = Instant::now();
        if let Some(deadline) = deadline.filter(|deadline| deadline.has_passed(now.into())) {
            slot.resolve(Ok(Err(deadline.rejection())));
            return Ok(true);
        }
        let mut shared = self.lock();
        let unconnected = self.config.in_flight_limit.min(UNCONNECTED);
        let limit = shared.sending.as_ref().map_or(unconnected, |sending| sending.in_flight_limit);
        let lane = shared.sending.as_ref().is_some_and(|sending| !sending.draining);
        // Those that wait to be sent go first.
        if shared.table.len() >= limit || (lane && shared.table.waiting() > 0) {
            shared.wants_room.get_or_insert(0);
            slot.forget();
            return Ok(false);
        }
        let number = shared.table.insert(Entry::new(Arc::clone(rollouts), index, slot, deadline));
        // The sidecar owes answers that nobody waits for any more: the rollout is sent once it has given them.
        if lane && shared.table.in_flight() < limit {
            match shared.send(number, &self.config, now) {
                Ok(Sent::Yes | Sent::Resolved) => {}
                Ok(Sent::NoRoom) => {
                    shared.table.forget(number);
                    return Ok(false);
                }
                // The reader finds that out as well, once it looks for room, and sends again over the next lane.
                Err(_) => shared.wants_room = Some(1),
            }
        }
        Ok(true)
    }

    fn wait(&self, inbox: &Arc<Inbox>, longest: Duration) {
        // A sidecar that dies rings no bell: whether it is there is looked at between two waits.
        self.wait_or_read(inbox, longest.min(PULSE));
    }

    fn cancel(&self, inbox: &Inbox, tags: RangeInclusive<u64>) {
        let mut shared = self.lock();
        shared.table.cancel_series(inbox.series(), &tags);
        shared.places_are_free(&self.config, Instant::now());
    }

    fn known_card(&self) -> Option<Arc<ServedModel>> {
        self.lock().card.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Client as TaskClient;
    use crate::engine::{EchoEngine, Engine as _};

    fn lane() -> Lane {
        Lane::new(&TaskClient::builder("shm:///nowhere"), LaneOptions::default(), Path::new("/nowhere"))
    }

    #[test]
    fn a_thread_that_has_an_answer_neither_reads_nor_follows() {
        let (lane, inbox) = (lane(), Arc::new(Inbox::default()));
        {
            let mut shared = lane.lock();
            // There is something to read for others, and another thread at it.
            shared.table.want_card();
            shared.reader = None;
        }
        inbox.slot(7).resolve(Err(ClientError::Closed));
        lane.wait_or_read(&inbox, PULSE);
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
