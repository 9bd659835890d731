//! The reader of a lane client: whichever of its threads has the turn.
//!
//! Invariant: between two turns nothing is lost. What the reader knows of the lane lies in [`Reader`], what all threads
//! know in [`Shared`], and the rings keep the rest.

use std::sync::Arc;
use std::time::{Duration, Instant};

use prost::Message as _;

use super::{Asked, Config, Lane, Sending, Shared};
use crate::client::back_off::random;
use crate::client::blocking::inbox::Inbox;
use crate::client::{Answer, BadReply, ClientError, ServedModel};
use crate::proto::{card_from_wire, code_from_wire, v1};
use crate::reward::{Code, Rejection, Rewards};
use crate::shm::Broken;
use crate::shm::frame::Reply;
use crate::shm::handshake::{self, HandshakeError, Opened};
use crate::shm::lane::{ClientBell, ClientEnd, ClientLine, RewardReceiver, SidecarBell};

/// Longest wait for a sidecar's answer to a greeting. It gives one at once, unless it hangs.
const GREETING: Duration = Duration::from_secs(2);

/// When nobody has tried to connect for this long after the time for it, and for the back-off's budget, nobody waits for
/// it any more. Whoever waits tries within 50 ms, or is kept from it by a busy machine.
const UNATTENDED: Duration = Duration::from_secs(5);

/// Answers that are handed out under one lock.
const HANDFUL: usize = 256;

/// Looks at the ring between two looks at the clock: reading the clock takes longer.
const LOOKS: usize = 64;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Reader {
    receiving: Option<Receiving>,
    trouble: Trouble,
}

/// The receiving half of a lane.
#[derive(Debug)]
struct Receiving {
    rewards: RewardReceiver,
    line: ClientLine,
    bell: ClientBell,
    sidecar: SidecarBell,
    version: Arc<str>,
}

/// What has gone wrong since the latest answer.
#[derive(Debug, Default)]
struct Trouble {
    failures: u32,
    reason: String,
    /// When the present attempts to connect began.
    since: Option<Instant>,
    /// Not before then.
    next: Option<Instant>,
}

/// The lane is no more, and why.
struct Parted(String);

impl From<Broken> for Parted {
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
                    if !self.dial(lane, inbox, until) {
                        return;
                    }
                }
                Some(receiving) => match receiving.listen(lane, until) {
                    Ok(heard) => {
                        if heard {
                            self.trouble = Trouble::default();
                        }
                        return;
                    }
                    Err(Parted(reason)) => self.lose(lane, reason),
                },
            }
            if Instant::now() >= until {
                return;
            }
        }
    }

    /// One attempt to connect, when it is time for it. `false`: it is not, or it failed.
    fn dial(&mut self, lane: &Lane, inbox: &Inbox, until: Instant) -> bool {
        let now = Instant::now();
        if let Some(next) = self.trouble.next.filter(|&next| next > now) {
            inbox.wait(next.min(until) - now);
            if Instant::now() < next {
                return false;
            }
        }
        // While nobody waited, nobody tried: that time does not count.
        let unattended = UNATTENDED.max(lane.config.back_off.budget);
        if self.trouble.next.is_some_and(|next| now.saturating_duration_since(next) > unattended) {
            self.trouble = Trouble::default();
        }
        let since = *self.trouble.since.get_or_insert(now);
        let refused = |reason: String| ClientError::Refused {
            address: lane.config.address.clone(),
            reason: reason.as_str().into(),
        };
        let opened = match handshake::connect(&lane.config.path, GREETING) {
            Ok(opened) => opened,
            Err(HandshakeError::Refused { passing: false, reason }) => {
                self.give_up(lane, refused(reason));
                return false;
            }
            Err(error @ (HandshakeError::Owner { .. } | HandshakeError::Stranger { .. })) => {
                self.give_up(lane, refused(error.to_string()));
                return false;
            }
            Err(error) => {
                tracing::debug!(address = %lane.config.address, %error, "cannot connect");
                self.fail(&lane.config, error.to_string());
                let next = self.trouble.next.unwrap_or(now);
                if next.saturating_duration_since(since) > lane.config.back_off.budget {
                    let (address, waited) = (lane.config.address.clone(), since.elapsed());
                    let reason = self.trouble.reason.as_str().into();
                    self.give_up(lane, ClientError::Disconnected { address, reason, waited });
                }
                return false;
            }
        };
        match v1::ModelCard::decode(&*opened.card).map_err(|error| error.to_string()) {
            Ok(card) => match card_from_wire(card) {
                Ok(served) => self.begin(lane, opened, served),
                Err(error) => {
                    self.give_up(lane, refused(error.to_string()));
                    return false;
                }
            },
            Err(error) => {
                self.give_up(lane, refused(format!("its card cannot be read: {error}")));
                return false;
            }
        }
        true
    }

    /// A new lane: what is unanswered is asked again.
    fn begin(&mut self, lane: &Lane, opened: Opened, served: ServedModel) {
        let Opened { end: ClientEnd { rollouts, rewards, line }, in_flight_limit, .. } = opened;
        let served = Arc::new(served);
        let version = Arc::clone(&served.model.model_version);
        let (bell, sidecar) = (rewards.bell(), rollouts.bell());
        self.receiving = Some(Receiving { rewards, line, bell, sidecar, version });
        self.trouble.since = None;
        let mut shared = lane.lock();
        if let Some(before) = shared.card.replace(Arc::clone(&served))
            && before.model.model_version != served.model.model_version
        {
            let (before, now) = (&before.model.model_version, &served.model.model_version);
            tracing::warn!(%before, %now, "the sidecar came back with another model version");
        }
        shared.table.has_card();
        let now = Instant::now();
        for (number, waited) in shared.table.lost_for(lane.config.back_off.budget, now) {
            let address = lane.config.address.clone();
            shared.table.settle(number, Err(ClientError::NeverAnswered { address, times: 1, waited }));
        }
        let in_flight_limit = lane.config.in_flight_limit.min(in_flight_limit as usize).max(1);
        shared.sending = Some(Sending { rollouts, options: Default::default(), in_flight_limit, draining: false });
        // What breaks here is noticed when the lane is read, and looked at for room.
        if shared.ask_waiting(&lane.config, now).is_err() {
            shared.wants_room = Some(1);
        }
        shared.wake_followers();
    }

    fn lose(&mut self, lane: &Lane, reason: String) {
        self.receiving = None;
        let mut shared = lane.lock();
        shared.sending = None;
        shared.wants_room = None;
        shared.table.lose_all(Instant::now());
        let unanswered = shared.table.len();
        drop(shared);
        tracing::warn!(address = %lane.config.address, %reason, unanswered, "lost the lane");
        self.fail(&lane.config, reason);
    }

    fn fail(&mut self, config: &Config, reason: String) {
        self.trouble.failures = self.trouble.failures.saturating_add(1);
        self.trouble.reason = reason;
        self.trouble.next = Some(Instant::now() + config.back_off.delay(self.trouble.failures, random()));
    }

    fn give_up(&mut self, lane: &Lane, error: ClientError) {
        let mut shared = lane.lock();
        tracing::error!(%error, unanswered = shared.table.len(), "giving up");
        shared.table.settle_all(&error);
        self.trouble = Trouble::default();
    }
}

