//! The measuring itself.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rayon::ThreadPool;
use tokio::runtime::Runtime;

use super::Via;
use super::recorded::{Recorded, Recording};
use super::report::{Lone, Measured, Report, Run};
use super::workload::{Form, MadeUp, Workload};
use crate::cli::failure::Failure;
use crate::cli::runtime;
use crate::client::blocking::Client;
use crate::config::Settings;
use crate::engine::Engine as _;
use crate::model::compute::kernels::{self, Peak};
use crate::model::compute::meter;
use crate::reward::{Code, Rejection};
use crate::rollout::{AnswerOnly, Input, Rollout, Rollouts};
use crate::sidecar::Sidecar;
use crate::sidecar::made_up;
use crate::sidecar::metrics;

/// How long the peak is looked at after each micro-batch of the engine alone: often, for a machine is not always the same.
const PEAK_TIME: Duration = Duration::from_millis(100);
/// Tokens of the rollout that comes alone, and how often one does.
const LONE_TOKENS: u32 = 64;
const LONE_RUNS: usize = 21;

/// Why a workload was not measured.
enum Unmeasured {
    /// The model does not take one of its rollouts. A workload that is partly rejected measures something else.
    Rejected {
        id: String,
        rejection: Rejection,
    },
    Failed(Failure),
}

impl Unmeasured {
    fn internal(error: impl std::fmt::Display) -> Self {
        Self::Failed(internal(error))
    }
}

impl From<Unmeasured> for Failure {
    fn from(reason: Unmeasured) -> Self {
        match reason {
            Unmeasured::Rejected { id, rejection } => {
                Self::usage("INPUT", format!("rollout '{id}' was rejected: {rejection}"))
            }
            Unmeasured::Failed(failure) => failure,
        }
    }
}

/// A sidecar with a client, ready to be measured.
pub struct Bench {
    // Dropped in this order where a measurement fails: a client whose server ends first would say so.
    client: Client,
    sidecar: Sidecar,
    runtime: Runtime,
    engine: Recorded,
    /// As many threads as the model has.
    pool: ThreadPool,
    ready: Duration,
    via: Via,
}

impl Bench {
    /// Starts the sidecar of an engine that took so long to load.
    pub fn start(settings: &Settings, via: Via, engine: Recorded, loading: Duration) -> Result<Self, Failure> {
        let began = Instant::now();
        let runtime = runtime::start()?;
        let mut config = settings.sidecar_unheard();
        match via {
            Via::Grpc => config.grpc = Some(([127, 0, 0, 1], 0).into()),
            // The sidecar removes it when it ends.
            Via::Shm => {
                let name = format!("reward-sidecar-bench-{}.sock", std::process::id());
                config.shm = Some(std::env::temp_dir().join(name));
            }
        }
        let lanes = config.shm.clone();
        let sidecar = runtime.block_on(Sidecar::start(config, Box::new(engine.clone())))?;
        let ready = loading + began.elapsed();
        let address = match (&lanes, sidecar.grpc_addr()) {
            (Some(path), _) => format!("shm://{}", path.display()),
            (None, Some(address)) => format!("grpc://{address}"),
            (None, None) => return Err(internal("the server has no address")),
        };
        let client = Client::connect(address).map_err(internal)?;
        let threads = match settings.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().map_err(internal)?;
        let bench = Self { client, sidecar, runtime, engine, pool, ready, via };
        // First touches of memory, threads and the connection are nobody's throughput.
        bench.score(&[Arc::new((0..4).map(|i| bench.short(i)).collect::<Vec<_>>())])?;
        Ok(bench)
    }

    /// Measures a made-up workload in the first form that the model takes, as long as its context allows.
    pub fn made_up(&self, made_up: MadeUp, repeat: u16) -> Result<Vec<Measured>, Failure> {
        let mut form = Form::FIRST;
        loop {
            let rejected = match self.with_whole(made_up.workload(self.engine.card(), form), repeat) {
                Err(rejected @ Unmeasured::Rejected { .. }) => rejected,
                measured => return Ok(measured?),
            };
            let next = match &rejected {
                Unmeasured::Rejected { rejection, .. } if rejection.code == Code::TooLong => form.shortened(),
                _ => form.other(),
            };
            form = next.ok_or(rejected)?;
        }
    }

    /// Measures a rollout file, every rollout of which the model must take.
    pub fn recorded(&self, workload: Workload, repeat: u16) -> Result<Vec<Measured>, Failure> {
        Ok(self.with_whole(workload, repeat)?)
    }

