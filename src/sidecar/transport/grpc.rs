//! gRPC: the `RewardService` of `proto/reward/v1/reward.proto`.
//!
//! The invariant: per stream, at most the in-flight limit of rollouts are unanswered or their replies unread, so a
//! stream's memory is bounded whatever its client does.

mod call;
mod listen;

use std::collections::HashSet;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

use self::call::Call;
pub use self::listen::{Listeners, Server};
use crate::limits;
use crate::proto::{self, v1};
use crate::reward::{Code, Outcome, Rejection, shortened};
use crate::rollout::Rollout;
use crate::sidecar::{Identity, Intake, Interest, Ticket, metrics};

/// The service, whatever it is listened for on.
#[derive(Clone)]
pub struct RewardService {
    intake: Intake,
    in_flight_limit: usize,
    /// Turns true when streams must end: all that was accepted is answered, and nothing more is taken.
    ending: watch::Receiver<bool>,
}

impl RewardService {
    /// A service in front of `intake`.
    pub fn new(intake: Intake, in_flight_limit: usize, ending: watch::Receiver<bool>) -> Self {
        Self { intake, in_flight_limit, ending }
    }
}

#[tonic::async_trait]
impl v1::reward_service_server::RewardService for RewardService {
    type ScoreStream = Replies;

    async fn score(&self, request: Request<Streaming<v1::Rollout>>) -> Result<Response<Replies>, Status> {
        let call = Call::of(request.metadata());
        let (replies, unread) = mpsc::unbounded_channel();
        let caller = Caller::of(&Identity::new("grpc", None));
        let leave = Leave(caller.interest.clone());
        let reader = Reader {
            rollouts: request.into_inner(),
            intake: self.intake.clone(),
            caller,
            call,
            replies,
            room: Arc::new(Semaphore::new(self.in_flight_limit)),
            in_flight_limit: self.in_flight_limit as u32,
        };
        let reading = tokio::spawn(reader.run(self.ending.clone())).abort_handle();
        Ok(Response::new(Replies { unread, reading, _leave: leave, _open: metrics::open_stream() }))
    }

    async fn score_batch(
        &self,
        request: Request<v1::ScoreBatchRequest>,
    ) -> Result<Response<v1::ScoreBatchResponse>, Status> {
        let received = Instant::now();
        let call = Call::of(request.metadata());
        let rollouts = request.into_inner().rollouts;
        if rollouts.len() > limits::MAX_STREAM_IN_FLIGHT {
            let (n, most) = (rollouts.len(), limits::MAX_STREAM_IN_FLIGHT);
            return Err(Status::invalid_argument(format!("rollouts: {n} in one batch; at most {most}, or use Score")));
        }
        let caller = Caller { ids_are_unique: true, ..Caller::of(&Identity::new("grpc", None)) };
        // Dropping this future means that the caller has left; once it is through, everything is answered.
        let _leave = Leave(caller.interest.clone());
        let mut answers = Vec::with_capacity(rollouts.len());
        for rollout in rollouts {
            let (deliver, answer) = oneshot::channel();
            answers.push(answer);
            // Nobody listens any more only where the caller has left.
            let deliver = move |reply| drop(deliver.send(reply));
            if let Some((rollout, ticket)) = caller.admit(rollout, &call, deliver) {
                self.intake.submit(rollout, ticket, received).await;
            }
        }
        let mut replies = Vec::with_capacity(answers.len());
        for answer in answers {
            replies.push(answer.await.map_err(|_| Status::internal("a rollout of the batch was lost"))?);
        }
        Ok(Response::new(v1::ScoreBatchResponse { replies }))
    }

    async fn get_model(&self, _: Request<v1::GetModelRequest>) -> Result<Response<v1::ModelCard>, Status> {
        Ok(Response::new(super::served(&self.intake, self.in_flight_limit)))
    }
}

/// One call's rollouts: their ids and its interest in them.
struct Caller {
    in_flight: Arc<Mutex<HashSet<String>>>,
    interest: Interest,
    /// Whether an id may not be used again even once it is answered.
    ids_are_unique: bool,
}

impl Caller {
    fn of(identity: &Arc<Identity>) -> Self {
        Self { in_flight: Arc::default(), interest: Interest::of(identity), ids_are_unique: false }
    }

