//! What is counted: names, descriptions, buckets, and the few functions that record. Everything that others know of
//! a number (its name, its unit, its labels) is said here and nowhere else.
//!
//! Numbers go two ways: through the `metrics` facade to whoever installed a recorder (nobody, in a library; see
//! [`install`]), and into [`Totals`] for callers without one.

mod moments;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use ::metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use crate::engine::ModelCard;
use crate::reward::{Code, Outcome, Rewards};

/// Rollouts that intake accepted.
pub const ROLLOUTS_ACCEPTED: &str = "reward_sidecar_rollouts_accepted_total";
/// Rollouts answered with rewards.
pub const ROLLOUTS_SCORED: &str = "reward_sidecar_rollouts_scored_total";
/// Rollouts answered with a rejection, by `code`.
pub const ROLLOUTS_REJECTED: &str = "reward_sidecar_rollouts_rejected_total";
/// Rollouts waiting for the engine.
pub const QUEUE_ROLLOUTS: &str = "reward_sidecar_queue_rollouts";
/// Their tokens.
pub const QUEUE_TOKENS: &str = "reward_sidecar_queue_tokens";
/// Micro-batches scored.
pub const BATCHES: &str = "reward_sidecar_batches_total";
/// Rollouts in one micro-batch.
pub const BATCH_ROLLOUTS: &str = "reward_sidecar_batch_rollouts";
/// Unique tokens of a micro-batch as a share of the budget.
pub const BATCH_FILL: &str = "reward_sidecar_batch_fill_ratio";
/// Tokens of the rollouts in micro-batches, each rollout for itself.
pub const TOKENS_SUBMITTED: &str = "reward_sidecar_tokens_submitted_total";
/// Tokens in micro-batches: a shared prefix counts once in each.
pub const TOKENS_UNIQUE: &str = "reward_sidecar_tokens_unique_total";
/// Those of them that the engine had kept.
pub const TOKENS_REUSED: &str = "reward_sidecar_tokens_reused_total";
/// Time per stage, by `stage`.
pub const STAGE_SECONDS: &str = "reward_sidecar_stage_seconds";
/// Micro-batches that the engine failed on.
pub const ENGINE_FAILURES: &str = "reward_sidecar_engine_failures_total";
/// Open streams.
pub const STREAMS_OPEN: &str = "reward_sidecar_streams_open";
/// Open lanes.
pub const LANES_OPEN: &str = "reward_sidecar_lanes_open";
/// Lanes that were closed, or not opened, by `reason`.
pub const LANES_CLOSED: &str = "reward_sidecar_lanes_closed_total";
/// Mean of the rewards since the start.
pub const REWARD_MEAN: &str = "reward_sidecar_reward_mean";
/// Their standard deviation.
pub const REWARD_STD: &str = "reward_sidecar_reward_std";
/// Mean of one attribute since the start, by `attribute`.
pub const ATTRIBUTE_MEAN: &str = "reward_sidecar_attribute_mean";
/// Its standard deviation.
pub const ATTRIBUTE_STD: &str = "reward_sidecar_attribute_std";
/// Always 1; its labels say which model and which build.
pub const INFO: &str = "reward_sidecar_info";

/// 50 µs to a minute: a short rollout through a small model, to a queue full of long ones.
const SECONDS: &[f64] = &[
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
    10.0, 30.0, 60.0,
];
/// The last bound but one is a full budget; above it are rollouts that were longer than the budget and went alone.
const FILL: &[f64] = &[0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0, 2.0];
/// Powers of two up to the default limit and beyond.
const ROLLOUTS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 4096.0, 16384.0, 65536.0];

/// A part of a rollout's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Checks, template, tokens.
    Intake,
    /// From acceptance to the start of the forward pass.
    Queue,
    /// Packing of a micro-batch.
    Pack,
    /// The forward pass of a micro-batch.
    Forward,
    /// From the end of the forward pass to the answer.
    Reply,
    /// From arrival to the answer.
    Total,
}

impl Stage {
    /// Every stage.
    pub const ALL: &[Stage] = &[Stage::Intake, Stage::Queue, Stage::Pack, Stage::Forward, Stage::Reply, Stage::Total];

