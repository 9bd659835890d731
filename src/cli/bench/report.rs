//! What was measured, as tables and as JSON.

use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};

use super::Via;
use crate::model::compute::kernels::Peak;
use crate::model::compute::meter::{Part, Reading};
use crate::sidecar::metrics::{Stage, Totals};

/// Everything.
pub struct Report {
    pub version: String,
    pub threads: usize,
    pub via: Via,
    /// From the first byte of the model to a sidecar that takes rollouts.
    pub ready: Duration,
    pub measured: Vec<Measured>,
    pub lone: Lone,
}

/// A workload's runs.
pub struct Measured {
    pub name: String,
    /// One or more.
    pub runs: Vec<Run>,
    /// The bits of all attributes, in the order of its rollouts.
    pub rewards: Vec<u32>,
    /// Where the next one has the same rollouts in another way: whether all rewards have the same bits.
    pub same_bits: Option<bool>,
}

/// One run of a workload: the whole path, and the engine alone.
pub struct Run {
    /// Of the whole path.
    pub wall: Duration,
    pub totals: Totals,
    /// Of it, in the engine.
    pub busy: Duration,
    /// Of the engine alone.
    pub alone: Duration,
    /// What the engine did in that.
    pub parts: Reading,
    /// What the machine's fused multiply-adds reached between the micro-batches of that.
    pub peak: Peak,
}

/// One short rollout at a time, as medians.
pub struct Lone {
    pub tokens: u32,
    pub path: Duration,
    pub engine: Duration,
}

const STAGES: &[Stage] = &[Stage::Intake, Stage::Pack, Stage::Forward, Stage::Reply];

impl Measured {
    /// The run of the median by what `time` says.
    fn median(&self, time: impl Fn(&Run) -> Duration) -> &Run {
        let mut runs: Vec<&Run> = self.runs.iter().collect();
        runs.sort_by_key(|run| time(run));
        runs[runs.len() / 2]
    }

    fn whole(&self) -> &Run {
        self.median(|run| run.wall)
    }

    fn alone(&self) -> &Run {
        self.median(|run| run.alone)
    }
}

impl Run {
    fn computed(&self) -> u64 {
        self.totals.tokens_unique - self.totals.tokens_reused
    }

    /// The whole path's throughput as a share of the engine's own in the same run.
    fn efficiency(&self) -> f64 {
        self.alone.as_secs_f64() / self.wall.as_secs_f64()
    }

    fn rate(&self) -> f64 {
        self.parts.all_operations() as f64 / self.alone.as_secs_f64()
    }

    /// Time of a stage as a share of the wall clock; stages on threads of their own overlap.
    fn stage(&self, stage: Stage) -> f64 {
        self.totals.stage(stage).as_secs_f64() / self.wall.as_secs_f64()
    }

    fn part(&self, part: Part) -> f64 {
        self.parts.time(part).as_secs_f64() / self.alone.as_secs_f64()
    }

    /// Operations per second within a part that has any.
    fn part_rate(&self, part: Part) -> Option<f64> {
        let operations = self.parts.operations(part);
        (operations > 0).then(|| operations as f64 / self.parts.time(part).as_secs_f64())
    }
}

