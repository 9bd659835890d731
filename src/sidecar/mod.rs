//! The sidecar: from arrival to reply, around one [`Engine`]. Knows no model and no weights.

mod accepting;
pub mod admin;
mod answer;
mod batcher;
mod bindings;
mod caller;
pub mod descriptors;
mod errors;
mod fair;
pub mod health;
mod intake;
mod known_answer;
mod listen_error;
mod listeners;
pub mod made_up;
pub mod metrics;
mod observer;
mod outcome;
mod queue;
mod reading;
mod rejections;
mod rules;
pub mod sample;
mod scorer;
mod served;
pub mod template;
mod ticket;
mod tokenize;
mod trace;
mod transport;
mod turn;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use self::descriptors::Descriptors;
use self::health::Health;
use self::known_answer::KnownAnswer;
use self::observer::Observers;
use self::served::{Common, Started};
#[cfg(target_os = "linux")]
use self::transport::shm;
use self::transport::{Transport, grpc, http};
use crate::engine::Engine;

pub use self::caller::Identity;
pub use self::errors::{DrainTimeout, StartError};
pub use self::intake::{Deferred, Intake};
pub use self::listen_error::{ListenError, MAX_SOCKET_PATH_BYTES, SocketError};
pub use self::listeners::Listeners;
pub use self::observer::{Accepted, Answered, Observer};
pub use self::served::Served;
pub use self::ticket::{Cancellation, Interest, Ticket};
pub use self::transport::http::{GymOnRejection, HttpAddress, HttpAddresses, NoAddress};

/// Everything about the sidecar that may be configured. See [`crate::limits`] for the ceilings.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// TCP address of the gRPC server; port 0 lets the system pick.
    pub grpc: Option<SocketAddr>,
    /// Path of the gRPC server's Unix socket.
    pub uds: Option<PathBuf>,
    /// Where HTTP is listened for.
    pub http: Vec<HttpAddress>,
    /// What NeMo-Gym's route says of a rollout that has no reward.
    pub gym_on_rejection: GymOnRejection,
    /// Most connections that HTTP has open at a time, over all its addresses.
    pub http_connections: usize,
    /// Path of the Unix socket that opens lanes in shared memory. Linux only.
    pub shm: Option<PathBuf>,
    /// How long the lanes' thread watches the rings before it sleeps, in microseconds.
    pub shm_spin_us: u64,
    /// Most lanes that may be open.
    pub shm_lanes: usize,
    /// Bytes of one lane's rollout ring; a power of two.
    pub shm_ring_bytes: usize,
    /// What happens to a rollout longer than the context.
    pub over_long: OverLong,
    /// Rows that one micro-batch computes: unique tokens that the engine has not kept. A longer rollout goes alone.
    pub max_batch_tokens: usize,
    /// Rollouts in one micro-batch.
    pub max_batch_rollouts: usize,
    /// How long the first rollout of a micro-batch waits for company while the engine is idle, in milliseconds.
    pub max_wait_ms: u64,
    /// In how many micro-batches a rollout may be passed over by later ones of its caller, and a caller by others, before it goes
    /// first.
    pub max_bypass: u32,
    /// Rollouts accepted and not yet handed to the engine; more wait for room.
    pub queue_rollouts: usize,
    /// Their tokens.
    pub queue_tokens: usize,
    /// Most connections that gRPC has open at a time; the next is accepted when one of them has closed.
    pub grpc_connections: usize,
    /// Bytes of messages and of texts that may be held for callers before the queue takes their rollouts.
    pub intake_bytes: usize,
    /// Unanswered rollouts of one stream; the stream is not read while there are so many.
    pub stream_in_flight: usize,
    /// Whether a prefix shared by rollouts of a micro-batch is computed once. Never changes a reward.
    pub share_prefixes: bool,
    /// Threads that turn text into tokens.
    pub tokenizer_threads: usize,
    /// How long accepted work may take to finish, and its answers to be read, after a request to stop, in milliseconds.
    pub drain_ms: u64,
    /// How long one pass of the engine may take before the sidecar counts as failed, in milliseconds; 0: for ever.
    pub watchdog_ms: u64,
    /// How long the engine may be idle before a rollout whose answer is known is scored again, in milliseconds; 0: never.
    pub known_answer_ms: u64,
}