    /// The value of the label `stage`, and the name of the stage's span.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Intake => "intake",
            Stage::Queue => "queue",
            Stage::Pack => "pack",
            Stage::Forward => "forward",
            Stage::Reply => "reply",
            Stage::Total => "total",
        }
    }
}

/// The process's running totals, for those who have no recorder.
static TOTALS: AtomicTotals = AtomicTotals {
    accepted: AtomicU64::new(0),
    scored: AtomicU64::new(0),
    rejected: AtomicU64::new(0),
    batches: AtomicU64::new(0),
    tokens_submitted: AtomicU64::new(0),
    tokens_unique: AtomicU64::new(0),
    tokens_reused: AtomicU64::new(0),
    stage_ns: [const { AtomicU64::new(0) }; Stage::ALL.len()],
};

struct AtomicTotals {
    accepted: AtomicU64,
    scored: AtomicU64,
    rejected: AtomicU64,
    batches: AtomicU64,
    tokens_submitted: AtomicU64,
    tokens_unique: AtomicU64,
    tokens_reused: AtomicU64,
    stage_ns: [AtomicU64; Stage::ALL.len()],
}

/// What has been counted since the process started, over all its sidecars.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Rollouts that intake accepted.
    pub accepted: u64,
    /// Rollouts answered with rewards.
    pub scored: u64,
    /// Rollouts answered with a rejection.
    pub rejected: u64,
    /// Micro-batches scored.
    pub batches: u64,
    /// Tokens of the rollouts in micro-batches, each rollout for itself.
    pub tokens_submitted: u64,
    /// The same with each shared prefix once per micro-batch.
    pub tokens_unique: u64,
    /// Those of them that the engine had computed before.
    pub tokens_reused: u64,
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
        stage_ns: TOTALS.stage_ns.each_ref().map(|ns| ns.load(Relaxed)),
    }
}

/// Intake accepted a rollout.
pub fn accepted() {
    TOTALS.accepted.fetch_add(1, Relaxed);
    counter!(ROLLOUTS_ACCEPTED).increment(1);
}

/// One answer went out.
pub fn answered(outcome: &Outcome) {
    match outcome {
        Ok(_) => {
            TOTALS.scored.fetch_add(1, Relaxed);
            counter!(ROLLOUTS_SCORED).increment(1);
        }
        Err(rejection) => {
            TOTALS.rejected.fetch_add(1, Relaxed);
            counter!(ROLLOUTS_REJECTED, "code" => rejection.code.name()).increment(1);
        }
    }
}

/// What waits for the engine now.
pub fn queue(rollouts: usize, tokens: usize) {
    gauge!(QUEUE_ROLLOUTS).set(rollouts as f64);
    gauge!(QUEUE_TOKENS).set(tokens as f64);
}

/// A micro-batch was packed: `unique` tokens to compute for rollouts of `submitted` tokens together, in a budget of
/// `limit` unique tokens.
pub fn batch(unique: usize, submitted: usize, rollouts: usize, limit: usize) {
    TOTALS.batches.fetch_add(1, Relaxed);
    TOTALS.tokens_submitted.fetch_add(submitted as u64, Relaxed);
    TOTALS.tokens_unique.fetch_add(unique as u64, Relaxed);
    counter!(BATCHES).increment(1);
    counter!(TOKENS_SUBMITTED).increment(submitted as u64);
    counter!(TOKENS_UNIQUE).increment(unique as u64);
    histogram!(BATCH_ROLLOUTS).record(rollouts as f64);
    histogram!(BATCH_FILL).record(unique as f64 / limit as f64);
}

/// Of a micro-batch that was scored so many tokens were not computed again.
pub fn reused(tokens: usize) {
    TOTALS.tokens_reused.fetch_add(tokens as u64, Relaxed);
    counter!(TOKENS_REUSED).increment(tokens as u64);
}

/// A rollout, or a micro-batch, spent `time` in `stage`.
pub fn stage(stage: Stage, time: Duration) {
    TOTALS.stage_ns[stage as usize].fetch_add(time.as_nanos() as u64, Relaxed);
    histogram!(STAGE_SECONDS, "stage" => stage.name()).record(time.as_secs_f64());
}

/// The engine failed on a micro-batch.
pub fn engine_failed() {
    counter!(ENGINE_FAILURES).increment(1);
}

