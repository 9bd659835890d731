//! The bytes of messages, asked for before they are read.
//!
//! The invariant: nothing of a message but the beginning of its header passes to its reader before its bytes are admitted by the
//! process's budget, which callers share fairly. HTTP/2's flow control holds back the sender of one that waits. So what all callers
//! together can make the server hold is a setting, however many connections and streams they open.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use http_body::{Body as HttpBody, Frame};
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::codegen::{Bytes, Service};
use tonic::server::NamedService;

use super::identity;
use crate::limits::MAX_MESSAGE_BYTES;
use crate::sidecar::fair::{FairSemaphore, Permit};

/// A message's header: a flag, and its length in four bytes (gRPC over HTTP/2, "Length-Prefixed-Message").
const HEADER: usize = 5;

/// What a message may take in memory, by its length: the bytes as they came, and token ids of one byte that become four.
fn cost(length: usize) -> usize {
    5 * length
}

/// A service whose calls' messages are admitted by a budget of bytes.
#[derive(Clone)]
pub(super) struct Budgeted<S> {
    inner: S,
    budget: FairSemaphore,
}

/// The permits of one call's messages that have been read, in their order: each message's taker takes its permit along.
#[derive(Debug, Clone, Default)]
pub(super) struct Permits(Arc<Mutex<VecDeque<Permit>>>);

impl Permits {
    /// The permit of the next message. `None` where messages are not budgeted.
    pub(super) fn next(&self) -> Option<Permit> {
        self.queue().pop_front()
    }

    fn queue(&self) -> std::sync::MutexGuard<'_, VecDeque<Permit>> {
        // Pushing and popping cannot panic half-way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S> Budgeted<S> {
    pub(super) fn new(inner: S, budget: FairSemaphore) -> Self {
        Self { inner, budget }
    }
}

impl<S: NamedService> NamedService for Budgeted<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for Budgeted<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> S::Future {
        let (mut head, body) = request.into_parts();
        let permits = Permits::default();
        head.extensions.insert(permits.clone());
        let caller = identity(&head.extensions).connection;
        let body = Admitted {
            inner: body,
            budget: self.budget.clone(),
            caller,
            permits,
            messages: Messages::default(),
            held: None,
        };
        self.inner.call(Request::from_parts(head, Body::new(body)))
    }
}

/// Where a call's bytes stand between its messages.
#[derive(Debug, Default)]
struct Messages {
    header: [u8; HEADER],
    /// Bytes of the header that have come.
    headed: usize,
    /// Bytes of the message that are still to come.
    remaining: usize,
}

impl Messages {
    /// Goes on over `bytes`, up to the end or until a message begins that `admit` does not admit at once. Returns how many bytes may be
    /// passed on, and the length of that message, whose header's last byte is then the first that may not.
    fn advance(&mut self, bytes: &[u8], mut admit: impl FnMut(usize) -> bool) -> (usize, Option<usize>) {
        let mut at = 0;
        while at < bytes.len() {
            if self.remaining > 0 {
                let n = self.remaining.min(bytes.len() - at);
                self.remaining -= n;
                at += n;
                continue;
            }
            self.header[self.headed] = bytes[at];
            if self.headed + 1 < HEADER {
                self.headed += 1;
                at += 1;
                continue;
            }
            let length = u32::from_be_bytes([self.header[1], self.header[2], self.header[3], self.header[4]]) as usize;
            if !admit(length) {
                return (at, Some(length));
            }
            at += 1;
            self.begin(length);
        }
        (at, None)
    }

    /// A message of this length is admitted; its header is complete.
    fn begin(&mut self, length: usize) {
        self.headed = 0;
        self.remaining = length;
    }
}

/// A request's body, of which nothing passes that is not admitted.
struct Admitted {
    inner: Body,
    budget: FairSemaphore,
    caller: u64,
    permits: Permits,
    messages: Messages,
    held: Option<Held>,
}

/// Bytes that wait for a message to be admitted.
struct Held {
    bytes: Bytes,
    length: usize,
    admission: Pin<Box<dyn Future<Output = Option<Permit>> + Send>>,
}

impl Admitted {
    /// What of `bytes` may pass now; the rest is held.
    fn pass(&mut self, mut bytes: Bytes) -> Option<Bytes> {
        let Self { messages, budget, permits, .. } = self;
        let admit = |length: usize| {
            // A longer one is refused by its reader, before it takes memory.
            if length > MAX_MESSAGE_BYTES {
                return true;
            }
            let permit = budget.try_acquire(cost(length));
            permit.map(|permit| permits.queue().push_back(permit)).is_some()
        };
        let (passed, waits) = messages.advance(&bytes, admit);
        if let Some(length) = waits {
            let (budget, caller) = (self.budget.clone(), self.caller);
            let admission = Box::pin(async move { budget.acquire(caller, cost(length)).await.ok() });
            self.held = Some(Held { bytes: bytes.split_off(passed), length, admission });
        }
        (!bytes.is_empty()).then_some(bytes)
    }
}