/// What happens to a rollout longer than the model's context.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OverLong {
    /// Rejected with `TOO_LONG`.
    #[default]
    Reject,
    /// The prompt's oldest tokens are cut; the completion, the read position and a leading BOS stay; the
    /// reply says so.
    TruncateLeft,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            grpc: None,
            uds: None,
            http: Vec::new(),
            gym_on_rejection: GymOnRejection::Mask,
            http_connections: 16_384,
            shm: None,
            shm_spin_us: 0,
            shm_lanes: 256,
            shm_ring_bytes: 16 << 20,
            over_long: OverLong::Reject,
            max_batch_tokens: 4096,
            max_batch_rollouts: 1024,
            max_wait_ms: 2,
            max_bypass: 8,
            queue_rollouts: 4096,
            queue_tokens: 1 << 22,
            grpc_connections: 1024,
            intake_bytes: 256 << 20,
            stream_in_flight: 1024,
            share_prefixes: true,
            tokenizer_threads: 2,
            drain_ms: 30_000,
            watchdog_ms: 600_000,
            known_answer_ms: 60_000,
        }
    }
}

/// A running sidecar.
pub struct Sidecar {
    intake: Intake,
    config: Config,
    health: Health,
    shared: queue::Shared,
    threads: Vec<JoinHandle<()>>,
    transports: Vec<Box<dyn Transport>>,
    grpc_addr: Option<SocketAddr>,
    http_addresses: Vec<HttpAddress>,
    /// Ends with the sidecar.
    watching: JoinSet<()>,
    /// The watch over the known answer of each model's present generation.
    known_answers: Vec<Option<AbortHandle>>,
    /// The number of the latest generation.
    generation: u64,
}

/// How long connections may take to close once everything on them is answered, where the drain's time is up already.
const GOODBYE: Duration = Duration::from_secs(2);

impl Sidecar {
    /// Starts the threads around `engine` and every configured transport; returns once all listen. Needs a tokio
    /// runtime.
    pub async fn start(config: Config, engine: Box<dyn Engine>) -> Result<Self, StartError> {
        Self::start_observed(config, engine, Vec::new()).await
    }

    /// As [`Self::start`], on what was bound before with the same configuration.
    pub async fn start_on(listeners: Listeners, config: Config, engine: Box<dyn Engine>) -> Result<Self, StartError> {
        Self::start_all(listeners, config, vec![engine], Vec::new()).await
    }

    /// As [`Self::start_on`], of one model or several, each called as its card is. A rollout that names none is the
    /// first's. Passes of their engines come one after the other, as those of engines that share threads must.
    ///
    /// # Errors
    /// As of [`Self::start`], and [`StartError::Models`] where there is none, or two have one name.
    pub async fn start_models(
        listeners: Listeners,
        config: Config,
        engines: Vec<Box<dyn Engine>>,
    ) -> Result<Self, StartError> {
        Self::start_all(listeners, config, engines, Vec::new()).await
    }

    /// As [`Self::start`]; `observers` are told of every rollout that is accepted and answered.
    pub async fn start_observed(
        config: Config,
        engine: Box<dyn Engine>,
        observers: Vec<Arc<dyn Observer>>,
    ) -> Result<Self, StartError> {
        let listeners = Listeners::bind(&config).await?;
        Self::start_all(listeners, config, vec![engine], observers).await
    }

    async fn start_all(
        listeners: Listeners,
        config: Config,
        engines: Vec<Box<dyn Engine>>,
        observers: Vec<Arc<dyn Observer>>,
    ) -> Result<Self, StartError> {
        errors::check_names(&engines)?;
        let common = Common { shared: queue::Shared::new(&config), health: Health::default(), turn: Arc::default() };
        let (mut models, mut to_watch, mut threads, mut generation) = (Vec::new(), Vec::new(), Vec::new(), 0);
        for engine in engines {
            generation += 1;
            let started = Started::start(engine, generation, &config, &common, &models).await?;
            models.push(started.served);
            to_watch.push((started.known_answer, started.health));
            threads.extend(started.threads);
        }
        let Common { shared, health, .. } = common;
        let intake = Intake::new(models, &config, shared.clone(), Observers::new(observers));
        let descriptors = Descriptors::left()?;
        let (grpc_addr, http_addresses) = (listeners.grpc_addr(), listeners.http.addresses());
        let mut transports: Vec<Box<dyn Transport>> = Vec::new();
        if config.grpc.is_some() || config.uds.is_some() {
            transports
                .push(Box::new(grpc::Server::start(listeners.grpc, &config, &intake, &health, &descriptors).await));
        }
        if !http_addresses.is_empty() {
            transports.push(Box::new(http::Server::start(listeners.http, &config, &intake, &health, &descriptors)));
        }
        #[cfg(target_os = "linux")]
        if let Some(lanes) = listeners.lanes {
            transports.push(Box::new(shm::Server::start(lanes, &config, intake.clone(), &health, &descriptors)?));
        }
        let mut sidecar = Self {
            intake,
            config,
            health,
            shared,
            threads,
            transports,
            grpc_addr,
            http_addresses,
            watching: JoinSet::new(),
            known_answers: to_watch.iter().map(|_| None).collect(),
            generation,
        };
        for (index, (known_answer, of_model)) in to_watch.into_iter().enumerate() {
            sidecar.watch(index, known_answer, of_model);
        }
        Ok(sidecar)
    }

