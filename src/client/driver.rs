//! The one task behind a client: it owns the connection and the table of the unanswered.
//!
//! Invariant: a command that was taken is answered, by the server or by a [`ClientError`], whatever becomes of the
//! connection.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::back_off::BackOff;
use super::error::ClientError;
use super::link::{Address, Failure, Link, Trouble, dial};
use super::table::{Heard, Table};
use super::waiter::Waiter;
use crate::proto::{ServedModel, v1};

/// How long a finished client waits for the server to end the stream: nobody's answer depends on it.
const GOODBYE: Duration = Duration::from_millis(500);

/// What a client is made with.
#[derive(Debug)]
pub(super) struct Config {
    pub(super) address: Address,
    pub(super) in_flight_limit: usize,
    pub(super) back_off: BackOff,
    pub(super) deadline_ms: Option<u64>,
}

/// A wish of a client's user.
#[derive(Debug)]
pub(super) struct Command {
    /// When the user asked, which may be long before the driver has room for it.
    pub(super) issued: Instant,
    pub(super) wish: Wish,
}

#[derive(Debug)]
pub(super) enum Wish {
    /// Score this; its id is the caller's.
    Score(Box<v1::Rollout>, Box<dyn Waiter>),
    /// Answer once there is a connection.
    Card(oneshot::Sender<Result<Arc<ServedModel>, ClientError>>),
    /// Finish what has been submitted, then end.
    Close,
}

/// The task's state.
pub(super) struct Driver {
    config: Arc<Config>,
    commands: mpsc::Receiver<Command>,
    /// No command will ever come.
    no_more: bool,
    table: Table,
    /// Most questions in the table; the server's limit where that is lower.
    in_flight_limit: usize,
    card_waiters: Vec<oneshot::Sender<Result<Arc<ServedModel>, ClientError>>>,
    card: watch::Sender<Option<Arc<ServedModel>>>,
    /// What has gone wrong since the latest answer.
    trouble: Trouble,
    /// Commands issued up to then share the fate of those that were answered with this error.
    gave_up: Option<(Instant, ClientError)>,
}

/// Why a connection's conversation ended.
enum Parted {
    /// Nothing is left to do.
    Finished,
    /// The connection is no more.
    Lost(Failure),
}

impl Driver {
    pub(super) fn new(
        config: Arc<Config>,
        commands: mpsc::Receiver<Command>,
        card: watch::Sender<Option<Arc<ServedModel>>>,
    ) -> Self {
        Self {
            in_flight_limit: config.in_flight_limit,
            config,
            commands,
            no_more: false,
            table: Table::default(),
            card_waiters: Vec::new(),
            card,
            trouble: Trouble::none(),
            gave_up: None,
        }
    }

    /// Drives the client until it was closed, or dropped, and everything submitted is answered.
    pub(super) async fn run(mut self) {
        while let Some(dialled) = self.connect().await {
            let link = match dialled {
                Ok(link) => link,
                Err(error) => {
                    self.give_up(error);
                    self.rest().await;
                    continue;
                }
            };
            match self.converse(link).await {
                Parted::Finished => return,
                Parted::Lost(failure) => {
                    self.table.lose_all(Instant::now());
                    match failure {
                        Failure::Passing(reason) => {
                            let address = &self.config.address.text;
                            tracing::warn!(%address, %reason, unanswered = self.table.len(), "lost the connection");
                            self.trouble.add(&reason);
                        }
                        Failure::Final(reason) => {
                            let address = self.config.address.text.clone();
                            self.give_up(ClientError::Refused { address, reason: reason.into() });
                            self.rest().await;
                        }
                    }
                }
            }
        }
    }

    /// Connects, taking commands meanwhile. `None` when nothing is left to do.
    async fn connect(&mut self) -> Option<Result<Link, ClientError>> {
        let config = self.config.clone();
        let mut trouble = self.trouble.clone();
        let dialled = {
            let mut dialling = pin!(dial(&config.address, &config.back_off, &mut trouble));
            loop {
                if self.finished() {
                    return None;
                }
                tokio::select! {
                    dialled = &mut dialling => break dialled,
                    command = self.commands.recv(), if self.has_room() => {
                        self.take(command);
                    }
                }
            }
        };
        // It is over only when an answer comes: a server that takes connections and then breaks is no better.
        self.trouble = trouble;
        Some(dialled)
    }

    /// Speaks through one connection as long as it lasts.
    async fn converse(&mut self, link: Link) -> Parted {
        let Link { mut stub, served } = link;
        self.publish(served);
        self.drop_the_long_lost();
        let waiting = self.table.numbers();
        // As many as can be unanswered: sending into it never has to wait, and HTTP/2's flow control decides when
        // they leave.
        let (questions, outbound) = mpsc::channel(self.in_flight_limit.max(waiting.len()));
        for number in waiting {
            self.ask(number, &questions);
        }
        let call = async move { Ok(Box::new(stub.score(ReceiverStream::new(outbound)).await?.into_inner())) };
        let mut replies = Replies::Calling(Box::pin(call));
        let mut draining = false;
        loop {
            if self.finished() {
                drop(questions);
                // A stream that ends in order is no cancelled call in the server's books.
                let _ = timeout(GOODBYE, replies.next()).await;
                return Parted::Finished;
            }
            if draining && self.table.asked() == 0 {
                return Parted::Lost(Failure::Passing("the server is shutting down".into()));
            }
            tokio::select! {
                reply = replies.next() => match reply {
                    Ok(Some(reply)) => match self.table.hear(reply, Instant::now()) {
                        Heard::Answered => self.trouble = Trouble::none(),
                        Heard::Draining => draining = true,
                        Heard::Stray => tracing::warn!("a reply to no rollout of this client was ignored"),
                    },
                    Ok(None) => return Parted::Lost(Failure::Passing("the server ended the stream".into())),
                    Err(status) => return Parted::Lost(status.into()),
                },
                command = self.commands.recv(), if !draining && self.has_room() => {
                    if let Some(number) = self.take(command) {
                        self.ask(number, &questions);
                    }
                }
            }
        }
    }

