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
//! The two `?` are two kinds of trouble: the outer is the client's ([`ClientError`]), the inner the rollout's
//! ([`Rejection`](crate::reward::Rejection)).
//!
//! Worth knowing:
//! - *Ids* are the caller's business. They may repeat among the users of one client: on the wire each rollout has a
//!   number of its own in front of its id.
//! - *Back-pressure*: [`Client::submit`] waits while as many rollouts are unanswered as the server, or the builder,
//!   allows.
//! - *Deadlines* count from the submission, waiting and reconnecting included.
//! - *A server that shuts down* rejects with `DRAINING`; the client does not pass that on, but asks again over the next
//!   connection.
//! - *A server that comes back with another model* is not an error: each `Rewards` says which `model_version` gave it,
//!   and [`Client::card`] describes the present one.
//!
//! Threads that wait, and shared memory, have a client of their own: [`blocking`].

mod answers;
mod back_off;
pub mod blocking;
mod driver;
mod error;
mod link;
mod table;
mod waiter;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::limits::MAX_STREAM_IN_FLIGHT;
use crate::proto::rollout_to_wire;
use crate::reward::Outcome;
use crate::rollout::Rollout;

use driver::{Command, Config, Driver, Wish};
use link::Address;
use waiter::Waiter;

pub use crate::proto::{BadReply, ServedModel};
pub use answers::Answers;
pub use back_off::BackOff;
pub use error::ClientError;
pub use waiter::Answer;

/// Commands on their way to the driver: enough that it need not be woken for each.
const COMMANDS: usize = 16;

/// A client of one server. Clones share one stream, and may be used from any task.
///
/// When the last clone is dropped, what was submitted is still finished; [`Client::close`] waits for that.
#[derive(Debug, Clone)]
pub struct Client {
    config: Arc<Config>,
    commands: mpsc::Sender<Command>,
    /// Its sender lives as long as the driver.
    card: watch::Receiver<Option<Arc<ServedModel>>>,
}

/// How a client is to be made.
#[derive(Debug, Clone)]
pub struct Builder {
    address: String,
    in_flight_limit: usize,
    back_off: BackOff,
    deadline: Option<Duration>,
}

impl Builder {
    /// Most rollouts unanswered at a time; the server's limit counts where it is lower (and is the default).
    pub fn in_flight_limit(self, rollouts: usize) -> Self {
        Self { in_flight_limit: rollouts.clamp(1, MAX_STREAM_IN_FLIGHT), ..self }
    }

    /// How often, and how long, to try a server that does not answer.
    pub fn back_off(self, back_off: BackOff) -> Self {
        Self { back_off, ..self }
    }

    /// The deadline of rollouts that bring none of their own, in whole milliseconds. Default: none.
    pub fn deadline(self, deadline: Duration) -> Self {
        Self { deadline: Some(deadline), ..self }
    }

    /// Connects, and returns once the server has said what it serves.
    pub async fn connect(self) -> Result<Client, ClientError> {
        let client = self.connect_lazy()?;
        client.card().await?;
        Ok(client)
    }

    /// Returns at once and connects in the background; trouble shows with the first rollout.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn connect_lazy(self) -> Result<Client, ClientError> {
        let (client, driver) = self.parts(Address::parse(&self.address)?);
        tokio::spawn(driver.run());
        Ok(client)
    }

    /// A client, and what has to run for it.
    fn parts(&self, address: Address) -> (Client, Driver) {
        let config = Arc::new(Config {
            address,
            in_flight_limit: self.in_flight_limit,
            back_off: self.back_off,
            deadline_ms: self.deadline.map(|deadline| deadline.as_millis() as u64),
        });
        let (commands, inbox) = mpsc::channel(COMMANDS);
        let (publish, card) = watch::channel(None);
        let driver = Driver::new(config.clone(), inbox, publish);
        (Client { config, commands, card }, driver)
    }
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
        Builder {
            address: address.into(),
            in_flight_limit: MAX_STREAM_IN_FLIGHT,
            back_off: BackOff::default(),
            deadline: None,
        }
    }

    /// What the server serves, and on which terms; as of the latest connection.
    pub async fn card(&self) -> Result<Arc<ServedModel>, ClientError> {
        if let Some(card) = self.card.borrow().clone() {
            return Ok(card);
        }
        let (answer, card) = oneshot::channel();
        self.send(Wish::Card(answer)).await?;
        card.await.unwrap_or(Err(ClientError::Closed))
    }

    /// Submits a rollout; returns as soon as there is room for it in flight. The rollout is then on its way, whether the
    /// [`Pending`] is awaited or not.
    pub async fn submit(&self, rollout: Rollout) -> Result<Pending, ClientError> {
        let issued = Instant::now();
        let permit = self.commands.reserve().await.map_err(|_| ClientError::Closed)?;
        Ok(self.promise(rollout, issued, permit))
    }

    /// Submits a rollout and waits for its outcome.
    pub async fn score(&self, rollout: Rollout) -> Result<Outcome, ClientError> {
        self.submit(rollout).await?.await
    }

    /// Scores all, pipelined; the outcomes are in the order of the rollouts. Ends with the first [`ClientError`].
    pub async fn score_all(&self, rollouts: impl IntoIterator<Item = Rollout>) -> Result<Vec<Outcome>, ClientError> {
        let mut pending = Vec::new();
        for rollout in rollouts {
            pending.push(self.submit(rollout).await?);
        }
        let mut outcomes = Vec::with_capacity(pending.len());
        for pending in pending {
            outcomes.push(pending.await?);
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
        let _ = self.send(Wish::Close).await;
        while self.card.changed().await.is_ok() {}
    }

    async fn send(&self, wish: Wish) -> Result<(), ClientError> {
        let command = Command { issued: Instant::now(), wish };
        self.commands.send(command).await.map_err(|_| ClientError::Closed)
    }

    fn promise(&self, rollout: Rollout, issued: Instant, permit: mpsc::Permit<'_, Command>) -> Pending {
        let id = rollout.id.clone();
        let (answer, receiver) = oneshot::channel();
        self.hand_over(rollout, issued, permit, Box::new(answer));
        Pending { id, answer: receiver }
    }

    fn hand_over(&self, rollout: Rollout, issued: Instant, permit: mpsc::Permit<'_, Command>, waiter: Box<dyn Waiter>) {
        let mut rollout = rollout_to_wire(rollout);
        rollout.deadline_ms = rollout.deadline_ms.or(self.config.deadline_ms);
        permit.send(Command { issued, wish: Wish::Score(Box::new(rollout), waiter) });
    }
}

/// A rollout on its way: resolves to its outcome.
///
/// Dropping it does not take the rollout back from the server: what is in flight stays in flight, counts against the
/// limit until it is answered, and its answer is discarded. It is not asked again over another connection, though.
#[derive(Debug)]
#[must_use = "the outcome is discarded unless this is awaited"]
pub struct Pending {
    id: String,
    answer: oneshot::Receiver<Answer>,
}

impl Pending {
    /// The caller's id of the rollout.
    pub fn id(&self) -> &str {
        &self.id
    }
}

impl Future for Pending {
    type Output = Result<Outcome, ClientError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // Without a sender there is no driver any more: its runtime has shut down.
        Poll::Ready(ready!(Pin::new(&mut self.answer).poll(context)).unwrap_or(Err(ClientError::Closed)))
    }
}
