//! The name of every metric, and what it counts.

use ::metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

/// Declares names with their descriptions, which become both documentation and the exposition's help.
macro_rules! names {
    ($($kind:ident $name:ident = $value:literal, $unit:ident: $what:literal;)*) => {
        $(#[doc = $what] pub const $name: &str = $value;)*

        /// Every metric: its kind, its name, and what it counts.
        pub const ALL: &[(&str, &str, &str)] = &[$((stringify!($kind), $name, $what)),*];

        /// Tells the recorder what each metric is.
        pub(super) fn describe() {
            $(names!(@$kind $name, $unit, $what);)*
        }
    };
    (@counter $name:ident, $unit:ident, $what:literal) => { describe_counter!($name, Unit::$unit, $what) };
    (@gauge $name:ident, Ratio, $what:literal) => { describe_gauge!($name, $what) };
    (@gauge $name:ident, $unit:ident, $what:literal) => { describe_gauge!($name, Unit::$unit, $what) };
    (@histogram $name:ident, Ratio, $what:literal) => { describe_histogram!($name, $what) };
    (@histogram $name:ident, $unit:ident, $what:literal) => { describe_histogram!($name, Unit::$unit, $what) };
}

names! {
    counter ROLLOUTS_ACCEPTED = "reward_sidecar_rollouts_accepted_total",
        Count: "Rollouts that passed all checks and were given room in the queue, by transport.";
    counter ROLLOUTS_SCORED = "reward_sidecar_rollouts_scored_total",
        Count: "Rollouts answered with rewards, by transport.";
    counter ROLLOUTS_REJECTED = "reward_sidecar_rollouts_rejected_total",
        Count: "Rollouts answered with a rejection, accepted before or not, by code and transport.";
    gauge QUEUE_ROLLOUTS = "reward_sidecar_queue_rollouts",
        Count: "Accepted rollouts that are in no micro-batch yet.";
    gauge QUEUE_TOKENS = "reward_sidecar_queue_tokens",
        Count: "Tokens of the accepted rollouts that are in no micro-batch yet.";
    gauge TOKENIZER_WAITING = "reward_sidecar_tokenizer_waiting_rollouts",
        Count: "Rollouts whose text waits for a tokenizer's thread.";
    gauge ROOM_WAITING = "reward_sidecar_room_waiting_rollouts",
        Count: "Rollouts that passed all checks and wait for room in the queue.";
    counter BATCHES = "reward_sidecar_batches_total",
        Count: "Micro-batches that the engine has scored.";
    histogram BATCH_ROLLOUTS = "reward_sidecar_batch_rollouts",
        Count: "Rollouts in one scored micro-batch.";
    histogram BATCH_FILL = "reward_sidecar_batch_fill_ratio",
        Ratio: "Computed tokens of a scored micro-batch as a share of max_batch_tokens.";
    counter TOKENS_SUBMITTED = "reward_sidecar_tokens_submitted_total",
        Count: "Tokens of the rollouts in scored micro-batches, each rollout for itself.";
    counter TOKENS_UNIQUE = "reward_sidecar_tokens_unique_total",
        Count: "Tokens in scored micro-batches: a shared prefix counts once in each.";
    counter TOKENS_REUSED = "reward_sidecar_tokens_reused_total",
        Count: "Those of the unique tokens that the engine had kept from earlier passes and did not compute.";
    counter TOKENS_RECOMPUTED = "reward_sidecar_tokens_recomputed_total",
        Count: "Unique tokens that were computed again because the prefix cache had no room to keep them; an estimate, in steps of 16.";
    histogram STAGE_SECONDS = "reward_sidecar_stage_seconds",
        Seconds: "Time per stage. intake: checks, template and tokens of a rollout; admission: from its receipt until it is in the queue, waiting for a tokenizer and for room included; queue: from there to the start of its forward pass; pack: packing of a micro-batch; forward: the forward pass of a micro-batch; reply: aggregation and answer of a scored rollout; total: from receipt to the answer of a scored rollout.";
    counter ENGINE_FAILURES = "reward_sidecar_engine_failures_total",
        Count: "Micro-batches that the engine failed on.";
    gauge STREAMS_OPEN = "reward_sidecar_streams_open",
        Count: "Open streams.";
    gauge LANES_OPEN = "reward_sidecar_lanes_open",
        Count: "Open lanes.";
    counter LANES_CLOSED = "reward_sidecar_lanes_closed_total",
        Count: "Lanes that were closed, or not opened, by reason.";
    counter ACCEPT_PAUSES = "reward_sidecar_accept_pauses_total",
        Count: "How often no further client was accepted for a while, because all connections, lanes or descriptors were in use, by acceptor.";
    gauge REWARD_MEAN = "reward_sidecar_reward_mean",
        Ratio: "Mean of the rewards since the start, by model.";
    gauge REWARD_STD = "reward_sidecar_reward_std",
        Ratio: "Population standard deviation of the rewards since the start, by model.";
    gauge ATTRIBUTE_MEAN = "reward_sidecar_attribute_mean",
        Ratio: "Mean of an attribute since the start, by model and attribute.";
    gauge ATTRIBUTE_STD = "reward_sidecar_attribute_std",
        Ratio: "Population standard deviation of an attribute since the start, by model and attribute.";
    gauge INFO = "reward_sidecar_info",
        Ratio: "Always 1; the labels say which model and which build.";
}
