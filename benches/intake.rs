//! What the sidecar itself costs one rollout of 2,048 token ids, from its arrival to its answer: the scoring threads are woken,
//! and the engine takes almost no time. `cargo bench --bench intake` prints nanoseconds, without and with a recorder of metrics.

use std::hint::black_box;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use reward_sidecar::aggregate;
use reward_sidecar::batch::MicroBatch;
use reward_sidecar::engine::{EchoEngine, Engine};
use reward_sidecar::rollout::{AggregationSpec, Input, Rollout};
use reward_sidecar::sidecar::metrics::{self, Stage, Totals};
use reward_sidecar::sidecar::{Config, Identity, Intake, Interest, Sidecar, Ticket};

const TOKENS: u32 = 2048;
const ROUNDS: usize = 20_000;

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(async {
        let engine = EchoEngine::new(1 << 20);
        // No rollout waits for another: there is none.
        let config = Config { max_wait_ms: 0, ..Config::default() };
        let sidecar = Sidecar::start(config, Box::new(engine)).await.expect("a sidecar");
        parts();
        way("without a recorder", sidecar.intake());
        metrics::install().expect("no other recorder");
        way("with a recorder", sidecar.intake());
        sidecar.drain().await.expect("nothing is left");
    });
}

fn ids() -> Vec<u32> {
    (0..TOKENS).map(|i| i.wrapping_mul(2_654_435_761) >> 15).collect()
}

/// The parts that can be had apart.
fn parts() {
    let mut engine = EchoEngine::new(1 << 20);
    let card = engine.card().clone();
    let ids = ids();
    println!("parts");
    print("copy the ids", best(|| drop(black_box(ids.clone()))));
    print("bind the weights", best(|| drop(black_box(aggregate::bind(&AggregationSpec::default(), &card, true)))));
    print("pack", best(|| drop(black_box(MicroBatch::pack(&[&ids], true)))));
    let batch = MicroBatch::pack(&[&ids], true);
    print("score", best(|| drop(black_box(engine.score(&batch)))));
}

/// The whole way, and what the sidecar's own clock says of its stages.
fn way(name: &str, intake: &Intake) {
    let ids = ids();
    let (deliver, answers) = mpsc::channel();
    let ask = || {
        let rollout = Rollout { id: "a".into(), input: Some(Input::TokenIds(ids.clone())), ..Rollout::default() };
        let began = Instant::now();
        let deliver = deliver.clone();
        let ticket = Ticket::new(Interest::of(&Identity::new("test", None)), move |outcome| {
            deliver.send((Instant::now(), outcome)).expect("somebody listens");
        });
        intake.try_submit(rollout, ticket, began).expect("ids, and a queue with room");
        intake.wake();
        let (answered, outcome) = answers.recv().expect("an answer");
        outcome.expect("rewards");
        answered - began
    };
    (0..1000).for_each(|_| {
        ask();
    });
    let before = metrics::totals();
    let mut times: Vec<Duration> = (0..ROUNDS).map(|_| ask()).collect();
    let totals = metrics::totals() - before;
    times.sort_unstable();
    println!("\n{name}: {ROUNDS} rollouts, one after another");
    for (what, share) in [("median", 0.5), ("99 of 100", 0.99), ("worst", 1.0)] {
        print(what, times[((ROUNDS - 1) as f64 * share) as usize]);
    }
    let mean = |totals: &Totals, stage| totals.stage(stage) / ROUNDS as u32;
    print("mean of intake (checks, weights)", mean(&totals, Stage::Intake));
    print("mean of pack", mean(&totals, Stage::Pack));
    print("mean of forward", mean(&totals, Stage::Forward));
    print("mean of reply (outcome, answer)", mean(&totals, Stage::Reply));
    let known: Duration =
        [Stage::Intake, Stage::Pack, Stage::Forward, Stage::Reply].map(|s| mean(&totals, s)).iter().sum();
    print("mean of the rest (queue, plan, waking threads)", mean(&totals, Stage::Total).saturating_sub(known));
}

fn print(what: &str, time: Duration) {
    println!("  {what:<42} {:>8} ns", time.as_nanos());
}

/// The shortest mean over many runs.
fn best(mut f: impl FnMut()) -> Duration {
    const RUNS: u32 = 1000;
    let run = |_| {
        let began = Instant::now();
        (0..RUNS).for_each(|_| f());
        began.elapsed() / RUNS
    };
    (0..20).map(run).min().unwrap_or_default()
}
