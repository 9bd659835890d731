//! What the users of a client ask of its driver, and what both know of the client.
//!
//! Invariant: a rollout on its way to the driver holds room, so that the way needs no limit of its own.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::back_off::BackOff;
use super::deadline::Deadline;
use super::error::ClientError;
use super::link::Address;
use super::room::Permit;
use super::version::Version;
use super::waiter::Waiter;
use crate::proto::{ServedModel, v1};

/// Rollouts that a client takes beyond those that may be in flight: whenever a reply makes room, the next one is at hand.
pub(super) const AHEAD: usize = 16;

/// Most rollouts that a client takes while it has no connection: as many as most servers take.
pub(super) const UNCONNECTED: usize = 1024;

/// What a client is made with.
#[derive(Debug)]
pub(super) struct Config {
    pub(super) address: Address,
    /// The model of rollouts that name none; empty for the server's first.
    pub(super) model: String,
    pub(super) in_flight_limit: usize,
    pub(super) back_off: BackOff,
    pub(super) deadline_ms: Option<u64>,
    pub(super) version: Version,
    pub(super) socket_timeout: Duration,
}

impl Config {
    /// Most rollouts that are taken before the server has said how many it takes: else an endless series would be taken for
    /// as long as a connection takes.
    pub(super) fn room(&self) -> usize {
        self.in_flight_limit.min(UNCONNECTED) + AHEAD
    }
}

/// What a client's user wants of its driver.
#[derive(Debug)]
pub(super) enum Command {
    /// Score a rollout.
    Score(Submission),
    /// Nobody waits for the rollout of this number any more.
    Cancel(u64),
    /// Nor for those of a series with these tags.
    CancelSeries { series: u64, tags: RangeInclusive<u64> },
    /// Answer once there is a connection.
    Card { asked: Instant, answer: CardSender },
    /// Finish what has been submitted, then end.
    Close,
}

pub(super) type CardSender = oneshot::Sender<Result<Arc<ServedModel>, ClientError>>;

/// A rollout on its way to the driver.
#[derive(Debug)]
pub(super) struct Submission {
    /// Unique among the client's.
    pub(super) number: u64,
    /// With the caller's own id.
    pub(super) rollout: Box<v1::Rollout>,
    pub(super) waiter: Box<dyn Waiter>,
    /// When its submitter began to wait for room.
    pub(super) asked: Instant,
    pub(super) deadline: Option<Deadline>,
    pub(super) permit: Permit,
}
