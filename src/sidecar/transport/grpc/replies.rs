//! The replies of one stream, on their way out, and the count of those that no caller has read yet.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio_stream::Stream;
use tonic::Status;

use crate::proto::v1;
use crate::sidecar::metrics;
use crate::sidecar::transport::caller::Caller;

/// Counts, over all calls, the rollouts whose replies have not been read.
#[derive(Debug, Clone)]
pub(super) struct Unread(Arc<watch::Sender<usize>>);

/// One of them; read, or of no interest any more, once it is dropped.
pub(super) struct UnreadReply(Unread);

impl Unread {
    pub(super) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }

    pub(super) fn count(&self) -> UnreadReply {
        self.0.send_modify(|n| *n += 1);
        UnreadReply(self.clone())
    }

    pub(super) fn now(&self) -> usize {
        *self.0.borrow()
    }
}

impl Drop for UnreadReply {
    fn drop(&mut self) {
        self.0.0.send_modify(|n| *n -= 1);
    }
}

/// A reply on its way out. Its room on the stream is free again, and it counts as read, once HTTP/2 has taken it, which it does
/// only as fast as the caller reads.
pub(super) type Reply = Result<(v1::Reply, OwnedSemaphorePermit, UnreadReply), Status>;

/// The replies of one stream, as they finish. Ends when the caller has closed its side and all is answered; dropped
/// before, it cancels what is in flight.
pub struct Replies {
    pub(super) unread: mpsc::UnboundedReceiver<Reply>,
    pub(super) reading: tokio::task::AbortHandle,
    pub(super) caller: Arc<Caller>,
    pub(super) _open: metrics::OpenStream,
}

impl Stream for Replies {
    type Item = Result<v1::Reply, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.unread.poll_recv(context).map(|next| next.map(|reply| reply.map(|(reply, _room, _unread)| reply)))
    }
}

impl Drop for Replies {
    fn drop(&mut self) {
        self.reading.abort();
        self.caller.leave();
    }
}