fn per_second(count: u64, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let via = if self.via == Via::Grpc { "gRPC over loopback" } else { "a lane" };
        writeln!(f, "model {}, {} threads, {}", self.version, self.threads, cpu())?;
        writeln!(
            f,
            "start to ready {:.2} s, peak memory {} MiB; clients come over {via}",
            self.ready.as_secs_f64(),
            peak_bytes() >> 20
        )?;
        let Lone { tokens, path, engine } = &self.lone;
        let ms = |time: &Duration| 1e3 * time.as_secs_f64();
        writeln!(
            f,
            "a lone rollout of {tokens} tokens: {:.2} ms, of which the engine has {:.2} ms\n",
            ms(path),
            ms(engine)
        )?;
        writeln!(
            f,
            "| workload | rollouts | tokens submitted | unique | computed | submitted tokens/s | computed tokens/s | of the engine alone |"
        )?;
        writeln!(f, "|---|---|---|---|---|---|---|---|")?;
        for measured in &self.measured {
            let run = measured.whole();
            let t = &run.totals;
            writeln!(
                f,
                "| {} | {} | {} | {} | {} | {:.0} | {:.0} | {:.1} % |",
                measured.name,
                t.scored,
                t.tokens_submitted,
                t.tokens_unique,
                run.computed(),
                per_second(t.tokens_submitted, run.wall),
                per_second(run.computed(), run.wall),
                100.0 * run.efficiency()
            )?;
        }
        for (measured, whole) in self.measured.iter().zip(self.measured.iter().skip(1)) {
            let Some(same_bits) = measured.same_bits else { continue };
            let (run, whole) = (measured.whole(), whole.whole());
            let t = &run.totals;
            writeln!(
                f,
                "\n{}: {} of {} tokens computed, {} reused, {} computed again for want of room; {:.2} times the tokens and {:.2} \
                 times the seconds ({:.1} s) of the same turns at once; {} bits",
                measured.name,
                run.computed(),
                t.tokens_submitted,
                t.tokens_reused,
                t.tokens_recomputed,
                run.computed() as f64 / whole.computed() as f64,
                run.wall.as_secs_f64() / whole.wall.as_secs_f64(),
                run.wall.as_secs_f64(),
                if same_bits { "the same" } else { "OTHER" }
            )?;
        }
        writeln!(f, "\nThe engine alone, with the same micro-batches:\n")?;
        writeln!(
            f,
            "| workload | micro-batches | submitted tokens/s | computed tokens/s | GFLOP/s | peak GFLOP/s, mean and best | of the mean | of the best |"
        )?;
        writeln!(f, "|---|---|---|---|---|---|---|---|")?;
        for measured in &self.measured {
            let run = measured.alone();
            writeln!(
                f,
                "| {} | {} | {:.0} | {:.0} | {:.1} | {:.1}, {:.1} | {:.0} % | {:.0} % |",
                measured.name,
                run.totals.batches,
                per_second(run.totals.tokens_submitted, run.alone),
                per_second(run.computed(), run.alone),
                run.rate() / 1e9,
                run.peak.mean / 1e9,
                run.peak.best / 1e9,
                100.0 * run.rate() / run.peak.mean,
                100.0 * run.rate() / run.peak.best
            )?;
        }
        writeln!(f, "\nWhere the engine's time goes, and at which share of the mean peak:\n")?;
        writeln!(f, "| workload | {} |", Part::ALL.iter().map(|part| part.name()).collect::<Vec<_>>().join(" | "))?;
        writeln!(f, "|---|{}", "---|".repeat(Part::ALL.len()))?;
        for measured in &self.measured {
            let run = measured.alone();
            let cell = |&part: &Part| match run.part_rate(part) {
                Some(rate) => format!("{:.1} % (at {:.0} %)", 100.0 * run.part(part), 100.0 * rate / run.peak.mean),
                None => format!("{:.1} %", 100.0 * run.part(part)),
            };
            let cells: Vec<String> = Part::ALL.iter().map(cell).collect();
            writeln!(f, "| {} | {} |", measured.name, cells.join(" | "))?;
        }
        writeln!(
            f,
            "\nTime per stage as a share of the wall clock (intake and packing run beside the forward pass):\n"
        )?;
        writeln!(f, "| workload | {} |", STAGES.iter().map(|stage| stage.name()).collect::<Vec<_>>().join(" | "))?;
        writeln!(f, "|---|{}", "---|".repeat(STAGES.len()))?;
        for measured in &self.measured {
            let run = measured.whole();
            let cells: Vec<String> = STAGES.iter().map(|&stage| format!("{:.2} %", 100.0 * run.stage(stage))).collect();
            writeln!(f, "| {} | {} |", measured.name, cells.join(" | "))?;
        }
        Ok(())
    }
}

impl Report {
    /// For programs.
    pub fn to_json(&self) -> Value {
        json!({
            "model_version": self.version,
            "cpu": cpu(),
            "threads": self.threads,
            "via": if self.via == Via::Grpc { "grpc" } else { "shm" },
            "start_to_ready_seconds": self.ready.as_secs_f64(),
            "peak_bytes": peak_bytes(),
            "lone_rollout": {
                "tokens": self.lone.tokens,
                "seconds": self.lone.path.as_secs_f64(),
                "engine_seconds": self.lone.engine.as_secs_f64(),
            },
            "workloads": self.measured.iter().map(Measured::to_json).collect::<Vec<_>>(),
        })
    }
}

impl Measured {
    fn to_json(&self) -> Value {
        let (whole, alone) = (self.whole(), self.alone());
        let t = &whole.totals;
        let stages: serde_json::Map<_, _> =
            STAGES.iter().map(|&stage| (stage.name().to_owned(), json!(whole.stage(stage)))).collect();
        let parts: serde_json::Map<_, _> = Part::ALL
            .iter()
            .map(|&part| {
                let value = json!({
                    "share": alone.part(part),
                    "gflops": alone.part_rate(part).map(|rate| rate / 1e9),
                });
                (part.name().to_owned(), value)
            })
            .collect();
        json!({
            "name": self.name,
            "rollouts": t.scored,
            "tokens_submitted": t.tokens_submitted,
            "tokens_unique": t.tokens_unique,
            "tokens_reused": t.tokens_reused,
            "tokens_recomputed": t.tokens_recomputed,
            "same_bits_at_once": self.same_bits,
            "micro_batches": t.batches,
            "wall_seconds": whole.wall.as_secs_f64(),
            "engine_busy_seconds": whole.busy.as_secs_f64(),
            "rollouts_per_second": per_second(t.scored, whole.wall),
            "submitted_tokens_per_second": per_second(t.tokens_submitted, whole.wall),
            "unique_tokens_per_second": per_second(t.tokens_unique, whole.wall),
            "computed_tokens_per_second": per_second(whole.computed(), whole.wall),
            "share_of_engine_alone": whole.efficiency(),
            "share_of_wall": stages,
            "engine_alone": {
                "wall_seconds": alone.alone.as_secs_f64(),
                "submitted_tokens_per_second": per_second(alone.totals.tokens_submitted, alone.alone),
                "computed_tokens_per_second": per_second(alone.computed(), alone.alone),
                "gflops": alone.rate() / 1e9,
                "peak_gflops": alone.peak.best / 1e9,
                "mean_peak_gflops": alone.peak.mean / 1e9,
                "parts": parts,
            },
        })
    }
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