/// These rewards were given; for their means and standard deviations.
pub fn rewards(card: &ModelCard, rewards: &Rewards) {
    moments::record(card, rewards);
}

/// Which model and which build this is.
pub fn info(card: &ModelCard) {
    gauge!(
        INFO,
        "version" => env!("CARGO_PKG_VERSION"),
        "model" => card.name.clone(),
        "model_version" => card.model_version.to_string(),
        "architecture" => card.architecture.clone(),
    )
    .set(1.0);
}

/// Counts as an open stream while it lives.
#[derive(Debug)]
pub struct OpenStream(());

/// A stream was opened.
pub fn open_stream() -> OpenStream {
    gauge!(STREAMS_OPEN).increment(1.0);
    OpenStream(())
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        gauge!(STREAMS_OPEN).decrement(1.0);
    }
}

/// Counts as an open lane while it lives.
#[derive(Debug)]
pub struct OpenLane(());

/// A lane was opened.
pub fn open_lane() -> OpenLane {
    gauge!(LANES_OPEN).increment(1.0);
    OpenLane(())
}

impl Drop for OpenLane {
    fn drop(&mut self) {
        gauge!(LANES_OPEN).decrement(1.0);
    }
}

/// How a lane ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LaneEnd {
    /// Its client left, or died.
    HungUp,
    /// Its client broke the rules.
    Broken,
    /// The sidecar shut down.
    Drained,
    /// It was never opened.
    Refused,
}

impl LaneEnd {
    /// Every end.
    pub const ALL: &[LaneEnd] = &[LaneEnd::HungUp, LaneEnd::Broken, LaneEnd::Drained, LaneEnd::Refused];

    fn name(self) -> &'static str {
        match self {
            LaneEnd::HungUp => "hung_up",
            LaneEnd::Broken => "broken",
            LaneEnd::Drained => "drained",
            LaneEnd::Refused => "refused",
        }
    }
}

/// A lane was closed, or not opened.
pub fn lane_closed(end: LaneEnd) {
    counter!(LANES_CLOSED, "reason" => end.name()).increment(1);
}

/// The numbers as Prometheus reads them.
#[derive(Clone)]
pub struct Exposition(PrometheusHandle);

impl Exposition {
    /// Everything, in Prometheus' text format.
    pub fn render(&self) -> String {
        moments::publish();
        self.0.render()
    }

    /// Folds recorded times into their histograms. Must be called now and then, or they pile up between scrapes.
    pub fn run_upkeep(&self) {
        self.0.run_upkeep();
    }
}

impl std::fmt::Debug for Exposition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Exposition")
    }
}

/// Installs the recorder behind all of the above, once per process; later calls get the same one. `None` where the
/// process has installed a recorder of its own: then the numbers are there.
pub fn install() -> Option<Exposition> {
    static INSTALLED: OnceLock<Option<Exposition>> = OnceLock::new();
    INSTALLED
        .get_or_init(|| {
            let recorder = with_buckets(PrometheusBuilder::new()).build_recorder();
            let handle = recorder.handle();
            ::metrics::set_global_recorder(recorder).ok()?;
            describe();
            start_at_zero();
            Some(Exposition(handle))
        })
        .clone()
}

fn with_buckets(mut builder: PrometheusBuilder) -> PrometheusBuilder {
    for (name, buckets) in [(STAGE_SECONDS, SECONDS), (BATCH_FILL, FILL), (BATCH_ROLLOUTS, ROLLOUTS)] {
        builder = builder
            .set_buckets_for_metric(Matcher::Full(name.into()), buckets)
            .expect("the only error is an empty list of buckets");
    }
    builder
}

