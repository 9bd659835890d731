//! The sidecar: from arrival to reply, around one [`Engine`]. Knows no model and no weights.

pub mod admin;
pub mod intake;
pub mod metrics;
pub mod ticket;
pub mod trace;

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::engine::Engine;

pub use intake::Intake;
pub use ticket::{Interest, Ticket};

/// Everything about the sidecar that may be configured. See [`crate::limits`] for the ceilings.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// TCP address of the gRPC server; port 0 lets the system pick.
    pub grpc: Option<SocketAddr>,
    /// Path of the gRPC server's Unix socket.
    pub uds: Option<PathBuf>,
    /// TCP address of `/metrics`, `/health` and `/ready`.
    pub admin: Option<SocketAddr>,
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
            admin: None,
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
pub struct Sidecar {}

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
}

impl Sidecar {
    /// Starts the threads around `engine` and every configured transport; returns once all listen and the model can be
    /// asked. Needs a tokio runtime.
    pub async fn start(_config: Config, _engine: Box<dyn Engine>) -> Result<Self, StartError> {
        todo!()
    }

    /// The door through which every transport submits.
    pub fn intake(&self) -> &Intake {
        todo!()
    }

    /// The address of the gRPC server, with the port that the system picked.
    pub fn grpc_addr(&self) -> Option<SocketAddr> {
        todo!()
    }

    /// The address of the admin server.
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        todo!()
    }

    /// Refuses new work, answers what was accepted, stops. `Err` when `drain_ms` was not enough; what was then
    /// unanswered has been rejected.
    pub async fn drain(self) -> Result<(), DrainTimeout> {
        todo!()
    }
}

/// Accepted work was left when the drain's time was up.
#[derive(Debug, thiserror::Error)]
#[error("{unanswered} accepted rollouts were still unanswered after {drain_ms} ms and have been rejected")]
pub struct DrainTimeout {
    /// How many.
    pub unanswered: usize,
    /// The time they had.
    pub drain_ms: u64,
}