impl HttpBody for Admitted {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        loop {
            let mut bytes = if let Some(held) = &mut self.held {
                let permit = ready!(held.admission.as_mut().poll(context));
                let Some(Held { mut bytes, length, .. }) = self.held.take() else { continue };
                // Without a permit the server is ending, which the call is told by other means.
                if let Some(permit) = permit {
                    self.permits.queue().push_back(permit);
                }
                self.messages.begin(length);
                let last_of_header = bytes.split_to(1);
                if bytes.is_empty() {
                    return Poll::Ready(Some(Ok(Frame::data(last_of_header))));
                }
                let passed = self.pass(bytes).unwrap_or_default();
                [last_of_header, passed].concat().into()
            } else {
                match ready!(Pin::new(&mut self.inner).poll_frame(context)) {
                    Some(Ok(frame)) => match frame.into_data() {
                        Ok(data) => match self.pass(data) {
                            Some(bytes) => bytes,
                            None => continue,
                        },
                        Err(frame) => return Poll::Ready(Some(Ok(frame))),
                    },
                    other => return Poll::Ready(other),
                }
            };
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut bytes)))));
        }
    }

    fn is_end_stream(&self) -> bool {
        self.held.is_none() && self.inner.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(length: usize) -> Vec<u8> {
        let header = (length as u32).to_be_bytes();
        [0].into_iter().chain(header).chain((0..length).map(|i| i as u8)).collect()
    }

    proptest! {
        /// However the bytes are cut, and whichever messages have to wait: all pass, in order, and none before its message is admitted.
        #[test]
        fn nothing_passes_before_it_is_admitted(
            lengths in prop::collection::vec(0usize..40, 0..12),
            cuts in prop::collection::vec(1usize..30, 1..20),
            at_once in prop::collection::vec(any::<bool>(), 12),
        ) {
            let all: Vec<u8> = lengths.iter().flat_map(|&length| message(length)).collect();
            let (mut messages, mut passed, mut admitted) = (Messages::default(), Vec::new(), Vec::new());
            let mut rest = all.as_slice();
            for &cut in cuts.iter().cycle() {
                let (mut chunk, later) = rest.split_at(cut.min(rest.len()));
                rest = later;
                while !chunk.is_empty() {
                    let (n, waits) = messages.advance(chunk, |length| {
                        let at_once = at_once[admitted.len()];
                        at_once.then(|| admitted.push(length)).is_some()
                    });
                    passed.extend_from_slice(&chunk[..n]);
                    // The bytes of the messages that are admitted, and a header's first four.
                    let most: usize = admitted.iter().map(|length| HEADER + length).sum();
                    prop_assert!(passed.len() < most + HEADER);
                    chunk = &chunk[n..];
                    if let Some(length) = waits {
                        admitted.push(length);
                        messages.begin(length);
                        passed.push(chunk[0]);
                        chunk = &chunk[1..];
                    }
                }
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(passed, all);
            prop_assert_eq!(admitted, lengths);
        }
    }

    /// Frames in the order in which they are asked for.
    struct Frames(VecDeque<Vec<u8>>);

    impl HttpBody for Frames {
        type Data = Bytes;
        type Error = tonic::Status;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
            Poll::Ready(self.0.pop_front().map(|bytes| Ok(Frame::data(bytes.into()))))
        }
    }

    #[tokio::test]
    async fn a_message_waits_until_the_one_before_it_is_taken_in() {
        let permits = Permits::default();
        let budget = FairSemaphore::new(100, cost(10), 1);
        let frames = Frames([message(10), message(8), message(2)].concat().chunks(7).map(<[u8]>::to_vec).collect());
        let messages = Messages::default();
        let mut body =
            Admitted { inner: Body::new(frames), budget, caller: 1, permits: permits.clone(), messages, held: None };
        let mut context = Context::from_waker(std::task::Waker::noop());
        let mut read = || {
            let mut bytes = Vec::new();
            while let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut body).poll_frame(&mut context) {
                bytes.extend_from_slice(&frame.into_data().unwrap());
            }
            bytes
        };
        let all = [message(10), message(8), message(2)].concat();
        let first = read();
        assert_eq!(first, all[..HEADER + 10 + HEADER - 1]);
        let permit = permits.next().unwrap();
        assert_eq!(read(), [0; 0]);
        drop(permit);
        // Both fit now.
        assert_eq!([first, read()].concat(), all);
        assert!(permits.next().is_some() && permits.next().is_some() && permits.next().is_none());
    }
}
