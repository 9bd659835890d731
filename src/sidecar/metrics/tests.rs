//! What is recorded is exposed under its name.

use super::*;
use crate::reward::{Code, Rejection};

/// The value of a sample line, by everything before the value.
fn sample(text: &str, series: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

#[test]
fn what_is_recorded_is_exposed() {
    let exposition = install().unwrap();
    let before = exposition.render();
    answered("grpc", &Err(Rejection::new(Code::TooLong, "")));
    accepted("carrier-pigeon");
    stage(Stage::Forward, Duration::from_micros(700));
    batch(Batch { rollouts: 4, submitted: 40, unique: 10, reused: 3, recomputed: 2, limit: 20 });
    let guards = (open_stream(), waits_for_tokenizer(), waits_for_room());
    exposition.run_upkeep();
    let after = exposition.render();

    // Other tests of this process may count at the same time.
    let rose = |series: &str| sample(&after, series).unwrap() - sample(&before, series).unwrap_or(0.0);
    assert!(rose("reward_sidecar_rollouts_rejected_total{code=\"TOO_LONG\",transport=\"grpc\"}") >= 1.0);
    assert!(rose("reward_sidecar_rollouts_accepted_total{transport=\"carrier-pigeon\"}") >= 1.0);
    assert!(rose("reward_sidecar_stage_seconds_bucket{stage=\"forward\",le=\"0.001\"}") >= 1.0);
    assert!(rose("reward_sidecar_batch_fill_ratio_bucket{le=\"0.5\"}") >= 1.0);
    assert!(rose("reward_sidecar_batches_total") >= 1.0);
    assert!(rose("reward_sidecar_tokens_submitted_total") >= 40.0);
    assert!(rose("reward_sidecar_tokens_unique_total") >= 10.0);
    assert!(rose("reward_sidecar_tokens_reused_total") >= 3.0);
    assert!(rose("reward_sidecar_tokens_recomputed_total") >= 2.0);
    assert!(sample(&after, "reward_sidecar_streams_open").unwrap() >= 1.0);
    assert!(sample(&after, "reward_sidecar_tokenizer_waiting_rollouts").unwrap() >= 1.0);
    assert!(sample(&after, "reward_sidecar_room_waiting_rollouts").unwrap() >= 1.0);
    assert!(after.contains("# TYPE reward_sidecar_stage_seconds histogram"), "{after}");
    drop(guards);
}

#[test]
fn every_code_is_there_from_the_start() {
    let text = install().unwrap().render();
    for code in Code::ALL {
        let series = format!("reward_sidecar_rollouts_rejected_total{{code=\"{code}\",transport=\"shm\"}}");
        assert!(sample(&text, &series).is_some(), "{series}");
    }
}

#[test]
fn installing_twice_is_installing_once() {
    assert!(install().is_some() && install().is_some());
}