    /// Serves another model from now on, without a pause, and returns the number of its generation: in the place of the only one,
    /// or of the one of its name. What that one has accepted it also scores; each reply names the version that gave it. Its passes
    /// do not wait for those of other models. On an error nothing has changed.
    pub async fn replace(&mut self, engine: Box<dyn Engine>) -> Result<u64, StartError> {
        let (models, name) = (self.intake.models(), &engine.card().name);
        let index = match models.len() {
            1 => 0,
            _ => models.iter().position(|served| served.name() == name).ok_or_else(|| {
                let names: Vec<&str> = models.iter().map(|served| served.name()).collect();
                StartError::Models(format!(
                    "no model is called '{name}', which is to take over; there are {}",
                    names.join(", ")
                ))
            })?,
        };
        let generation = self.generation + 1;
        let common = Common { shared: self.shared.clone(), health: self.health.clone(), turn: Arc::default() };
        let next = Started::start(engine, generation, &self.config, &common, &models).await?;
        self.generation = generation;
        // Those of generations that have ended need not be kept.
        self.threads.retain(|thread| !thread.is_finished());
        self.threads.extend(next.threads);
        self.intake.replace(index, next.served);
        self.watch(index, next.known_answer, next.health);
        Ok(generation)
    }

    /// Watches over the passes of a model's present generation, and over its known answer, but over none of an earlier one.
    fn watch(&mut self, index: usize, known_answer: Option<KnownAnswer>, health: Health) {
        if self.config.watchdog_ms > 0 {
            self.watching.spawn(health.clone().watch_passes(Duration::from_millis(self.config.watchdog_ms)));
        }
        if let Some(earlier) = self.known_answers[index].take() {
            earlier.abort();
        }
        let every = Duration::from_millis(self.config.known_answer_ms);
        let watch = |known: KnownAnswer| known.watch(self.intake.clone(), health, every);
        self.known_answers[index] = known_answer.map(watch).map(|watch| self.watching.spawn(watch));
    }

    /// Whether the sidecar's own threads and its engine still work.
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// Where every transport submits.
    pub fn intake(&self) -> &Intake {
        &self.intake
    }

    /// From now on nothing waits for company: for callers who know that no more is to come.
    pub fn flush(&self) {
        self.intake.flush();
    }

    /// Accepted rollouts that are not answered yet.
    pub fn unanswered(&self) -> usize {
        *self.intake.unanswered().borrow()
    }

    /// The address of the gRPC server, with the port that the system picked.
    pub fn grpc_addr(&self) -> Option<SocketAddr> {
        self.grpc_addr
    }

    /// Where HTTP is listened for, with the ports that the system picked.
    pub fn http_addresses(&self) -> &[HttpAddress] {
        &self.http_addresses
    }

    /// Refuses new work, answers what was accepted, waits until the answers have been read, and stops. `Err` when the time
    /// for it was not enough; what had not reached the engine by then has been rejected.
    pub async fn drain(self) -> Result<(), DrainTimeout> {
        let time = Duration::from_millis(self.config.drain_ms);
        self.end_within(time).await
    }

    /// As [`Self::drain`], for a sidecar that has failed: it has two seconds.
    pub async fn end(self) -> Result<(), DrainTimeout> {
        self.end_within(GOODBYE).await
    }

    async fn end_within(mut self, time: Duration) -> Result<(), DrainTimeout> {
        let deadline = Instant::now() + time;
        for transport in &self.transports {
            transport.refuse().await;
        }
        self.intake.close();
        let mut unanswered = self.intake.unanswered();
        let answered = unanswered.wait_for(|n| *n == 0);
        // The count's other end lives in `shared`, so it cannot be gone.
        let in_time = tokio::time::timeout_at(deadline, answered).await.is_ok();
        let unanswered = self.unanswered();
        self.intake.abandon();
        let until = deadline.max(Instant::now() + GOODBYE);
        let mut stopping = JoinSet::new();
        for transport in self.transports.drain(..) {
            stopping.spawn(transport.stop(until));
        }
        let unread = stopping.join_all().await.into_iter().sum();
        if !in_time || unread > 0 {
            return Err(DrainTimeout { unanswered, unread, drain: time });
        }
        for thread in std::mem::take(&mut self.threads) {
            // They end at once, now that the queues are closed and empty.
            if thread.join().is_err() {
                tracing::error!("a scoring thread panicked");
            }
        }
        Ok(())
    }
}

impl Drop for Sidecar {
    /// Without [`Self::drain`], what waits is rejected and the threads end after the micro-batch that is running.
    fn drop(&mut self) {
        self.intake.close();
        self.intake.abandon();
    }
}
