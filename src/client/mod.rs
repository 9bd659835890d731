//! Rust client: one bidirectional `Score` stream, shared by every clone of a [`Client`].
//!
//! Its promise: **every submitted rollout is answered**, with rewards, with a rejection, or with a [`ClientError`],
//! whatever happens to the connection. A lost connection is dialled again with back-off, and what was unanswered is
//! asked again: a reward is a function of model version and rollout alone, so asking twice is safe.
//!
//! ```no_run
//! use reward_sidecar::client::Client;
//! use reward_sidecar::rollout::{Input, Rollout};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::connect("grpc://127.0.0.1:50051").await?;
//! let rollout = Rollout { id: "a1".into(), input: Some(Input::Text("...".into())), ..Rollout::default() };
//! let rewards = client.score(rollout).await??;
//! println!("{}", rewards.reward);
//! # Ok(())
//! # }
//! ```
//!
//! The two `?` are two kinds of failure: the outer is the client's ([`ClientError`]), the inner the rollout's
//! ([`Rejection`](crate::reward::Rejection)).
//!
//! Worth knowing:
//! - *Ids* are the caller's business. They may repeat among the users of one client: on the wire each rollout has a
//!   number of its own in front of its id.
//! - *Back-pressure*: [`Client::submit`] waits while as many rollouts are unanswered as the server, or the builder,
//!   allows, and a few more, which are sent as soon as there is room.
//! - *Deadlines* count from the submission, waiting and reconnecting included. The server is told what remains of one when
//!   the rollout is sent, and once it has passed the client itself answers `DEADLINE_EXCEEDED`, even if the server hangs.
//! - *Dropping* a [`Pending`], or a future that scores, withdraws its rollouts: their room is free, and the server is told
//!   not to score them.
//! - *A server that shuts down* rejects with `DRAINING`; the client does not pass that on, but asks again over the next
//!   connection.
//! - *A server that comes back with another model* does not answer the rest of a [`Client::score_all`] or
//!   [`Client::stream`] that the first has begun: those rollouts are `OTHER_VERSION` ([`Builder::version`] says otherwise).
//!   For single rollouts it is not an error: each `Rewards` says which `model_version` gave it, and [`Client::card`]
//!   describes the present one.
//!
//! Threads that wait, and shared memory, have a client of their own: [`blocking`].

mod answers;
mod back_off;
pub mod blocking;
mod builder;
mod command;
mod deadline;
mod driver;
mod error;
mod link;
mod outbox;
mod pending;
mod room;
mod table;
mod version;
mod waiter;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};

use crate::proto::rollout_to_wire;
use crate::reward::Outcome;
use crate::rollout::Rollout;

use command::{Command, Config, Submission};
use deadline::Deadline;
use room::{Permit, Room};
use waiter::Waiter;

pub use crate::proto::{BadReply, ServedModel};
pub use answers::Answers;
pub use back_off::BackOff;
pub use builder::Builder;
pub use error::ClientError;
pub use link::KeepAlive;
pub use pending::Pending;
pub use version::{Version, VersionPin};
pub use waiter::Answer;

/// A client of one server. Clones share one stream, and may be used from any task.
///
/// When the last clone is dropped, what was submitted is still finished; [`Client::close`] waits for that.
#[derive(Debug, Clone)]
pub struct Client {
    config: Arc<Config>,
    /// Bounded by `room`: each rollout on its way holds a permit.
    commands: mpsc::UnboundedSender<Command>,
    room: Arc<Room>,
    /// Number of the next rollout.
    next: Arc<AtomicU64>,
    /// Its sender lives as long as the driver.
    card: watch::Receiver<Option<Arc<ServedModel>>>,
}

impl Client {
    /// Connects to `grpc://host:port`, `http://host:port` (the same) or `unix:///path`, with every default.
    ///
    /// A server that is not there yet is waited for as long as [`BackOff`] allows.
    pub async fn connect(address: impl Into<String>) -> Result<Self, ClientError> {
        Self::builder(address).connect().await
    }

    /// A client to be configured.
    pub fn builder(address: impl Into<String>) -> Builder {
        Builder::new(address.into())
    }

    /// What the server serves, and on which terms; as of the latest connection.
    pub async fn card(&self) -> Result<Arc<ServedModel>, ClientError> {
        if let Some(card) = self.card.borrow().clone() {
            return Ok(card);
        }
        let (answer, card) = oneshot::channel();
        self.send(Command::Card { asked: Instant::now(), answer })?;
        card.await.unwrap_or(Err(ClientError::Closed))
    }