fn describe() {
    describe_counter!(ROLLOUTS_ACCEPTED, Unit::Count, "Rollouts that intake accepted.");
    describe_counter!(ROLLOUTS_SCORED, Unit::Count, "Rollouts answered with rewards.");
    describe_counter!(ROLLOUTS_REJECTED, Unit::Count, "Rollouts answered with a rejection, by code.");
    describe_gauge!(QUEUE_ROLLOUTS, Unit::Count, "Rollouts waiting for the engine.");
    describe_gauge!(QUEUE_TOKENS, Unit::Count, "Tokens of the rollouts waiting for the engine.");
    describe_counter!(BATCHES, Unit::Count, "Micro-batches packed.");
    describe_histogram!(BATCH_ROLLOUTS, Unit::Count, "Rollouts in one micro-batch.");
    describe_histogram!(BATCH_FILL, "Unique tokens of a micro-batch as a share of its budget.");
    describe_counter!(TOKENS_SUBMITTED, Unit::Count, "Tokens of the rollouts in micro-batches, each for itself.");
    describe_counter!(TOKENS_UNIQUE, Unit::Count, "Tokens in micro-batches: a shared prefix counts once in each.");
    describe_counter!(
        TOKENS_REUSED,
        Unit::Count,
        "Those of the unique tokens that the prefix cache had, and nobody computed."
    );
    describe_histogram!(STAGE_SECONDS, Unit::Seconds, "Time that a rollout spent in a stage of its way.");
    describe_counter!(ENGINE_FAILURES, Unit::Count, "Micro-batches that the engine failed on.");
    describe_gauge!(STREAMS_OPEN, Unit::Count, "Open streams.");
    describe_gauge!(LANES_OPEN, Unit::Count, "Open lanes.");
    describe_counter!(LANES_CLOSED, Unit::Count, "Lanes that were closed, or not opened, by reason.");
    describe_gauge!(REWARD_MEAN, "Mean of the rewards since the start.");
    describe_gauge!(REWARD_STD, "Population standard deviation of the rewards since the start.");
    describe_gauge!(ATTRIBUTE_MEAN, "Mean of an attribute since the start.");
    describe_gauge!(ATTRIBUTE_STD, "Population standard deviation of an attribute since the start.");
    describe_gauge!(INFO, "Always 1; the labels say which model and which build.");
}

/// A counter that appears with its first event hides that event from `rate()`; so all begin at zero.
fn start_at_zero() {
    for name in
        [ROLLOUTS_ACCEPTED, ROLLOUTS_SCORED, BATCHES, TOKENS_SUBMITTED, TOKENS_UNIQUE, TOKENS_REUSED, ENGINE_FAILURES]
    {
        counter!(name).absolute(0);
    }
    for code in Code::ALL {
        counter!(ROLLOUTS_REJECTED, "code" => code.name()).absolute(0);
    }
    gauge!(STREAMS_OPEN).set(0.0);
    gauge!(LANES_OPEN).set(0.0);
    for end in LaneEnd::ALL {
        counter!(LANES_CLOSED, "reason" => end.name()).absolute(0);
    }
    queue(0, 0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reward::Rejection;

    /// The value of a sample line, by everything before the value.
    fn sample(text: &str, series: &str) -> Option<f64> {
        text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
    }

    #[test]
    fn what_is_recorded_is_exposed() {
        let exposition = install().unwrap();
        let before = exposition.render();
        answered(&Err(Rejection::new(Code::TooLong, "")));
        stage(Stage::Forward, Duration::from_micros(700));
        batch(10, 40, 4, 20);
        let stream = open_stream();
        exposition.run_upkeep();
        let after = exposition.render();

        // Other tests of this process may count at the same time.
        let rose = |series: &str| sample(&after, series).unwrap() - sample(&before, series).unwrap_or(0.0);
        assert!(rose("reward_sidecar_rollouts_rejected_total{code=\"TOO_LONG\"}") >= 1.0);
        assert!(rose("reward_sidecar_stage_seconds_bucket{stage=\"forward\",le=\"0.001\"}") >= 1.0);
        assert!(rose("reward_sidecar_batch_fill_ratio_bucket{le=\"0.5\"}") >= 1.0);
        assert!(rose("reward_sidecar_tokens_submitted_total") >= 40.0);
        assert!(rose("reward_sidecar_tokens_unique_total") >= 10.0);
        assert!(rose("reward_sidecar_streams_open") >= 1.0);
        assert!(after.contains("# TYPE reward_sidecar_stage_seconds histogram"), "{after}");
        drop(stream);
    }

    #[test]
    fn every_code_is_there_from_the_start() {
        let text = install().unwrap().render();
        for code in Code::ALL {
            let series = format!("reward_sidecar_rollouts_rejected_total{{code=\"{code}\"}}");
            assert!(sample(&text, &series).is_some(), "{series}");
        }
    }

    #[test]
    fn installing_twice_is_installing_once() {
        assert!(install().is_some() && install().is_some());
    }
}
