//! The reader of a lane client: the one of its threads that reads at the time.
//!
//! Invariant: between two readers nothing is lost. What the reader knows of the lane lies in [`Reader`], what all threads
//! know in [`Shared`], and the rings keep the rest.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::generations::{Generations, decoded};
use super::table::Reply as Known;
use super::{Config, Lane, Sending, Shared, table};
use crate::client::back_off::{TELL, random};
use crate::client::blocking::inbox::Inbox;
use crate::client::{Answer, BadReply, ClientError, ServedModel};
use crate::proto::code_from_wire;
use crate::reward::{Code, Rejection, Rewards};
use crate::shm::Broken;
use crate::shm::frame::Reply;
use crate::shm::handshake::{Greeting, HandshakeError, Opened, SocketOwner};
use crate::shm::heartbeat::HeartbeatWatch;
use crate::shm::lane::{ClientBell, ClientEnd, ClientLine, RewardReceiver, SidecarBell};

/// Longest wait for a sidecar's answer to a greeting. It gives one at once, unless it hangs.
const GREETING_TIME: Duration = Duration::from_secs(2);

/// When nobody has tried to connect for this long after the time for it, and for the back-off's budget, nobody waits for
/// it any more. A thread that waits tries within 50 ms, or is kept from it by a busy machine.
const UNATTENDED: Duration = Duration::from_secs(5);

/// Answers that are handed out under one lock.
const HANDFUL: usize = 256;

/// Looks at the ring between two looks at the clock: reading the clock takes longer.
const LOOKS: usize = 64;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Reader {
    receiving: Option<Receiving>,
    /// A sidecar that was greeted and has not answered yet.
    greeting: Option<Greeting>,
    failures: Failures,
}

/// The receiving half of a lane.
#[derive(Debug)]
struct Receiving {
    rewards: RewardReceiver,
    line: ClientLine,
    bell: ClientBell,
    sidecar: SidecarBell,
    heartbeat: HeartbeatWatch,
    generations: Generations,
}

/// What has gone wrong since the latest answer.
#[derive(Debug, Default)]
struct Failures {
    count: u32,
    reason: String,
    /// When the present attempts to connect began.
    since: Option<Instant>,
    /// Not before then.
    next: Option<Instant>,
    /// The user has been told.
    told: bool,
}

/// The lane is no more, and why.
struct Lost(String);

impl From<Broken> for Lost {
    fn from(broken: Broken) -> Self {
        Self(format!("the sidecar broke the lane's rules: {broken}"))
    }
}

impl Reader {
    /// Reads until there is news, or `longest` has passed; once in any case.
    pub(super) fn read(&mut self, lane: &Lane, inbox: &Inbox, longest: Duration) {
        let until = Instant::now() + longest;
        loop {
            match &mut self.receiving {
                None if lane.lock().table.is_idle() => return,
                None => {
                    if !self.connect(lane, inbox, until) {
                        return;
                    }
                }
                Some(receiving) => match receiving.listen(lane, until) {
                    Ok(heard) => {
                        if heard {
                            self.failures = Failures::default();
                        }
                        return;
                    }
                    Err(Lost(reason)) => self.lose(lane, reason),
                },
            }
            if Instant::now() >= until {
                return;
            }
        }
    }

    /// One attempt to connect, when it is time for it. `false`: it is not, or it failed.
    fn connect(&mut self, lane: &Lane, inbox: &Inbox, until: Instant) -> bool {
        let now = Instant::now();
        if let Some(next) = self.failures.next.filter(|&next| next > now) {
            inbox.wait(next.min(until) - now);
            if Instant::now() < next {
                return false;
            }
        }
        // While nobody waited, nobody tried: that time does not count.
        let unattended = UNATTENDED.max(lane.config.back_off.budget);
        if self.failures.next.is_some_and(|next| now.saturating_duration_since(next) > unattended) {
            self.failures = Failures::default();
        }
        self.failures.since.get_or_insert(now);
        let greeted = match self.greeting.take() {
            Some(greeting) => Ok(greeting),
            None => Greeting::to(&lane.config.path, GREETING_TIME),
        };
        let opened = match greeted {
            Ok(greeting) if !greeting.wait(until.saturating_duration_since(Instant::now())) => {
                // A sidecar that hangs takes its time, and something else may be due meanwhile.
                self.greeting = Some(greeting);
                return false;
            }
            greeted => greeted.and_then(Greeting::finish),
        };
        match opened {
            Ok(opened) => match decoded(&opened.card) {
                Ok(served) => {
                    self.begin(lane, opened, served);
                    true
                }
                Err(reason) => {
                    self.give_up(lane, refused(lane, reason));
                    false
                }
            },
            Err(error) => {
                self.not_opened(lane, error);
                false
            }
        }
    }

