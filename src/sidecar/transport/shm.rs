//! Lanes: rollouts through shared memory.
//!
//! One plain thread serves all lanes, in turn: it reads rollouts out of their rings, and hands them to intake. The thread that
//! answers a ticket writes the answer into the lane's reward ring. So a rollout of token ids costs no task.
//!
//! Invariants: a lane admits no more rollouts than its reward ring holds answers, so answering never waits for a client;
//! whatever a client does ends its own lane at most; and while the thread runs, every lane's heartbeat goes on.

mod about;
mod generation;
mod heartbeats;
mod lane;
mod outbox;
mod poller;
mod ungreeted;
mod unread;

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use tokio::sync::watch;

use self::generation::Generations;
use self::poller::Poller;
use super::Transport;
use super::socket_file::{self, SocketFile};
use crate::shm::frame::ordinary_reply_words;
use crate::shm::handshake::{self, Status};
use crate::shm::layout::{MAX_RING_BYTES, MIN_RING_BYTES, Sizes, WORD};
use crate::sidecar::accepting::{self, Pauses};
use crate::sidecar::descriptors::Descriptors;
use crate::sidecar::health::Health;
use crate::sidecar::{Config, Intake, Served, StartError};

/// A bound socket on which no lane is opened yet.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    file: SocketFile,
    refusing: Refusing,
}

impl Listener {
    /// Binds what the configuration names.
    pub fn bind(config: &Config) -> Result<Option<Self>, StartError> {
        let Some(path) = &config.shm else { return Ok(None) };
        let (socket, file) = socket_file::bind("shm", path)?;
        let refusing = Refusing::start(&socket).map_err(StartError::Thread)?;
        Ok(Some(Self { socket, file, refusing }))
    }
}

/// Refuses every client until it is dropped: so that none waits for an answer longer than it would for another attempt.
#[derive(Debug)]
struct Refusing(tokio::task::AbortHandle);

impl Refusing {
    fn start(socket: &UnixListener) -> std::io::Result<Self> {
        let socket = tokio::net::UnixListener::from_std(socket.try_clone()?)?;
        let refuse_all = async move {
            let mut pauses = Pauses::of("shm");
            loop {
                match socket.accept().await {
                    Ok((client, _)) => {
                        pauses.end();
                        // One that is gone again needs no word.
                        let Ok(client) = client.into_std() else { continue };
                        handshake::refuse(&client, Status::Draining, "the sidecar loads its model; ask again later");
                    }
                    Err(error) if accepting::client_left(&error) => {}
                    Err(error) => {
                        pauses.refused(&error);
                        tokio::time::sleep(accepting::PAUSE).await;
                    }
                }
            }
        };
        Ok(Self(tokio::spawn(refuse_all).abort_handle()))
    }
}

impl Drop for Refusing {
    fn drop(&mut self) {
        self.0.abort();
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
    rollout_bytes: usize,
    reward_bytes: usize,
    /// What is announced when a lane is opened, and afterwards.
    generations: Arc<Generations>,
    descriptors: Descriptors,
}

impl Terms {
    fn of(config: &Config, intake: &Intake, descriptors: &Descriptors) -> Result<Self, StartError> {
        let reply_words = ordinary_reply_words(intake.card().attributes.len());
        // As many as the largest ring has room for.
        let in_flight_limit = config.stream_in_flight.min(MAX_RING_BYTES / WORD / reply_words);
        let reward_bytes = (in_flight_limit * reply_words * WORD).next_power_of_two().max(MIN_RING_BYTES);
        let generations = Generations::of(intake, in_flight_limit);
        let card_bytes = generations.latest().card.len();
        let terms = Self {
            lanes: config.shm_lanes,
            spin: Duration::from_micros(config.shm_spin_us),
            in_flight_limit,
            // One more than there are threads for text: the next is at hand when one is free.
            deferrals: config.tokenizer_threads + 1,
            reply_words,
            rollout_bytes: config.shm_ring_bytes,
            reward_bytes,
            generations: Arc::new(generations),
            descriptors: descriptors.clone(),
        };
        terms.sizes(card_bytes).check().map_err(StartError::Lanes)?;
        Ok(terms)
    }

    /// The parts of a lane that is opened with a card of so many bytes.
    fn sizes(&self, card_bytes: usize) -> Sizes {
        Sizes { card_bytes, rollout_bytes: self.rollout_bytes, reward_bytes: self.reward_bytes }
    }
}

/// How far a server is from its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Lanes are opened.
    Serving,
    /// No new ones are.
    Refusing,
    /// Each lane is closed once its client has read all answers, and all are at this time.
    Closing(Instant),
}

/// What the poller's thread hears from others.
#[derive(Debug)]
struct Control {
    stage: Mutex<Stage>,
    bell: OwnedFd,
}

impl Control {
    fn new() -> std::io::Result<Self> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { stage: Mutex::new(Stage::Serving), bell })
    }

    fn stage(&self) -> Stage {
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, stage: Stage) {
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner) = stage;
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
    /// Returns how many answers were not read.
    thread: Option<JoinHandle<usize>>,
    _file: SocketFile,
}

impl Server {
    /// Opens lanes from now on. Needs a tokio runtime, for what has to wait.
    pub fn start(
        listener: Listener,
        config: &Config,
        intake: Intake,
        health: &Health,
        descriptors: &Descriptors,
    ) -> Result<Self, StartError> {
        let terms = Terms::of(config, &intake, descriptors)?;
        let Listener { socket, file, refusing } = listener;
        drop(refusing);
        let control = Arc::new(Control::new().map_err(StartError::Thread)?);
        let runtime = tokio::runtime::Handle::current();
        tokio::spawn(announce(intake.served(), Arc::clone(&control)));
        let guard = health.guard("lanes");
        let poller = Poller::new(socket, terms, intake, runtime, Arc::clone(&control)).map_err(StartError::Thread)?;
        let run = move || {
            let _guard = guard;
            poller.run()
        };
        let thread = std::thread::Builder::new().name("lanes".into()).spawn(run).map_err(StartError::Thread)?;
        Ok(Self { control, thread: Some(thread), _file: file })
    }

    /// Waits for the thread, which ends at the time that it was told; how many answers had not been read by then.
    fn join(&mut self) -> usize {
        let Some(thread) = self.thread.take() else { return 0 };
        thread.join().unwrap_or_else(|_| {
            tracing::error!("the lanes' thread panicked");
            0
        })
    }
}

/// Has the poller announce each generation of the model that takes over. Ends with the sidecar.
async fn announce(mut served: watch::Receiver<Arc<Served>>, control: Arc<Control>) {
    while served.changed().await.is_ok() {
        control.ring();
    }
}

#[tonic::async_trait]
impl Transport for Server {
    /// Opens no lane any more.
    async fn refuse(&self) {
        self.control.set(Stage::Refusing);
    }

    /// Closes each lane once its client has read its answers, and all at `until`. A client that only pauses gets everything.
    async fn stop(mut self: Box<Self>, until: tokio::time::Instant) -> usize {
        self.control.set(Stage::Closing(until.into_std()));
        // A panic is counted as none by the thread that joins.
        tokio::task::spawn_blocking(move || self.join()).await.unwrap_or(0)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.control.set(Stage::Closing(Instant::now()));
            self.join();
        }
    }
}
