//! Lanes: rollouts through shared memory.
//!
//! One plain thread serves all lanes, in turn: it reads rollouts out of their rings, and hands them to intake. Whoever answers
//! a ticket writes the answer into the lane's reward ring. So a rollout of token ids for a quick engine never leaves the
//! thread that reads it, and one for a slow engine costs no thread but the engine's.
//!
//! Invariants: a lane admits no more rollouts than its reward ring holds answers, so answering never waits for a client; and
//! whatever a client does ends its own lane at most.

mod lane;
mod outbox;
mod poller;

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use prost::Message as _;
use rustix::event::{EventfdFlags, eventfd};

use self::poller::Poller;
use super::Transport;
use super::socket_file::{self, SocketFile};
use crate::shm::frame::ordinary_reply_words;
use crate::shm::layout::{MAX_RING_BYTES, MIN_RING_BYTES, Sizes, WORD};
use crate::sidecar::{Config, Intake, StartError};

/// A bound socket on which no lane is opened yet.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    file: SocketFile,
}

impl Listener {
    /// Binds what the configuration names.
    pub fn bind(config: &Config) -> Result<Option<Self>, StartError> {
        let Some(path) = &config.shm else { return Ok(None) };
        let (socket, file) = socket_file::bind(path).map_err(StartError::listen(&path.display()))?;
        Ok(Some(Self { socket, file }))
    }
}

/// What every lane is opened with.
#[derive(Debug)]
struct Terms {
    lanes: usize,
    spin: Duration,
    in_flight_limit: usize,
    /// Rollouts of a lane that may wait for a tokenizer or for room in the queue.
    deferrals: usize,
    /// Words of the reward ring that are set aside for a rollout.
    reply_words: usize,
    sizes: Sizes,
    /// The model's card, as protobuf.
    card: Vec<u8>,
}

impl Terms {
    fn of(config: &Config, intake: &Intake) -> Result<Self, StartError> {
        let reply_words = ordinary_reply_words(intake.card().attributes.len());
        // As many as the largest ring has room for.
        let in_flight_limit = config.stream_in_flight.min(MAX_RING_BYTES / WORD / reply_words);
        let reward_bytes = (in_flight_limit * reply_words * WORD).next_power_of_two().max(MIN_RING_BYTES);
        let card = super::served(intake, in_flight_limit).encode_to_vec();
        let sizes = Sizes { card_bytes: card.len(), rollout_bytes: config.shm_ring_bytes, reward_bytes };
        sizes.check().map_err(StartError::Lanes)?;
        let spin = Duration::from_micros(config.shm_spin_us);
        // One more than there are threads for text: the next is at hand when one is free.
        let deferrals = config.tokenizer_threads + 1;
        Ok(Self { lanes: config.shm_lanes, spin, in_flight_limit, deferrals, reply_words, sizes, card })
    }
}

/// How far a server is from its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Lanes are opened.
    Serving = 0,
    /// No new ones are.
    Refusing = 1,
    /// All are closed.
    Ended = 2,
}

/// What the poller's thread hears from others.
#[derive(Debug)]
struct Control {
    stage: AtomicU8,
    bell: OwnedFd,
}

impl Control {
    fn new() -> std::io::Result<Self> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { stage: AtomicU8::new(Stage::Serving as u8), bell })
    }

    fn stage(&self) -> Stage {
        match self.stage.load(Ordering::SeqCst) {
            0 => Stage::Serving,
            1 => Stage::Refusing,
            _ => Stage::Ended,
        }
    }

    fn set(&self, stage: Stage) {
        self.stage.store(stage as u8, Ordering::SeqCst);
        self.ring();
    }

    /// Wakes the poller.
    fn ring(&self) {
        // Fails only where the counter is full: then it rings already.
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }
}

/// The lanes' server.
#[derive(Debug)]
pub struct Server {
    control: Arc<Control>,
    thread: Option<JoinHandle<()>>,
    _file: SocketFile,
}

impl Server {
    /// Opens lanes from now on. Needs a tokio runtime, for what has to wait.
    pub fn start(listener: Listener, config: &Config, intake: Intake) -> Result<Self, StartError> {
        let terms = Terms::of(config, &intake)?;
        let Listener { socket, file } = listener;
        let control = Arc::new(Control::new().map_err(StartError::Thread)?);
        let runtime = tokio::runtime::Handle::current();
        let poller = Poller::new(socket, terms, intake, runtime, Arc::clone(&control)).map_err(StartError::Thread)?;
        let thread =
            std::thread::Builder::new().name("lanes".into()).spawn(move || poller.run()).map_err(StartError::Thread)?;
        Ok(Self { control, thread: Some(thread), _file: file })
    }

    fn end(&mut self) {
        self.control.set(Stage::Ended);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the lanes' thread panicked");
        }
    }
}

#[tonic::async_trait]
impl Transport for Server {
    /// Opens no lane any more.
    async fn refuse(&self) {
        self.control.set(Stage::Refusing);
    }

    /// Closes every lane; what was answered before can still be read.
    async fn stop(mut self: Box<Self>, _until: tokio::time::Instant) -> usize {
        self.end();
        0
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}