    fn not_opened(&mut self, lane: &Lane, error: HandshakeError) {
        if !error.is_transient() {
            let address = lane.config.address.clone();
            let error = match error {
                HandshakeError::Owner { found, own, .. } => ClientError::WrongOwner { address, found, own },
                HandshakeError::Forbidden { owner: SocketOwner::User(found), own, .. } if found != own => {
                    ClientError::WrongOwner { address, found, own }
                }
                error => refused(lane, error.to_string()),
            };
            return self.give_up(lane, error);
        }
        tracing::debug!(address = %lane.config.address, %error, "cannot connect");
        self.fail(&lane.config, error.to_string());
        let back_off = &lane.config.back_off;
        // A socket that was there once may come back.
        let absent = error.is_absent() && lane.lock().card.is_none();
        let budget = if absent { back_off.for_absent(lane.config.socket_timeout) } else { back_off.budget };
        let now = Instant::now();
        let (since, next) = (self.failures.since.unwrap_or(now), self.failures.next.unwrap_or(now));
        if now.saturating_duration_since(since) >= TELL && !std::mem::replace(&mut self.failures.told, true) {
            let give_up_s = budget.as_secs_f32();
            tracing::warn!(address = %lane.config.address, %error, give_up_s, "no connection yet");
        }
        if next.saturating_duration_since(since) > budget {
            let (address, waited) = (lane.config.address.clone(), since.elapsed());
            let reason = self.failures.reason.as_str().into();
            self.give_up(lane, ClientError::Disconnected { address, reason, waited });
        }
    }

    /// A new lane: what is unanswered is sent again.
    fn begin(&mut self, lane: &Lane, opened: Opened, served: ServedModel) {
        let Opened { end: ClientEnd { rollouts, rewards, heartbeat, line }, in_flight_limit, generation, .. } = opened;
        let (bell, sidecar) = (rewards.bell(), rollouts.bell());
        let generations = Generations::new(generation, &served);
        self.receiving = Some(Receiving { rewards, line, bell, sidecar, heartbeat, generations });
        self.failures.since = None;
        let mut shared = lane.lock();
        shared.serves(served);
        shared.table.has_card();
        let now = Instant::now();
        for (number, losses) in shared.table.lost(lane.config.back_off.budget, now) {
            let (address, times, waited) = (lane.config.address.clone(), losses.times, losses.waited);
            shared.table.resolve(number, Err(ClientError::NeverAnswered { address, times, waited }));
        }
        let in_flight_limit = lane.config.in_flight_limit.min(in_flight_limit as usize).max(1);
        shared.sending = Some(Sending { rollouts, options: Default::default(), in_flight_limit, draining: false });
        shared.places_are_free(&lane.config, now);
    }

    fn lose(&mut self, lane: &Lane, reason: String) {
        self.receiving = None;
        let mut shared = lane.lock();
        shared.sending = None;
        shared.wants_room = None;
        shared.table.disconnect(Instant::now());
        let unanswered = shared.table.len();
        drop(shared);
        tracing::warn!(address = %lane.config.address, %reason, unanswered, "lost the lane");
        self.fail(&lane.config, reason);
    }

    fn fail(&mut self, config: &Config, reason: String) {
        self.failures.count = self.failures.count.saturating_add(1);
        self.failures.reason = reason;
        self.failures.next = Some(Instant::now() + config.back_off.delay(self.failures.count, random()));
    }

    fn give_up(&mut self, lane: &Lane, error: ClientError) {
        let mut shared = lane.lock();
        tracing::error!(%error, unanswered = shared.table.len(), "giving up");
        shared.table.resolve_all(&error);
        self.failures = Failures::default();
    }
}

impl Receiving {
    /// Hands out answers, then returns; `Ok(false)` if none came until then, or room did.
    fn listen(&mut self, lane: &Lane, until: Instant) -> Result<bool, Lost> {
        let watch = until.min(Instant::now() + lane.config.spin);
        loop {
            if self.rewards.is_waiting() {
                return self.hand_out(lane).map(|()| true);
            }
            for _ in 0..LOOKS {
                if self.rewards.is_waiting() {
                    break;
                }
                std::hint::spin_loop();
            }
            if !self.rewards.is_waiting() && Instant::now() >= watch {
                break;
            }
        }
        self.sleep(lane, until)
    }

