//! What is counted. Everything that others know of a number (its name, its unit, its labels) is said in [`names`], and what is
//! recorded goes through the functions here.
//!
//! Numbers go two ways: to the process's recorder of metrics, once [`install`] has been called; and into [`Totals`] for callers
//! without one.

mod exposition;
mod handles;
mod moments;
pub mod names;
mod open;
mod stage;
mod totals;

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use ::metrics::gauge;

use self::totals::TOTALS;
use crate::engine::ModelCard;
use crate::reward::{Outcome, Rewards};

pub use self::exposition::{Exposition, install};
pub use self::open::{LaneEnd, OpenLane, OpenStream, Waits};
pub use self::open::{accept_paused, lane_closed, open_lane, open_stream, waits_for_room, waits_for_tokenizer};
pub use self::stage::Stage;
pub use self::totals::{Totals, totals};

/// A rollout that came by `transport` was accepted.
pub fn accepted(transport: &'static str) {
    TOTALS.accepted.fetch_add(1, Relaxed);
    if let Some(handles) = handles::get() {
        handles.accepted(transport);
    }
}

/// A rollout that came by `transport` was answered.
pub fn answered(transport: &'static str, outcome: &Outcome) {
    let total = if outcome.is_ok() { &TOTALS.scored } else { &TOTALS.rejected };
    total.fetch_add(1, Relaxed);
    if let Some(handles) = handles::get() {
        match outcome {
            Ok(_) => handles.scored(transport),
            Err(rejection) => handles.rejected(transport, rejection.code),
        }
    }
}

/// What waits in one of the queues, as rollouts and tokens, before and now.
pub fn queue(before: (usize, usize), now: (usize, usize)) {
    if let Some(handles) = handles::get() {
        handles.queue_rollouts.increment(now.0 as f64 - before.0 as f64);
        handles.queue_tokens.increment(now.1 as f64 - before.1 as f64);
    }
}

/// A scored micro-batch.
#[derive(Debug, Clone, Copy)]
pub struct Batch {
    /// Its rollouts.
    pub rollouts: usize,
    /// Their tokens, each rollout for itself.
    pub submitted: usize,
    /// The same with each shared prefix once.
    pub unique: usize,
    /// Of those, what the engine had kept.
    pub reused: usize,
    /// Of those, what the engine computed again because it had no room to keep it.
    pub recomputed: usize,
    /// The budget for those that are computed.
    pub limit: usize,
}

/// A micro-batch was scored.
pub fn batch(batch: Batch) {
    let Batch { rollouts, submitted, unique, reused, recomputed, limit } = batch;
    TOTALS.batches.fetch_add(1, Relaxed);
    TOTALS.tokens_submitted.fetch_add(submitted as u64, Relaxed);
    TOTALS.tokens_unique.fetch_add(unique as u64, Relaxed);
    TOTALS.tokens_reused.fetch_add(reused as u64, Relaxed);
    TOTALS.tokens_recomputed.fetch_add(recomputed as u64, Relaxed);
    if let Some(handles) = handles::get() {
        handles.batches.increment(1);
        handles.tokens_submitted.increment(submitted as u64);
        handles.tokens_unique.increment(unique as u64);
        handles.tokens_reused.increment(reused as u64);
        handles.tokens_recomputed.increment(recomputed as u64);
        handles.batch_rollouts.record(rollouts as f64);
        handles.batch_fill.record(unique.saturating_sub(reused) as f64 / limit as f64);
    }
}

/// A rollout, or a micro-batch, spent `time` in `stage`.
pub fn stage(stage: Stage, time: Duration) {
    TOTALS.stage_ns[stage as usize].fetch_add(time.as_nanos() as u64, Relaxed);
    if let Some(handles) = handles::get() {
        handles.stages[stage as usize].record(time.as_secs_f64());
    }
}

/// The engine failed on a micro-batch.
pub fn engine_failed() {
    if let Some(handles) = handles::get() {
        handles.engine_failures.increment(1);
    }
}

/// These rewards were given; for their means and standard deviations.
pub fn rewards(card: &ModelCard, rewards: &Rewards) {
    moments::record(card, rewards);
}

/// Which model and which build this is.
pub fn info(card: &ModelCard) {
    gauge!(
        names::INFO,
        "version" => env!("CARGO_PKG_VERSION"),
        "model" => card.name.clone(),
        "model_version" => card.model_version.to_string(),
        "architecture" => card.architecture.clone(),
    )
    .set(1.0);
}

#[cfg(test)]
mod tests;