    /// Makes the ticket of a rollout whose reply goes to `deliver`; `None` if it is answered already.
    fn admit(
        &self,
        rollout: v1::Rollout,
        call: &Call,
        deliver: impl FnOnce(v1::Reply) + Send + 'static,
    ) -> Option<(Rollout, Ticket)> {
        // Cut before it is copied about; intake rejects what was too long.
        let id = shortened(&rollout.id, limits::MAX_ID_BYTES).to_owned();
        if !lock(&self.in_flight).insert(id.clone()) {
            let why = match self.ids_are_unique {
                true => format!("id: '{id}' stands in this batch already; give each rollout an id of its own"),
                false => format!("id: '{id}' is in flight on this stream; wait for its reply, or use another id"),
            };
            let rejection = Rejection::new(Code::DuplicateId, why);
            let outcome = Err(rejection);
            metrics::answered(&outcome);
            deliver(proto::outcome_to_wire(id, outcome));
            return None;
        }
        let (in_flight, forget) = (Arc::clone(&self.in_flight), !self.ids_are_unique);
        let ticket = Ticket::new(self.interest.clone(), move |outcome: Outcome| {
            // Free before the reply is out: whoever sees the reply may use the id again.
            if forget {
                lock(&in_flight).remove(&id);
            }
            deliver(proto::outcome_to_wire(id, outcome));
        });
        match proto::rollout_from_wire(rollout) {
            Ok(rollout) => Some((call.bind(rollout), ticket)),
            Err(rejection) => {
                ticket.answer(Err(rejection));
                None
            }
        }
    }
}

fn lock(ids: &Mutex<HashSet<String>>) -> std::sync::MutexGuard<'_, HashSet<String>> {
    // Inserting and removing cannot panic half-way.
    ids.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Withdraws the caller's interest when dropped.
struct Leave(Interest);

impl Drop for Leave {
    fn drop(&mut self) {
        self.0.withdraw();
    }
}

/// A reply on its way out; its room is free again once it is read.
type Unread = Result<(v1::Reply, OwnedSemaphorePermit), Status>;

/// Reads one stream's rollouts.
struct Reader {
    rollouts: Streaming<v1::Rollout>,
    intake: Intake,
    caller: Caller,
    call: Call,
    replies: mpsc::UnboundedSender<Unread>,
    room: Arc<Semaphore>,
    in_flight_limit: u32,
}

impl Reader {
    async fn run(mut self, mut ending: watch::Receiver<bool>) {
        // Room first, then the next rollout: while there is none, HTTP/2's flow control holds the sender back. The
        // semaphore is never closed, so `Err` cannot be.
        while let Ok(room) = Arc::clone(&self.room).acquire_owned().await {
            let next = tokio::select! {
                next = self.rollouts.message() => next,
                _ = ending.wait_for(|ending| *ending) => Err(Status::unavailable(
                    "the server is shutting down; what is unanswered was not scored and may be sent again",
                )),
            };
            match next {
                Ok(Some(rollout)) => {
                    let replies = self.replies.clone();
                    // The other end is gone only when the caller has left.
                    let deliver = move |reply| drop(replies.send(Ok((reply, room))));
                    if let Some((rollout, ticket)) = self.caller.admit(rollout, &self.call, deliver) {
                        self.intake.submit(rollout, ticket, Instant::now()).await;
                    }
                }
                Ok(None) => return,
                Err(status) => {
                    // The stream is not read on (not protobuf, not UTF-8; or the server ends). What is in flight is
                    // answered first.
                    drop(room);
                    let all = self.room.acquire_many(self.in_flight_limit).await;
                    drop(all);
                    drop(self.replies.send(Err(status)));
                    return;
                }
            }
        }
    }
}

/// The replies of one stream, as they finish. Ends when the caller has closed its side and all is answered; dropped
/// before, it cancels what is in flight.
pub struct Replies {
    unread: mpsc::UnboundedReceiver<Unread>,
    reading: tokio::task::AbortHandle,
    _leave: Leave,
    _open: metrics::OpenStream,
}

impl Stream for Replies {
    type Item = Result<v1::Reply, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.unread.poll_recv(context).map(|next| next.map(|unread| unread.map(|(reply, _room)| reply)))
    }
}

impl Drop for Replies {
    fn drop(&mut self) {
        self.reading.abort();
    }
}
