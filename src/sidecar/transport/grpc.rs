//! gRPC: the `RewardService` of `proto/reward/v1/reward.proto`.
//!
//! The invariant: per stream, at most the in-flight limit of rollouts are unanswered or their replies unread, so a
//! stream's memory is bounded whatever its client does.

pub(super) mod accept;
mod budget;
mod call;
mod listen;
mod replies;

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tonic::{Extensions, Request, Response, Status, Streaming};

use self::budget::Permits;
use self::call::Call;
pub use self::listen::{Listeners, Server};
pub use self::replies::Replies;
use self::replies::{Reply, Unread};
use super::caller::{Admission, Caller, IdsUnique};
use crate::limits;
use crate::proto::{self, v1};
use crate::reward::shortened;
use crate::sidecar::fair::Permit;
use crate::sidecar::{Identity, Intake, metrics};

/// The service, whatever it is listened for on.
#[derive(Clone)]
pub struct RewardService {
    intake: Intake,
    in_flight_limit: usize,
    /// Turns true when streams must end: all that was accepted is answered, and nothing more is taken.
    ending: watch::Receiver<bool>,
    unread: Unread,
}

/// Whose connection a call came by.
fn identity(extensions: &Extensions) -> Arc<Identity> {
    // Every connection has one; a service that is called without a connection counts as a caller of its own.
    extensions.get::<Arc<Identity>>().cloned().unwrap_or_else(|| Identity::new("grpc", None))
}

/// Where the permits of a call's messages are.
fn permits(extensions: &Extensions) -> Permits {
    extensions.get::<Permits>().cloned().unwrap_or_default()
}

#[tonic::async_trait]
impl v1::reward_service_server::RewardService for RewardService {
    type ScoreStream = Replies;

    async fn score(&self, request: Request<Streaming<v1::Rollout>>) -> Result<Response<Replies>, Status> {
        let call = Call::of(request.metadata());
        let (replies, unread) = mpsc::unbounded_channel();
        let caller = Arc::new(Caller::new(&self.intake, &identity(request.extensions()), IdsUnique::InFlight));
        let permits = permits(request.extensions());
        let reader = Reader {
            permits,
            rollouts: request.into_inner(),
            admission: Admission::new(&self.intake),
            caller: Arc::clone(&caller),
            call,
            replies,
            unread: self.unread.clone(),
            room: Arc::new(Semaphore::new(self.in_flight_limit)),
            in_flight_limit: self.in_flight_limit as u32,
        };
        let reading = tokio::spawn(reader.run(self.ending.clone())).abort_handle();
        Ok(Response::new(Replies { unread, reading, caller, _open: metrics::open_stream() }))
    }

    async fn score_batch(
        &self,
        request: Request<v1::ScoreBatchRequest>,
    ) -> Result<Response<v1::ScoreBatchResponse>, Status> {
        let received = Instant::now();
        let call = Call::of(request.metadata());
        // Dropping this future means that the caller has left.
        let caller = Caller::new(&self.intake, &identity(request.extensions()), IdsUnique::Always);
        // Held until all of the batch is accepted or answered.
        let permit = permits(request.extensions()).next();
        let rollouts = request.into_inner().rollouts;
        if rollouts.len() > limits::MAX_STREAM_IN_FLIGHT {
            let (n, most) = (rollouts.len(), limits::MAX_STREAM_IN_FLIGHT);
            return Err(Status::invalid_argument(format!("rollouts: {n} in one batch; at most {most}, or use Score")));
        }
        let _unread = self.unread.count();
        // Ids come back as they were sent, but not longer than any that is valid.
        let ids: Vec<String> =
            rollouts.iter().map(|rollout| shortened(&rollout.id, limits::MAX_ID_BYTES).to_owned()).collect();
        let rollouts = rollouts.into_iter().map(|rollout| {
            let id = rollout.id.clone();
            (id, proto::rollout_from_wire(rollout).map(|rollout| call.bind(rollout)))
        });
        let outcomes = caller.score_all(rollouts, received, permit).await;
        let replies = ids.into_iter().zip(outcomes).map(|(id, outcome)| proto::outcome_to_wire(id, outcome));
        Ok(Response::new(v1::ScoreBatchResponse { replies: replies.collect() }))
    }

    async fn get_model(&self, request: Request<v1::GetModelRequest>) -> Result<Response<v1::ModelCard>, Status> {
        let model = self.intake.model(&request.get_ref().model);
        let served = model.map_err(|unknown| Status::not_found(unknown.message))?;
        Ok(Response::new(super::served(served.card(), &self.intake, self.in_flight_limit)))
    }
}

/// Reads one stream's rollouts.
struct Reader {
    permits: Permits,
    rollouts: Streaming<v1::Rollout>,
    caller: Arc<Caller>,
    admission: Admission,
    call: Call,
    replies: mpsc::UnboundedSender<Reply>,
    unread: Unread,
    room: Arc<Semaphore>,
    in_flight_limit: u32,
}

impl Reader {
    async fn run(mut self, mut ending: watch::Receiver<bool>) {
        loop {
            let next = tokio::select! {
                next = self.rollouts.message() => next.map(|next| next.map(|rollout| (rollout, self.permits.next()))),
                _ = ending.wait_for(|ending| *ending) => Err(Status::unavailable(
                    "the server is shutting down; what is unanswered was not scored and may be sent again",
                )),
            };
            match next {
                Ok(Some((rollout, _))) if rollout.cancel => {
                    self.caller.cancel(&rollout.id);
                }
                Ok(Some((rollout, permit))) => {
                    // While there is no room, nothing more is read, and HTTP/2's flow control holds the sender back. The
                    // semaphore is never closed, so it cannot fail.
                    let Ok(room) = Arc::clone(&self.room).acquire_owned().await else { return };
                    self.admit(rollout, room, permit).await;
                }
                // What is still on its way through intake goes on.
                Ok(None) => return self.admission.finish().await,
                Err(status) => {
                    // The stream is not read on (not protobuf, not UTF-8; or the server ends). What is in flight is
                    // answered first, and the answers read.
                    self.admission.finish().await;
                    let all = self.room.acquire_many(self.in_flight_limit).await;
                    drop(all);
                    drop(self.replies.send(Err(status)));
                    return;
                }
            }
        }
    }

    /// Hands one rollout over; `room` is free again, and its reply counts as read, once it has left.
    async fn admit(&mut self, rollout: v1::Rollout, room: OwnedSemaphorePermit, permit: Option<Permit>) {
        let (replies, unread) = (self.replies.clone(), self.unread.count());
        // The other end is gone only when the caller has left.
        let deliver = move |id, outcome| drop(replies.send(Ok((proto::outcome_to_wire(id, outcome), room, unread))));
        if let Some(ticket) = self.caller.admit(&rollout.id, deliver) {
            let rollout = proto::rollout_from_wire(rollout).map(|rollout| self.call.bind(rollout));
            self.admission.submit(rollout, ticket, Instant::now(), permit).await;
        }
    }
}
