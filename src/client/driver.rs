//! The one task behind a client: it owns the connection and the table of the unanswered.
//!
//! Invariant: a command that was taken is answered, by the server or by a [`ClientError`], whatever becomes of the
//! connection; and a rollout with a deadline soon after that, whatever becomes of the server.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tonic::{Status, Streaming};

use super::command::{AHEAD, CardSender, Command, Config, Submission};
use super::error::ClientError;
use super::link::{Failure, Failures, Link, dial};
use super::outbox::Outbox;
use super::room::Room;
use super::table::{Reply, Table, Withdrawn};
use crate::proto::{ServedModel, v1};

/// How long a finished client waits for the server to end the stream: nobody's answer depends on it.
const GOODBYE: Duration = Duration::from_millis(500);

/// The task's state.
pub(super) struct Driver {
    config: Arc<Config>,
    commands: mpsc::UnboundedReceiver<Command>,
    /// No more rollouts are taken.
    closing: bool,
    /// No command will ever come.
    deserted: bool,
    table: Table,
    room: Arc<Room>,
    /// Most rollouts in flight: the server's limit where that is lower than the user's.
    in_flight_limit: usize,
    /// What the present stream has to send.
    outbox: Option<Outbox>,
    card_waiters: Vec<CardSender>,
    card: watch::Sender<Option<Arc<ServedModel>>>,
    /// What has gone wrong since the latest answer.
    failures: Failures,
    /// What was submitted up to then shares the fate of what was answered with this error.
    gave_up: Option<(Instant, ClientError)>,
}

/// Why a stream ended.
enum End {
    /// Nothing is left to do.
    Finished,
    /// The connection is lost.
    Lost(Failure),
}

