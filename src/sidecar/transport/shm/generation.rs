//! Which model generation the lanes announce: its number, and its card as the wire has it.
//!
//! Invariant: the generation that [`Generations::bearing`] gives for a reply has that reply's number and model version.

use std::sync::{Arc, Mutex, PoisonError};

use prost::Message as _;

use crate::proto::v1;
use crate::reward::Rewards;
use crate::sidecar::Intake;

/// A model generation, as a lane announces it.
#[derive(Debug)]
pub(super) struct Generation {
    /// 1 is the first of this process.
    pub(super) number: u64,
    /// The model's card, as protobuf.
    pub(super) card: Vec<u8>,
}

/// The generations of one server.
#[derive(Debug)]
pub(super) struct Generations {
    latest: Mutex<Arc<Generation>>,
}

impl Generations {
    pub(super) fn new(first: Generation) -> Self {
        Self { latest: Mutex::new(Arc::new(first)) }
    }

    /// The one that lanes are opened with.
    pub(super) fn latest(&self) -> Arc<Generation> {
        Arc::clone(&self.latest.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// From now on this one is the latest. The poller announces it at its next look ([`Control::ring`](super::Control::ring)),
    /// and each lane before the first rewards that bear its number.
    #[cfg_attr(not(test), expect(dead_code, reason = "a sidecar serves the model that it was started with"))]
    pub(super) fn replace(&self, next: Generation) {
        *self.latest.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(next);
    }

    /// The generation that gave these rewards. Where it was replaced before it could be announced, the latest card stands for
    /// it, with its own model version; the latest is announced next.
    pub(super) fn bearing(&self, rewards: &Rewards) -> Arc<Generation> {
        let latest = self.latest();
        if latest.number == rewards.generation {
            return latest;
        }
        // What was encoded here can be decoded.
        let mut card = v1::ModelCard::decode(&*latest.card).unwrap_or_default();
        card.model_version = rewards.model_version.to_string();
        Arc::new(Generation { number: rewards.generation, card: card.encode_to_vec() })
    }
}

impl Generation {
    /// What `intake` serves.
    pub(super) fn served_by(intake: &Intake, in_flight_limit: usize) -> Self {
        Self { number: 1, card: super::super::served(intake, in_flight_limit).encode_to_vec() }
    }
}
