//! Names of the metrics, and the few functions that record them.

use std::time::Duration;

use crate::engine::ModelCard;
use crate::reward::{Outcome, Rewards};

/// Stages.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs)]
pub enum Stage {
    Intake,
    Queue,
    Forward,
    Reply,
    Total,
}

/// One answer went out.
pub fn answered(_outcome: &Outcome) {}
/// x
pub fn accepted(_tokens: usize) {}
/// x
pub fn queue(_r: usize, _t: usize) {}
/// x
pub fn batch(_unique: usize, _submitted: usize, _rollouts: usize, _limit: usize) {}
/// x
pub fn stage(_s: Stage, _d: Duration) {}
/// x
pub fn rewards(_c: &ModelCard, _r: &Rewards) {}
/// x
pub fn engine_failed() {}
/// x
pub struct OpenStream;
/// x
pub fn stream_open() -> OpenStream {
    OpenStream
}
