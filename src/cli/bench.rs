//! `bench`: the table in the README, on this machine: the whole path from a client's stream to its rewards.

mod workload;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::json;

use self::workload::Workload;
use super::engine;
use super::exit::Exit;
use super::failure::Failure;
use crate::client::Client;
use crate::config::{self, Flags, SCORE, Settings};
use crate::model;
use crate::rollout::Rollout;
use crate::sidecar::metrics::{self, Stage, Totals};
use crate::sidecar::{self, Sidecar};
use crate::telemetry::Telemetry;

/// Measure the whole path: client, gRPC over loopback, micro-batches, forward pass, rewards, client.
///
/// Without --input, two workloads are made up, the same on every machine: independent rollouts, and groups of 16
/// completions that share a prompt. Tokens are counted twice: submitted (each rollout for itself) and unique (a
/// shared prefix once per micro-batch), which is what is computed.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Example:\n  reward-sidecar bench --model demo --input rollouts.jsonl --repeat 5")]
pub struct Bench {
    /// Rollout file to measure with, instead of the made-up workloads; may be given several times
    #[arg(long, value_name = "FILE")]
    input: Vec<PathBuf>,
    /// How often each workload is run; the median counts
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    repeat: u16,
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    flags: Flags<SCORE>,
}

/// One run of one workload.
struct Run {
    wall: Duration,
    totals: Totals,
}

impl Run {
    fn per_second(&self, count: u64) -> f64 {
        count as f64 / self.wall.as_secs_f64()
    }

    /// Time of a stage as a share of the wall clock; stages on threads of their own overlap.
    fn share(&self, stage: Stage) -> f64 {
        self.totals.stage(stage).as_secs_f64() / self.wall.as_secs_f64()
    }
}

impl Bench {
    pub fn run(self) -> Result<Exit, Failure> {
        let started = Instant::now();
        let settings = config::load_here(&self.flags)?.settings;
        let model = settings.model()?;
        Telemetry::start(&settings.log, None)?;
        let workloads = match self.input.is_empty() {
            true => vec![workload::independent(), workload::groups()],
            false => self.input.iter().map(|path| workload::read(path)).collect::<Result<_, _>>()?,
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .map_err(|e| Failure::internal(format!("cannot start the runtime: {e}")))?;
        runtime.block_on(self.measure(started, &settings, model, workloads))?;
        Ok(Exit::DONE)
    }

    async fn measure(
        &self,
        started: Instant,
        settings: &Settings,
        model: model::Config,
        workloads: Vec<Workload>,
    ) -> Result<(), Failure> {
        let reading = started.elapsed();
        let engine = tokio::task::spawn_blocking(move || engine::load(&model))
            .await
            .map_err(|e| Failure::internal(format!("loading the model: {e}")))??;
        let version = engine.card().model_version.clone();
        let config =
            sidecar::Config { grpc: Some(([127, 0, 0, 1], 0).into()), uds: None, shm: None, ..settings.sidecar() };
        let sidecar = Sidecar::start(config, engine).await?;
        let ready = started.elapsed() - reading;

        let address = sidecar.grpc_addr().ok_or_else(|| internal("the server has no address"))?;
        let client = Client::connect(format!("grpc://{address}")).await.map_err(internal)?;
        // First touches of memory, threads and the connection are nobody's throughput.
        if let Some(first) = workloads.first() {
            score(&client, first.rollouts.iter().take(4).cloned().collect()).await?;
        }
        let mut measured = Vec::new();
        for workload in workloads {
            let mut runs = Vec::new();
            for _ in 0..self.repeat {
                runs.push(score(&client, workload.rollouts.clone()).await?);
            }
            runs.sort_by_key(|run| run.wall);
            measured.push((workload.name, runs.swap_remove(runs.len() / 2)));
        }
        client.close().await;
        sidecar.drain().await?;

        let threads = match settings.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            n => n,
        };
        match self.json {
            true => print_json(&version, threads, ready, &measured),
            false => print_table(&version, threads, ready, &measured),
        }
        Ok(())
    }
}