    /// Sleeps until the bell rings or the time is over.
    fn sleep(&mut self, lane: &Lane, until: Instant) -> Result<bool, Lost> {
        // The thread that found no room has asked to be woken for it.
        let has_room = || lane.lock().has_wanted_room();
        let longest = until.saturating_duration_since(Instant::now());
        self.bell.sleep(longest, || self.rewards.is_waiting() || has_room());
        if self.rewards.is_waiting() {
            return self.hand_out(lane).map(|()| true);
        }
        if has_room() {
            let mut shared = lane.lock();
            shared.wants_room = None;
            shared.send_waiting(&lane.config, Instant::now())?;
            shared.wake_followers();
            return Ok(false);
        }
        // Nobody rang: is there still anybody? What was published before the end is read first.
        if let Some(reason) = self.line.closed()
            && !self.rewards.is_waiting()
        {
            return Err(Lost(if reason.is_empty() { "the sidecar is gone".into() } else { reason }));
        }
        let still = self.heartbeat.still_for(Instant::now());
        if still > lane.config.heartbeat_timeout && !self.rewards.is_waiting() {
            let still = still.as_secs_f32();
            return Err(Lost(format!(
                "the sidecar has given no sign of life for {still:.1} s: it is stopped, or hangs"
            )));
        }
        Ok(false)
    }

    fn hand_out(&mut self, lane: &Lane) -> Result<(), Lost> {
        let mut shared = lane.lock();
        for _ in 0..HANDFUL {
            let Some(reply) = self.rewards.next(|generation| self.generations.version(generation))? else { break };
            match reply {
                Reply::Card(part) => {
                    if let Some(served) = self.generations.add(part)? {
                        shared.serves(served);
                    }
                }
                Reply::Rewards { number, rewards } => {
                    shared.answered(number, |entry| finite(rewards, entry));
                }
                Reply::Rejection { number, code, message } => shared.rejected(number, code, message),
            }
        }
        self.rewards.made_room(&self.sidecar);
        let draining = shared.sending.as_ref().is_some_and(|sending| sending.draining);
        if draining && shared.table.in_flight() == 0 {
            return Err(Lost("the sidecar is shutting down".into()));
        }
        shared.send_waiting(&lane.config, Instant::now())?;
        if shared.wants_room.take().is_some() {
            shared.wake_followers();
        }
        Ok(())
    }
}

impl Shared {
    /// What the sidecar serves from now on.
    fn serves(&mut self, served: ServedModel) {
        let served = Arc::new(served);
        if let Some(before) = self.card.replace(Arc::clone(&served))
            && before.model.model_version != served.model.model_version
        {
            let (before, now) = (&before.model.model_version, &served.model.model_version);
            tracing::warn!(%before, %now, "the sidecar serves another model version");
        }
    }

    fn rejected(&mut self, number: u64, code: u32, message: String) {
        match code_from_wire(code as i32) {
            Some(Code::Draining) => {
                if let Some(sending) = &mut self.sending {
                    sending.draining = true;
                }
                known(&self.table.returned(number, Instant::now()));
            }
            Some(code) => self.answered(number, |_| Ok(Err(Rejection { code, message }))),
            None => self.answered(number, |entry| {
                Err(BadReply::UnknownCode { id: entry.id(), code: code as i32, message }.into())
            }),
        }
    }

    fn answered(&mut self, number: u64, answer: impl FnOnce(&table::Entry) -> Answer) {
        known(&self.table.reply(number, answer));
    }
}

fn known(reply: &Known) {
    if *reply == Known::Unknown {
        tracing::warn!("an answer to no rollout of this client was ignored");
    }
}

fn refused(lane: &Lane, reason: String) -> ClientError {
    ClientError::Refused { address: lane.config.address.clone(), reason: reason.as_str().into() }
}

/// Numbers that cannot be trusted are not let through.
fn finite(rewards: Rewards, entry: &table::Entry) -> Answer {
    let finite = |attributes: &[f32], reward: f32| attributes.iter().chain([&reward]).all(|v| v.is_finite());
    let all = finite(&rewards.attributes, rewards.reward)
        && rewards.reads.iter().all(|read| finite(&read.attributes, read.reward));
    if all { Ok(Ok(rewards)) } else { Err(BadReply::NonFinite { id: entry.id() }.into()) }
}
