//! The process's running totals, for callers without a recorder of metrics.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::stage::Stage;

/// What has been counted since the process started, over all its sidecars.
pub(super) static TOTALS: AtomicTotals = AtomicTotals {
    accepted: AtomicU64::new(0),
    scored: AtomicU64::new(0),
    rejected: AtomicU64::new(0),
    batches: AtomicU64::new(0),
    tokens_submitted: AtomicU64::new(0),
    tokens_unique: AtomicU64::new(0),
    tokens_reused: AtomicU64::new(0),
    tokens_recomputed: AtomicU64::new(0),
    stage_ns: [const { AtomicU64::new(0) }; Stage::ALL.len()],
};

/// See [`Totals`].
pub(super) struct AtomicTotals {
    pub accepted: AtomicU64,
    pub scored: AtomicU64,
    pub rejected: AtomicU64,
    pub batches: AtomicU64,
    pub tokens_submitted: AtomicU64,
    pub tokens_unique: AtomicU64,
    pub tokens_reused: AtomicU64,
    pub tokens_recomputed: AtomicU64,
    pub stage_ns: [AtomicU64; Stage::ALL.len()],
}

/// What has been counted since the process started, over all its sidecars.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Rollouts that passed all checks and were given room in the queue.
    pub accepted: u64,
    /// Rollouts answered with rewards.
    pub scored: u64,
    /// Rollouts answered with a rejection, accepted before or not.
    pub rejected: u64,
    /// Micro-batches scored.
    pub batches: u64,
    /// Tokens of the rollouts in scored micro-batches, each rollout for itself.
    pub tokens_submitted: u64,
    /// The same with each shared prefix once per micro-batch.
    pub tokens_unique: u64,
    /// Those of them that the engine had computed before.
    pub tokens_reused: u64,
    /// Those that were computed again, since the engine had no room to keep them; an estimate.
    pub tokens_recomputed: u64,
    /// Time recorded per stage, in the order of [`Stage::ALL`].
    pub stage_ns: [u64; Stage::ALL.len()],
}

impl Totals {
    /// The time recorded for a stage.
    pub fn stage(&self, stage: Stage) -> Duration {
        Duration::from_nanos(self.stage_ns[stage as usize])
    }
}

/// What was counted between two looks.
impl std::ops::Sub for Totals {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            accepted: self.accepted - earlier.accepted,
            scored: self.scored - earlier.scored,
            rejected: self.rejected - earlier.rejected,
            batches: self.batches - earlier.batches,
            tokens_submitted: self.tokens_submitted - earlier.tokens_submitted,
            tokens_unique: self.tokens_unique - earlier.tokens_unique,
            tokens_reused: self.tokens_reused - earlier.tokens_reused,
            tokens_recomputed: self.tokens_recomputed - earlier.tokens_recomputed,
            stage_ns: std::array::from_fn(|i| self.stage_ns[i] - earlier.stage_ns[i]),
        }
    }
}

/// The totals by now.
pub fn totals() -> Totals {
    Totals {
        accepted: TOTALS.accepted.load(Relaxed),
        scored: TOTALS.scored.load(Relaxed),
        rejected: TOTALS.rejected.load(Relaxed),
        batches: TOTALS.batches.load(Relaxed),
        tokens_submitted: TOTALS.tokens_submitted.load(Relaxed),
        tokens_unique: TOTALS.tokens_unique.load(Relaxed),
        tokens_reused: TOTALS.tokens_reused.load(Relaxed),
        tokens_recomputed: TOTALS.tokens_recomputed.load(Relaxed),
        stage_ns: TOTALS.stage_ns.each_ref().map(|ns| ns.load(Relaxed)),
    }
}
