//! The way out of a lane client.
//!
//! Invariant: what waits to be sent goes in its order, withdrawals first: they make room for the rest.

use std::sync::Arc;
use std::time::Instant;

use super::options::Options;
use super::{Config, Shared};
use crate::client::waiter::Waiter as _;
use crate::reward::{Code, Rejection};
use crate::rollout::RolloutRef;
use crate::shm::frame::CANCEL_WORDS;
use crate::shm::lane::RolloutSender;
use crate::shm::layout::WORD;
use crate::shm::{Broken, clock};

/// The sending half of a lane.
#[derive(Debug)]
pub(super) struct Sending {
    pub(super) rollouts: RolloutSender,
    pub(super) options: Options,
    pub(super) in_flight_limit: usize,
    /// The sidecar takes no more on this lane.
    pub(super) draining: bool,
}

/// What became of a rollout that was to be sent.
pub(super) enum Sent {
    Yes,
    NoRoom,
    /// It is answered, or nobody waits for it.
    Resolved,
}

impl Shared {
    /// Puts rollout `number` on the lane. It stays in the table unless it could be answered here.
    pub(super) fn send(&mut self, number: u64, config: &Config, now: Instant) -> Result<Sent, Broken> {
        let (Some(sending), Some(entry)) = (&mut self.sending, self.table.get(number)) else {
            return Ok(Sent::NoRoom);
        };
        if entry.slot.is_gone() {
            self.table.forget(number);
            return Ok(Sent::Resolved);
        }
        if let Some(deadline) = entry.deadline.filter(|deadline| deadline.has_passed(now.into())) {
            self.table.resolve(number, Ok(Err(deadline.rejection())));
            return Ok(Sent::Resolved);
        }
        let rollouts = Arc::clone(&entry.rollouts);
        let rollout = rollouts.get(entry.index);
        let deadline_ns = match entry.deadline {
            Some(deadline) => Some(clock::at_ns(deadline.at().into_std())),
            // So long that the client does not keep it: the sidecar refuses it, by its own words.
            None => rollout.deadline_ms.or(config.deadline_ms).map(clock::after_ms),
        };
        let (bytes, most) = (RolloutSender::bytes_of(&rollout), sending.rollouts.most_bytes());
        if bytes > most {
            let message = format!(
                "the rollout has {bytes} bytes on a lane that holds {most}; serve with a larger shm_ring_bytes, or send it over gRPC"
            );
            self.table.resolve(number, Ok(Err(Rejection::new(Code::TooLong, message))));
            return Ok(Sent::Resolved);
        }
        match sending.send(number, deadline_ns, &rollout)? {
            Ok(true) => {
                self.table.sent(number, now);
                Ok(Sent::Yes)
            }
            Ok(false) => {
                self.wants_room = Some(sending.options.unknown_bytes(rollout.aggregation).unwrap_or(bytes));
                Ok(Sent::NoRoom)
            }
            Err(rejection) => {
                self.table.resolve(number, Ok(Err(rejection)));
                Ok(Sent::Resolved)
            }
        }
    }

    /// Sends what waits to be sent, oldest first, as far as there is room.
    pub(super) fn send_waiting(&mut self, config: &Config, now: Instant) -> Result<(), Broken> {
        if !self.send_cancels()? {
            return Ok(());
        }
        while let Some(number) = self.table.first_waiting() {
            let Some(sending) = self.sending.as_ref().filter(|sending| !sending.draining) else { break };
            if self.table.in_flight() >= sending.in_flight_limit
                || matches!(self.send(number, config, now)?, Sent::NoRoom)
            {
                break;
            }
        }
        Ok(())
    }

    /// Tells the sidecar what nobody waits for any more; whether there was room for all of it.
    fn send_cancels(&mut self) -> Result<bool, Broken> {
        while let Some(number) = self.table.next_cancel() {
            let Some(sending) = &mut self.sending else { return Ok(false) };
            if !sending.rollouts.cancel(number)? {
                sending.rollouts.want_room();
                // It may have been made meanwhile.
                if !sending.rollouts.cancel(number)? {
                    self.wants_room = Some(CANCEL_WORDS * WORD);
                    return Ok(false);
                }
            }
            self.table.cancel_sent();
        }
        Ok(true)
    }

    /// Whether there is room now for the record that found none.
    pub(super) fn has_wanted_room(&mut self) -> bool {
        match (self.wants_room, &mut self.sending) {
            // What is broken is news, too.
            (Some(bytes), Some(sending)) if bytes > 0 => sending.rollouts.has_room(bytes).unwrap_or(true),
            _ => false,
        }
    }
}

impl Sending {
    /// Writes a rollout, and what its options mean where that is new. `Ok(Ok(false))`: there is no room, and the sidecar has
    /// been asked to ring when there is.
    fn send(
        &mut self,
        number: u64,
        deadline_ns: Option<u64>,
        rollout: &RolloutRef,
    ) -> Result<Result<bool, Rejection>, Broken> {
        match self.try_send(number, deadline_ns, rollout)? {
            Ok(false) => {
                self.rollouts.want_room();
                // It may have been made meanwhile.
                self.try_send(number, deadline_ns, rollout)
            }
            sent => Ok(sent),
        }
    }

    fn try_send(
        &mut self,
        number: u64,
        deadline_ns: Option<u64>,
        rollout: &RolloutRef,
    ) -> Result<Result<bool, Rejection>, Broken> {
        match self.options.number_of(rollout.aggregation, &mut self.rollouts)? {
            Ok(Some(options)) => self.rollouts.rollout(number, options, deadline_ns, rollout).map(Ok),
            Ok(None) => Ok(Ok(false)),
            Err(rejection) => Ok(Err(rejection)),
        }
    }
}