impl Receiving {
    /// Hands out answers, then returns; `Ok(false)` if none came until then, or room did.
    fn listen(&mut self, lane: &Lane, until: Instant) -> Result<bool, Parted> {
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
    fn sleep(&mut self, lane: &Lane, until: Instant) -> Result<bool, Parted> {
        // Whoever found no room has asked to be rung for it.
        let has_room = || lane.lock().has_wanted_room();
        let longest = until.saturating_duration_since(Instant::now());
        self.bell.sleep(longest, || self.rewards.is_waiting() || has_room());
        if self.rewards.is_waiting() {
            return self.hand_out(lane).map(|()| true);
        }
        if has_room() {
            let mut shared = lane.lock();
            shared.wants_room = None;
            shared.ask_waiting(&lane.config, Instant::now())?;
            shared.wake_followers();
            return Ok(false);
        }
        // Nobody rang: is there still anybody? What was published before the end is read first.
        match self.line.parted() {
            Some(word) if !self.rewards.is_waiting() => {
                Err(Parted(if word.is_empty() { "the sidecar is gone".into() } else { word }))
            }
            _ => Ok(false),
        }
    }

    fn hand_out(&mut self, lane: &Lane) -> Result<(), Parted> {
        let mut shared = lane.lock();
        for _ in 0..HANDFUL {
            let Some(reply) = self.rewards.next(&self.version)? else { break };
            shared.hear(reply);
        }
        self.rewards.made_room(&self.sidecar);
        let draining = shared.sending.as_ref().is_some_and(|sending| sending.draining);
        if draining && shared.table.unasked() == shared.table.len() {
            return Err(Parted("the sidecar is shutting down".into()));
        }
        shared.ask_waiting(&lane.config, Instant::now())?;
        if shared.wants_room.take().is_some() {
            shared.wake_followers();
        }
        Ok(())
    }
}

impl Shared {
    /// Whether there is room now for the rollout that found none.
    fn has_wanted_room(&mut self) -> bool {
        match (self.wants_room, &mut self.sending) {
            // What is broken is news, too.
            (Some(bytes), Some(sending)) if bytes > 0 => sending.rollouts.has_room(bytes).unwrap_or(true),
            _ => false,
        }
    }

    /// Asks what waits to be asked, oldest first, as far as there is room.
    fn ask_waiting(&mut self, config: &Config, now: Instant) -> Result<(), Broken> {
        while let Some(number) = self.table.first_unasked() {
            let asked = self.table.len() - self.table.unasked();
            let Some(sending) = self.sending.as_ref().filter(|sending| !sending.draining) else { break };
            if asked >= sending.in_flight_limit || matches!(self.ask(number, config, now)?, Asked::NoRoom) {
                break;
            }
        }
        Ok(())
    }

    fn hear(&mut self, reply: Reply) {
        let known = match reply {
            Reply::Rejection { number, code, .. } if code_from_wire(code as i32) == Some(Code::Draining) => {
                if let Some(sending) = &mut self.sending {
                    sending.draining = true;
                }
                self.table.lose(number, Instant::now())
            }
            Reply::Rejection { number, code, message } => {
                self.table.hear(number, |question| match code_from_wire(code as i32) {
                    Some(code) => Ok(Err(Rejection { code, message })),
                    None => Err(BadReply::UnknownCode { id: question.id(), code: code as i32, message }.into()),
                })
            }
            Reply::Rewards { number, rewards } => self.table.hear(number, |question| finite(rewards, question)),
        };
        if !known {
            tracing::warn!("an answer to no rollout of this client was ignored");
        }
    }
}

/// Numbers that cannot be trusted are not let through.
fn finite(rewards: Rewards, question: &super::Question) -> Answer {
    let finite = |attributes: &[f32], reward: f32| attributes.iter().chain([&reward]).all(|v| v.is_finite());
    match finite(&rewards.attributes, rewards.reward)
        && rewards.reads.iter().all(|read| finite(&read.attributes, read.reward))
    {
        true => Ok(Ok(rewards)),
        false => Err(BadReply::NonFinite { id: question.id() }.into()),
    }
}