    /// Takes a command, or the end of all commands. Returns the number of a new question.
    fn take(&mut self, command: Option<Command>) -> Option<u64> {
        let Some(Command { issued, wish }) = command else {
            self.no_more = true;
            return None;
        };
        let too_late = self.gave_up.as_ref().filter(|(at, _)| issued <= *at).map(|(_, error)| error.clone());
        match (wish, too_late) {
            (Wish::Score(rollout, waiter), None) => return Some(self.table.insert(*rollout, waiter, issued)),
            (Wish::Score(_, waiter), Some(error)) => waiter.answer(Err(error)),
            // Whoever is gone does not want to know, here and below.
            (Wish::Card(answer), Some(error)) => drop(answer.send(Err(error))),
            (Wish::Card(answer), None) => match self.card.borrow().clone() {
                // It came while the command was on its way.
                Some(card) => drop(answer.send(Ok(card))),
                None => self.card_waiters.push(answer),
            },
            // What was submitted before is still received.
            (Wish::Close, _) => self.commands.close(),
        }
        None
    }

    fn ask(&mut self, number: u64, questions: &mpsc::Sender<v1::Rollout>) {
        if let Some(rollout) = self.table.ask(number, Instant::now()) {
            // Fails only when the call is over, which its replies will tell; the question is then asked again.
            let _ = questions.try_send(rollout);
        }
    }

    fn publish(&mut self, served: ServedModel) {
        let served = Arc::new(served);
        self.in_flight_limit = self.config.in_flight_limit.min(served.in_flight_limit as usize).max(1);
        for waiter in self.card_waiters.drain(..) {
            let _ = waiter.send(Ok(served.clone()));
        }
        if let Some(before) = self.card.send_replace(Some(served.clone()))
            && before.model.model_version != served.model.model_version
        {
            let (before, now) = (&before.model.model_version, &served.model.model_version);
            tracing::warn!(%before, %now, "the server came back with another model version");
        }
    }

    /// A rollout on which the server breaks would otherwise be asked again for ever.
    fn drop_the_long_lost(&mut self) {
        for (number, waited) in self.table.lost_for(self.config.back_off.budget, Instant::now()) {
            let address = self.config.address.text.clone();
            self.table.settle(number, Err(ClientError::NeverAnswered { address, waited }));
        }
    }

    fn give_up(&mut self, error: ClientError) {
        tracing::error!(%error, unanswered = self.table.len(), "giving up");
        self.trouble = Trouble::none();
        self.table.settle_all(&error);
        for waiter in self.card_waiters.drain(..) {
            let _ = waiter.send(Err(error.clone()));
        }
        self.gave_up = Some((Instant::now(), error));
    }

    /// Waits, without a connection, until somebody wants one.
    async fn rest(&mut self) {
        while !self.no_more && self.table.len() == 0 && self.card_waiters.is_empty() {
            let command = self.commands.recv().await;
            self.take(command);
        }
    }

    fn finished(&self) -> bool {
        self.no_more && self.table.len() == 0 && self.card_waiters.is_empty()
    }

    fn has_room(&self) -> bool {
        !self.no_more && self.table.len() < self.in_flight_limit
    }
}

/// The server's side of the stream. The call is answered only after it is made, and some servers only after the first
/// rollout: calling is a state like any other.
enum Replies {
    Calling(Pin<Box<dyn Future<Output = Result<Inbound, Status>> + Send>>),
    Listening(Inbound),
}

type Inbound = Box<Streaming<v1::Reply>>;

impl Replies {
    /// The next reply; may be dropped and called again without losing one.
    async fn next(&mut self) -> Result<Option<v1::Reply>, Status> {
        if let Self::Calling(call) = self {
            *self = Self::Listening(call.await?);
        }
        match self {
            Self::Listening(stream) => stream.message().await,
            Self::Calling(_) => unreachable!("the call has just been answered"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{EchoEngine, Engine as _};

    #[test]
    fn a_card_asked_for_while_the_connection_is_made_is_answered() {
        let config = Config {
            address: Address::parse("unix:///nowhere").unwrap(),
            in_flight_limit: 8,
            back_off: BackOff::default(),
            deadline_ms: None,
        };
        let (_commands, inbox) = mpsc::channel(1);
        let mut driver = Driver::new(Arc::new(config), inbox, watch::channel(None).0);
        let model = EchoEngine::new(16).card().as_ref().clone();
        let served = ServedModel { model, in_flight_limit: 4, over_long: "reject".into(), aggregations: Vec::new() };
        let ask = |driver: &mut Driver| {
            let (answer, card) = oneshot::channel();
            driver.take(Some(Command { issued: Instant::now(), wish: Wish::Card(answer) }));
            card
        };
        let mut before = ask(&mut driver);
        assert!(before.try_recv().is_err());
        driver.publish(served.clone());
        let mut after = ask(&mut driver);
        for card in [&mut before, &mut after] {
            assert_eq!(card.try_recv().unwrap(), Ok(Arc::new(served.clone())));
        }
        assert_eq!(driver.in_flight_limit, 4);
    }
}