impl Driver {
    pub(super) fn new(
        config: Arc<Config>,
        commands: mpsc::UnboundedReceiver<Command>,
        room: Arc<Room>,
        card: watch::Sender<Option<Arc<ServedModel>>>,
    ) -> Self {
        Self {
            in_flight_limit: config.in_flight_limit,
            config,
            commands,
            closing: false,
            deserted: false,
            table: Table::default(),
            room,
            outbox: None,
            card_waiters: Vec::new(),
            card,
            failures: Failures::none(),
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
                    self.wait_for_work().await;
                    continue;
                }
            };
            let end = self.stream(link).await;
            self.outbox = None;
            match end {
                End::Finished => return,
                End::Lost(failure) => {
                    self.table.disconnect(Instant::now());
                    match failure {
                        Failure::Passing(reason) | Failure::Absent(reason) => {
                            let address = &self.config.address.text;
                            tracing::warn!(%address, %reason, unanswered = self.table.len(), "lost the connection");
                            self.failures.add(&reason);
                        }
                        Failure::Final(error) => {
                            self.give_up(error);
                            self.wait_for_work().await;
                        }
                    }
                }
            }
        }
    }

    /// Connects, taking commands meanwhile. `None` when nothing is left to do.
    async fn connect(&mut self) -> Option<Result<Link, ClientError>> {
        let config = self.config.clone();
        let mut failures = self.failures.clone();
        let dialled = {
            // A socket that was there once may come back.
            let first = self.card.borrow().is_none();
            let absent = if first { config.socket_timeout } else { config.back_off.budget };
            let mut dialling = pin!(dial(&config.address, &config.model, &config.back_off, absent, &mut failures));
            loop {
                if self.is_finished() {
                    return None;
                }
                let deadline = self.table.next_deadline();
                tokio::select! {
                    dialled = &mut dialling => break dialled,
                    command = self.commands.recv(), if !self.deserted => self.take(command),
                    () = until(deadline) => self.expire(),
                }
            }
        };
        // They are over only when an answer comes: a server that takes connections and then breaks is no better.
        self.failures = failures;
        Some(dialled)
    }

    /// Asks and listens through one connection as long as it lasts.
    async fn stream(&mut self, link: Link) -> End {
        let Link { mut stub, served } = link;
        self.publish(served);
        self.give_up_the_lost();
        let (outbox, outbound) = Outbox::new();
        self.outbox = Some(outbox);
        let call = async move { Ok(Box::new(stub.score(outbound).await?.into_inner())) };
        let mut replies = Replies::Calling(Box::pin(call));
        let mut draining = false;
        loop {
            if self.is_finished() {
                self.outbox = None;
                // A stream that ends in order is no cancelled call in the server's books.
                let _ = timeout(GOODBYE, replies.next()).await;
                return End::Finished;
            }
            if !draining {
                self.send_waiting();
            } else if self.table.in_flight() == 0 {
                return End::Lost(Failure::Passing("the server is shutting down".into()));
            }
            let deadline = self.table.next_deadline();
            tokio::select! {
                reply = replies.next() => match reply {
                    Ok(Some(reply)) => match self.table.reply(reply, Instant::now()) {
                        Reply::Answered | Reply::Discarded => self.failures = Failures::none(),
                        Reply::Draining => draining = true,
                        Reply::Unknown => tracing::warn!("a reply to no rollout of this client was ignored"),
                    },
                    Ok(None) => return End::Lost(Failure::Passing("the server ended the stream".into())),
                    Err(status) => return End::Lost(Failure::of(&status, &self.config.address)),
                },
                command = self.commands.recv(), if !self.deserted => self.take(command),
                () = until(deadline) => self.expire(),
            }
        }
    }

    /// Takes a command, or the end of all commands.
    fn take(&mut self, command: Option<Command>) {
        match command {
            None => {
                self.deserted = true;
                self.close();
            }
            Some(Command::Close) => self.close(),
            Some(Command::Score(submission)) => self.accept(submission),
            Some(Command::Cancel(number)) => {
                let withdrawn = self.table.cancel(number);
                self.withdraw(withdrawn);
            }
            Some(Command::CancelSeries { series, tags }) => {
                let withdrawn = self.table.cancel_series(series, &tags);
                self.withdraw(withdrawn);
            }
            // The receiver of a card may be gone, here and below.
            Some(Command::Card { asked, answer }) => match (self.gave_up_since(asked), self.card.borrow().clone()) {
                (Some(error), _) => drop(answer.send(Err(error))),
                // It came while the command was on its way.
                (None, Some(card)) => drop(answer.send(Ok(card))),
                (None, None) if self.closing => drop(answer.send(Err(ClientError::Closed))),
                (None, None) => self.card_waiters.push(answer),
            },
        }
    }

    fn accept(&mut self, submission: Submission) {
        let Submission { number, rollout, waiter, asked, deadline, permit } = submission;
        match self.gave_up_since(asked) {
            Some(error) => waiter.answer(Err(error)),
            None if self.closing => waiter.answer(Err(ClientError::Closed)),
            None => self.table.insert(number, *rollout, waiter, deadline, permit),
        }
    }

    fn close(&mut self) {
        self.closing = true;
        self.room.close();
    }

    /// The error with which everything was given up, if that was after something was asked.
    fn gave_up_since(&self, asked: Instant) -> Option<ClientError> {
        self.gave_up.as_ref().filter(|(at, _)| asked <= *at).map(|(_, error)| error.clone())
    }

    /// Sends what waits, as far as the server takes it.
    fn send_waiting(&mut self) {
        let Some(outbox) = &self.outbox else { return };
        while self.table.in_flight() < self.in_flight_limit
            && let Some(next) = self.table.next_to_send(Instant::now())
        {
            outbox.send(next.number, next.rollout, next.deadline);
        }
    }

    /// Answers what is too late, and tells the server.
    fn expire(&mut self) {
        let withdrawn = self.table.expire(Instant::now());
        self.withdraw(withdrawn);
    }

    /// Takes answered rollouts back from the stream.
    fn withdraw(&mut self, withdrawn: impl IntoIterator<Item = Withdrawn>) {
        let Some(outbox) = &self.outbox else { return };
        for Withdrawn { number, wire_id } in withdrawn {
            if outbox.cancel(number, wire_id) {
                self.table.expect_discarded(number);
            }
        }
    }

    fn publish(&mut self, served: ServedModel) {
        let served = Arc::new(served);
        self.in_flight_limit = self.config.in_flight_limit.min(served.in_flight_limit as usize).max(1);
        self.room.set_limit(self.in_flight_limit + AHEAD);
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

    /// A rollout on which the server breaks would otherwise be sent again for ever.
    fn give_up_the_lost(&mut self) {
        for (number, losses) in self.table.lost(self.config.back_off.budget, Instant::now()) {
            let (address, times, waited) = (self.config.address.text.clone(), losses.times, losses.waited);
            self.table.resolve(number, Err(ClientError::NeverAnswered { address, times, waited }));
        }
    }

    fn give_up(&mut self, error: ClientError) {
        tracing::error!(%error, unanswered = self.table.len(), "giving up");
        self.failures = Failures::none();
        self.table.resolve_all(&error);
        for waiter in self.card_waiters.drain(..) {
            let _ = waiter.send(Err(error.clone()));
        }
        self.gave_up = Some((Instant::now(), error));
    }

    /// Waits, without a connection, until one is needed.
    async fn wait_for_work(&mut self) {
        while !self.closing && self.table.len() == 0 && !self.is_card_wanted() {
            let command = self.commands.recv().await;
            self.take(command);
        }
    }

    fn is_finished(&mut self) -> bool {
        self.closing && self.table.len() == 0 && !self.is_card_wanted()
    }

    fn is_card_wanted(&mut self) -> bool {
        self.card_waiters.retain(|waiter| !waiter.is_closed());
        !self.card_waiters.is_empty()
    }
}

impl Drop for Driver {
    /// Also where the runtime shuts down: then nobody will ever make room.
    fn drop(&mut self) {
        self.room.close();
    }
}

/// Returns then; where there is no such time, never.
async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
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
    use tokio::sync::oneshot;

    use super::*;
    use crate::client::back_off::BackOff;
    use crate::client::link::Address;
    use crate::engine::{EchoEngine, Engine as _};

    #[test]
    fn a_card_asked_for_while_the_connection_is_made_is_answered() {
        let config = Config {
            address: Address::parse("unix:///nowhere").unwrap(),
            model: String::new(),
            in_flight_limit: 8,
            back_off: BackOff::default(),
            deadline_ms: None,
            version: Default::default(),
            socket_timeout: Duration::ZERO,
        };
        let (_commands, inbox) = mpsc::unbounded_channel();
        let mut driver = Driver::new(Arc::new(config), inbox, Room::new(8), watch::channel(None).0);
        let model = EchoEngine::new(16).card().as_ref().clone();
        let served = ServedModel { model, in_flight_limit: 4, over_long: "reject".into(), aggregations: Vec::new() };
        let ask = |driver: &mut Driver| {
            let (answer, card) = oneshot::channel();
            driver.take(Some(Command::Card { asked: Instant::now(), answer }));
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