    /// Measures a workload, and what it is compared with.
    fn with_whole(&self, mut workload: Workload, repeat: u16) -> Result<Vec<Measured>, Unmeasured> {
        let whole = workload.whole.take();
        let mut measured = self.workload(workload, repeat)?;
        let Some(whole) = whole else { return Ok(vec![measured]) };
        let whole = self.workload(*whole, repeat)?;
        measured.same_bits = Some(measured.rewards == whole.rewards);
        Ok(vec![measured, whole])
    }

    /// Measures a workload: the whole path, then the engine alone with the same micro-batches, again and again.
    fn workload(&self, workload: Workload, repeat: u16) -> Result<Measured, Unmeasured> {
        let rounds = workload.rounds.into_iter().map(|round| Arc::new(round) as Arc<dyn Rollouts>);
        let rounds: Vec<Arc<dyn Rollouts>> = rounds.collect();
        let (mut runs, mut rewards) = (Vec::new(), Vec::new());
        for _ in 0..repeat {
            self.engine.restart();
            let before = metrics::totals();
            let wall;
            (wall, rewards) = self.score(&rounds)?;
            let totals = metrics::totals() - before;
            let Recording { batches, busy } = self.engine.restart();

            let mut peaks = Vec::new();
            let before = meter::read();
            let look = || peaks.push(self.pool.install(|| kernels::peak(PEAK_TIME)));
            let alone = self.engine.replay(&batches, look).map_err(Unmeasured::internal)?;
            let parts = meter::read() - before;
            let peak = Peak {
                best: peaks.iter().map(|peak| peak.best).fold(0.0, f64::max),
                mean: peaks.iter().map(|peak| peak.mean).sum::<f64>() / peaks.len() as f64,
            };
            runs.push(Run { wall, totals, busy, alone, parts, peak });
        }
        Ok(Measured { name: workload.name, runs, rewards, same_bits: None })
    }

    /// Ends the sidecar, after a last question: how long one short rollout takes when nothing else is to be done.
    pub fn finish(self, measured: Vec<Measured>) -> Result<Report, Failure> {
        let lone = self.lone()?;
        let Self { client, sidecar, runtime, engine, pool, ready, via } = self;
        drop(client);
        runtime.block_on(sidecar.drain())?;
        let version = engine.card().model_version.to_string();
        Ok(Report { version, threads: pool.current_num_threads(), via, ready, measured, lone })
    }

    /// Medians.
    fn lone(&self) -> Result<Lone, Failure> {
        let (mut path, mut engine) = (Vec::new(), Vec::new());
        for run in 0..LONE_RUNS as u32 {
            self.engine.restart();
            path.push(self.score(&[Arc::new(vec![self.short(run)])])?.0);
            engine.push(self.engine.restart().busy);
        }
        path.sort_unstable();
        engine.sort_unstable();
        let tokens = made_up::token_ids(self.engine.card(), 0, LONE_TOKENS).len() as u32;
        Ok(Lone { tokens, path: path[LONE_RUNS / 2], engine: engine[LONE_RUNS / 2] })
    }

    /// A short rollout of tokens that the model has.
    fn short(&self, number: u32) -> Rollout {
        let card = self.engine.card();
        let ids = made_up::token_ids(card, number * LONE_TOKENS, LONE_TOKENS);
        Rollout {
            id: format!("short-{number}"),
            input: Some(Input::TokenIds(ids)),
            aggregation: made_up::aggregation(card).into(),
            answer_only: Some(AnswerOnly::OFF),
            ..Rollout::default()
        }
    }

    /// Sends each round as fast as it is taken and waits for all its answers: the time, and the bits of all attributes.
    fn score(&self, rounds: &[Arc<dyn Rollouts>]) -> Result<(Duration, Vec<u32>), Unmeasured> {
        let (mut wall, mut bits) = (Duration::ZERO, Vec::new());
        for round in rounds {
            let began = Instant::now();
            let outcomes = self.client.score_all(Arc::clone(round), &mut || true).map_err(Unmeasured::internal)?;
            wall += began.elapsed();
            for (number, outcome) in outcomes.into_iter().enumerate() {
                let rejected = |rejection| Unmeasured::Rejected { id: round.get(number).id.to_string(), rejection };
                bits.extend(outcome.map_err(rejected)?.attributes.iter().map(|value| value.to_bits()));
            }
        }
        Ok((wall, bits))
    }
}

fn internal(error: impl std::fmt::Display) -> Failure {
    Failure::internal(error.to_string())
}
