//! Which model generation the lanes announce: its number, and its card as the wire has it.
//!
//! Invariant: the generation that [`Generations::bearing`] gives for a reply has that reply's number and model version.

use std::sync::{Arc, Mutex, PoisonError};

use prost::Message as _;
use tokio::sync::watch;

use crate::proto::v1;
use crate::reward::Rewards;
use crate::sidecar::{Intake, Served};

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
    /// What the sidecar serves; `None` where a test says so itself.
    source: Option<Source>,
    latest: Mutex<Arc<Generation>>,
}

impl Generations {
    /// What `intake` serves, now and later.
    pub(super) fn of(intake: &Intake, in_flight_limit: usize) -> Self {
        let source = Source { served: intake.served(), intake: intake.clone(), in_flight_limit };
        let first = source.encode();
        Self { source: Some(source), latest: Mutex::new(Arc::new(first)) }
    }

    #[cfg(test)]
    pub(super) fn new(first: Generation) -> Self {
        Self { source: None, latest: Mutex::new(Arc::new(first)) }
    }

    /// The one that lanes are opened with.
    pub(super) fn latest(&self) -> Arc<Generation> {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(source) = &self.source
            && source.served.borrow().generation > latest.number
        {
            *latest = Arc::new(source.encode());
        }
        Arc::clone(&latest)
    }

    /// From now on this one is the latest.
    #[cfg(test)]
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

/// Where the generations come from.
#[derive(Debug)]
struct Source {
    /// The first model, which is the lanes'.
    served: watch::Receiver<Arc<Served>>,
    intake: Intake,
    in_flight_limit: usize,
}

impl Source {
    /// The generation that is served now.
    fn encode(&self) -> Generation {
        let served = Arc::clone(&self.served.borrow());
        let card = super::super::served(served.card(), &self.intake, self.in_flight_limit).encode_to_vec();
        Generation { number: served.generation, card }
    }
}
