//! `bench`: the tables in the README, on this machine: the engine alone, and the whole path from a client to its rewards.

mod measure;
mod recorded;
mod report;
mod workload;

use std::path::PathBuf;
use std::time::Instant;

use self::measure::Bench as Measurement;
use self::recorded::Recorded;
use self::workload::MadeUp;
use super::engine;
use super::exit::Exit;
use super::failure::Failure;
use super::output;
use crate::config::{self, Flags, SCORE};
use crate::telemetry::Telemetry;

/// Measure the engine alone, and the whole path: client, transport, micro-batches, forward pass, rewards, client.
///
/// Without --input, workloads are made up, the same on every machine: independent rollouts, groups of 16 completions that
/// share a prompt, and conversations that come back a turn longer; shorter ones where the model's context is short, and token
/// ids where it takes no text: the table says so. Every run begins with an empty prefix cache; the engine alone is given the
/// micro-batches that the whole path has made. Tokens are counted three times: submitted (each rollout for itself), unique
/// (a shared prefix once per micro-batch), and computed (without what the prefix cache had).
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Example:\n  reward-sidecar bench --model demo --input rollouts.jsonl --repeat 5")]
pub struct Bench {
    /// Made-up workload to measure with; may be given several times [default: independent and groups]
    #[arg(long, value_enum, value_name = "NAME", conflicts_with = "input")]
    workload: Vec<MadeUp>,
    /// Rollout file to measure with, instead of the made-up workloads; may be given several times
    #[arg(long, value_name = "FILE")]
    input: Vec<PathBuf>,
    /// How often each workload is run; the median counts
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    repeat: u16,
    /// How clients reach the sidecar: gRPC over loopback, or a lane in shared memory (Linux)
    #[arg(long, value_enum, default_value_t)]
    via: Via,
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    flags: Flags<SCORE>,
}

/// A transport.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
enum Via {
    #[default]
    Grpc,
    Shm,
}

impl Bench {
    pub fn run(self) -> Result<Exit, Failure> {
        let loaded = config::load_here(&self.flags)?;
        let model = loaded.settings.model()?;
        Telemetry::logs(&loaded)?;
        let recorded = self.input.iter().map(|path| workload::read(path)).collect::<Result<Vec<_>, _>>()?;
        let default = [MadeUp::Independent, MadeUp::Groups];
        let made_up = if self.workload.is_empty() { &default[..] } else { &self.workload };
        let started = Instant::now();
        let engine = Recorded::new(engine::load(&model)?);
        let loading = started.elapsed();
        let measurement = Measurement::start(&loaded.settings, self.via, engine, loading)?;
        let mut measured = Vec::new();
        if recorded.is_empty() {
            for &made_up in made_up {
                measured.extend(measurement.made_up(made_up, self.repeat)?);
            }
        }
        for workload in recorded {
            measured.extend(measurement.recorded(workload, self.repeat)?);
        }
        let report = measurement.finish(measured)?;
        let text = if self.json { format!("{:#}\n", report.to_json()) } else { report.to_string() };
        output::print(&text)?;
        Ok(Exit::DONE)
    }
}