/// Sends everything as fast as the stream takes it and waits for all answers.
async fn score(client: &Client, rollouts: Vec<Rollout>) -> Result<Run, Failure> {
    let before = metrics::totals();
    let began = Instant::now();
    let outcomes = client.score_all(rollouts).await.map_err(internal)?;
    let wall = began.elapsed();
    for outcome in outcomes {
        // A workload that is partly rejected measures something else.
        outcome.map_err(|rejection| Failure::usage("INPUT", format!("a rollout was rejected: {rejection}")))?;
    }
    Ok(Run { wall, totals: metrics::totals() - before })
}

fn internal(error: impl std::fmt::Display) -> Failure {
    Failure::internal(error.to_string())
}

const STAGES: &[Stage] = &[Stage::Intake, Stage::Pack, Stage::Forward, Stage::Reply];

fn print_table(version: &str, threads: usize, ready: Duration, measured: &[(String, Run)]) {
    println!("model {version}, {threads} threads, {}", cpu());
    println!("start to ready {:.2} s, peak memory {} MiB\n", ready.as_secs_f64(), peak_bytes() >> 20);
    println!("| workload | rollouts | tokens submitted | unique | rollouts/s | submitted tokens/s | unique tokens/s |");
    println!("|---|---|---|---|---|---|---|");
    for (name, run) in measured {
        let t = &run.totals;
        println!(
            "| {name} | {} | {} | {} | {:.1} | {:.0} | {:.0} |",
            t.scored,
            t.tokens_submitted,
            t.tokens_unique,
            run.per_second(t.scored),
            run.per_second(t.tokens_submitted),
            run.per_second(t.tokens_unique)
        );
    }
    println!("\nTime per stage as a share of the wall clock (intake and packing run beside the forward pass):\n");
    println!("| workload | intake | pack | forward | reply |");
    println!("|---|---|---|---|---|");
    for (name, run) in measured {
        let shares: Vec<String> = STAGES.iter().map(|&stage| format!("{:.2} %", 100.0 * run.share(stage))).collect();
        println!("| {name} | {} |", shares.join(" | "));
    }
}

fn print_json(version: &str, threads: usize, ready: Duration, measured: &[(String, Run)]) {
    let workloads: Vec<_> = measured
        .iter()
        .map(|(name, run)| {
            let t = &run.totals;
            let shares: serde_json::Map<_, _> =
                STAGES.iter().map(|&stage| (stage.name().to_owned(), json!(run.share(stage)))).collect();
            json!({
                "name": name,
                "rollouts": t.scored,
                "tokens_submitted": t.tokens_submitted,
                "tokens_unique": t.tokens_unique,
                "micro_batches": t.batches,
                "wall_seconds": run.wall.as_secs_f64(),
                "rollouts_per_second": run.per_second(t.scored),
                "submitted_tokens_per_second": run.per_second(t.tokens_submitted),
                "unique_tokens_per_second": run.per_second(t.tokens_unique),
                "share_of_wall": shares,
            })
        })
        .collect();
    let report = json!({
        "model_version": version,
        "cpu": cpu(),
        "threads": threads,
        "start_to_ready_seconds": ready.as_secs_f64(),
        "peak_bytes": peak_bytes(),
        "workloads": workloads,
    });
    println!("{report:#}");
}

/// What the system calls its processor.
fn cpu() -> String {
    let line = proc_line("/proc/cpuinfo", "model name");
    line.map_or_else(|| std::env::consts::ARCH.into(), |line| line.trim_start_matches([' ', '\t', ':']).to_owned())
}

/// The most memory that was ever resident; 0 where the system does not tell.
fn peak_bytes() -> u64 {
    let kib = proc_line("/proc/self/status", "VmHWM:")
        .and_then(|line| line.split_whitespace().next().and_then(|n| n.parse::<u64>().ok()));
    kib.unwrap_or(0) * 1024
}

/// The rest of the first line that begins so.
fn proc_line(path: &str, begin: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| line.strip_prefix(begin).map(str::to_owned))
}
