//! The sidecar: from arrival to reply, around one [`Engine`]. Knows no model and no weights.

pub mod admin;
mod batcher;
mod caller;
mod intake;
pub mod metrics;
mod outcome;
mod queue;
mod reading;
mod rules;
mod scorer;
mod template;
mod ticket;
mod tokenize;
mod trace;
mod transport;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use self::queue::Queue;
use self::scorer::Scorer;
use self::transport::grpc;
#[cfg(target_os = "linux")]
use self::transport::shm;
use crate::engine::Engine;

pub use self::caller::Identity;
pub use self::intake::{Deferred, Intake};
pub use self::ticket::{Cancellation, Interest, Ticket};

/// Everything about the sidecar that may be configured. See [`crate::limits`] for the ceilings.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// TCP address of the gRPC server; port 0 lets the system pick.
    pub grpc: Option<SocketAddr>,
    /// Path of the gRPC server's Unix socket.
    pub uds: Option<PathBuf>,
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
    /// Unique tokens in one micro-batch. A longer rollout goes alone.
    pub max_batch_tokens: usize,
    /// Rollouts in one micro-batch.
    pub max_batch_rollouts: usize,
    /// How long the first rollout of a micro-batch waits for company while the engine is idle, in milliseconds.
    pub max_wait_ms: u64,
    /// How many micro-batches a rollout may be passed over by later ones before it goes first.
    pub max_bypass: u32,
    /// Rollouts accepted and not yet handed to the engine; more wait at the door.
    pub queue_rollouts: usize,
    /// Their tokens.
    pub queue_tokens: usize,
    /// Unanswered rollouts of one stream; the stream is not read while there are so many.
    pub stream_in_flight: usize,
    /// Whether a prefix shared by rollouts of a micro-batch is computed once. Never changes a reward.
    pub share_prefixes: bool,
    /// Threads that turn text into tokens.
    pub tokenizer_threads: usize,
    /// How long accepted work may take to finish after a request to stop, in milliseconds.
    pub drain_ms: u64,
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
            stream_in_flight: 1024,
            share_prefixes: true,
            tokenizer_threads: 2,
            drain_ms: 30_000,
        }
    }
}

/// A running sidecar.
pub struct Sidecar {
    intake: Intake,
    queue: Arc<Queue>,
    threads: Vec<JoinHandle<()>>,
    grpc: Option<grpc::Server>,
    grpc_addr: Option<SocketAddr>,
    #[cfg(target_os = "linux")]
    lanes: Option<shm::Server>,
    /// Tells open streams to end.
    ending: watch::Sender<bool>,
    drain: Duration,
}

/// Why a sidecar cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address could not be bound.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Address or path.
        address: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The tokenizer or chat template of the model is unusable.
    #[error("{0}")]
    Text(String),
    /// No lane can be opened with these settings.
    #[error("shm_ring_bytes: {0}")]
    Lanes(String),
    /// The system gave no thread.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}

impl StartError {
    fn listen(address: &dyn std::fmt::Display) -> impl FnOnce(std::io::Error) -> Self + use<> {
        let address = address.to_string();
        move |source| Self::Listen { address, source }
    }
}

/// How long connections may take to close once everything on them is answered.
const GOODBYE: Duration = Duration::from_secs(2);

impl Sidecar {
    /// Starts the threads around `engine` and every configured transport; returns once all listen. Needs a tokio
    /// runtime.
    pub async fn start(config: Config, engine: Box<dyn Engine>) -> Result<Self, StartError> {
        let listeners = grpc::Listeners::bind(&config).await?;
        #[cfg(target_os = "linux")]
        let lanes = shm::Listener::bind(&config)?;
        let queue = Arc::new(Queue::new(&config));
        let card = Arc::clone(engine.card());
        let scorer = Arc::new(Scorer::new(Arc::clone(&queue), engine, scorer::Terms::of(&config)));
        let intake = Intake::new(card, &config, Arc::clone(&queue), Arc::clone(&scorer)).map_err(StartError::Text)?;
        let threads = scorer.start().map_err(StartError::Thread)?;
        let (ending, ended) = watch::channel(false);
        let grpc_addr = listeners.tcp_addr();
        let service = grpc::RewardService::new(intake.clone(), config.stream_in_flight, ended);
        let grpc = match config.grpc.is_some() || config.uds.is_some() {
            true => Some(grpc::Server::start(listeners, service).await),
            false => None,
        };
        #[cfg(target_os = "linux")]
        let lanes = lanes.map(|lanes| shm::Server::start(lanes, &config, intake.clone())).transpose()?;
        Ok(Self {
            intake,
            queue,
            threads: threads.into(),
            grpc,
            grpc_addr,
            #[cfg(target_os = "linux")]
            lanes,
            ending,
            drain: Duration::from_millis(config.drain_ms),
        })
    }

    /// The door through which every transport submits.
    pub fn intake(&self) -> &Intake {
        &self.intake
    }

    /// From now on nothing waits for company: for callers who know that no more is to come.
    pub fn flush(&self) {
        self.queue.flush();
    }

    /// Accepted rollouts that are not answered yet.
    pub fn unanswered(&self) -> usize {
        *self.queue.unanswered().borrow()
    }

    /// The address of the gRPC server, with the port that the system picked.
    pub fn grpc_addr(&self) -> Option<SocketAddr> {
        self.grpc_addr
    }

    /// Refuses new work, answers what was accepted, stops. `Err` when the time for it was not enough; what had not reached
    /// the engine by then has been rejected.
    pub async fn drain(mut self) -> Result<(), DrainTimeout> {
        let deadline = Instant::now() + self.drain;
        let grpc = self.grpc.take();
        if let Some(grpc) = &grpc {
            grpc.refuse().await;
        }
        #[cfg(target_os = "linux")]
        if let Some(lanes) = &self.lanes {
            lanes.refuse();
        }
        self.intake.close();
        // No patience for company any more.
        self.queue.close();
        let mut unanswered = self.queue.unanswered();
        let answered = unanswered.wait_for(|n| *n == 0);
        // The count's other end lives in the queue, so it cannot be gone.
        let in_time = tokio::time::timeout_at(deadline, answered).await.is_ok();
        let left = self.unanswered();
        self.queue.abandon();
        self.ending.send_replace(true);
        #[cfg(target_os = "linux")]
        if let Some(lanes) = self.lanes.take() {
            lanes.stop();
        }
        if let Some(grpc) = grpc {
            grpc.stop(Instant::now() + GOODBYE).await;
        }
        if !in_time {
            return Err(DrainTimeout { unanswered: left, drain: self.drain });
        }
        for thread in std::mem::take(&mut self.threads) {
            // Both end at once, now that the queue is closed and empty.
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
        self.queue.close();
        self.queue.abandon();
        self.ending.send_replace(true);
    }
}

/// Accepted work was left when the drain's time was up.
#[derive(Debug, thiserror::Error)]
#[error(
    "{unanswered} accepted rollouts were still unanswered after {drain:?}; those that had not reached the engine have been rejected"
)]
pub struct DrainTimeout {
    /// How many.
    pub unanswered: usize,
    /// The time they had.
    pub drain: Duration,
}