    /// Submits a rollout; returns as soon as there is room for it. It is then on its way, until the [`Pending`] is dropped.
    pub async fn submit(&self, rollout: Rollout) -> Result<Pending, ClientError> {
        let submitted = Instant::now();
        let deadline = self.deadline(submitted, rollout.deadline_ms);
        let permit = match deadline {
            None => self.room.acquire().await?,
            Some(deadline) => match timeout_at(deadline.at(), self.room.acquire()).await {
                Ok(permit) => permit?,
                Err(_) => return Ok(Pending::answered(rollout.id, Ok(Err(deadline.rejection())))),
            },
        };
        self.begin(rollout, submitted, deadline, permit)
    }

    /// Submits a rollout and waits for its outcome.
    pub async fn score(&self, rollout: Rollout) -> Result<Outcome, ClientError> {
        self.submit(rollout).await?.await
    }

    /// Scores all, pipelined; the outcomes are in the order of the rollouts, and of one model version
    /// ([`Builder::version`]). Ends with the first [`ClientError`].
    pub async fn score_all(&self, rollouts: impl IntoIterator<Item = Rollout>) -> Result<Vec<Outcome>, ClientError> {
        let pin = self.pin();
        let mut pending = Vec::new();
        for rollout in rollouts {
            pending.push(self.submit(held_to(&pin, rollout)).await?);
        }
        let mut outcomes = Vec::with_capacity(pending.len());
        for pending in pending {
            outcomes.push(pin.check(pending.await)?);
        }
        Ok(outcomes)
    }

    /// Scores all, pipelined; the answers come as they finish. `rollouts` may be endless: it is asked for the next one
    /// only when there is room for it in flight.
    pub fn stream<I: IntoIterator<Item = Rollout>>(&self, rollouts: I) -> Answers<I::IntoIter> {
        Answers::new(self.clone(), rollouts.into_iter())
    }

    /// Finishes what has been submitted, through any clone, and ends the stream. Later submissions are
    /// [`ClientError::Closed`].
    pub async fn close(mut self) {
        // An error means that another clone was faster.
        let _ = self.send(Command::Close);
        while self.card.changed().await.is_ok() {}
    }

    /// For the rollouts of one call.
    fn pin(&self) -> VersionPin {
        VersionPin::new(self.config.version.clone())
    }

    fn send(&self, command: Command) -> Result<(), ClientError> {
        self.commands.send(command).map_err(|_| ClientError::Closed)
    }

    /// The deadline of a rollout that was submitted then; the client's own where it brings none.
    fn deadline(&self, submitted: Instant, given_ms: Option<u64>) -> Option<Deadline> {
        Deadline::new(submitted, given_ms.or(self.config.deadline_ms))
    }

    /// Submits a rollout for which there is room. `asked`: when its submitter began to wait for that.
    fn begin(
        &self,
        rollout: Rollout,
        asked: Instant,
        deadline: Option<Deadline>,
        permit: Permit,
    ) -> Result<Pending, ClientError> {
        let id = rollout.id.clone();
        let (answer, receiver) = oneshot::channel();
        let number = self.hand_over(rollout, asked, deadline, permit, Box::new(answer))?;
        Ok(Pending::new(id, number, receiver, self.commands.clone()))
    }

    /// Hands a rollout to the driver; returns its number.
    fn hand_over(
        &self,
        rollout: Rollout,
        asked: Instant,
        deadline: Option<Deadline>,
        permit: Permit,
        waiter: Box<dyn Waiter>,
    ) -> Result<u64, ClientError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut rollout = Box::new(rollout_to_wire(rollout));
        rollout.deadline_ms = rollout.deadline_ms.or(self.config.deadline_ms);
        if rollout.model.is_empty() {
            rollout.model.clone_from(&self.config.model);
        }
        self.send(Command::Score(Submission { number, rollout, waiter, asked, deadline, permit }))?;
        Ok(number)
    }
}

/// A rollout of a call that is held to one version: the server is told, unless the rollout names one itself.
fn held_to(pin: &VersionPin, mut rollout: Rollout) -> Rollout {
    if rollout.model_version.is_empty() {
        rollout.model_version.push_str(pin.wanted());
    }
    rollout
}
