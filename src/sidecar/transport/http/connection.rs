//! One connection: HTTP/1.1 or HTTP/2 by what the client begins with, and when it is closed.
//!
//! Invariants: a connection on which a request is under way is not closed before its answer has been read, but at the end of a drain;
//! one that has sent a part of a request's head, or nothing yet, is closed after [`Times::head`]; an idle one after
//! [`Times::idle`], which is longer than clients keep theirs, so that no request is sent into a closing connection.

use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::http::header::CONNECTION;
use axum::http::{HeaderValue, Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Notify, watch};
use tonic::codegen::{Bytes, Service};

use crate::sidecar::Identity;
use crate::sidecar::transport::grpc::accept::Room;

/// How long a connection may be without a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    /// From its first byte, or from nothing at all, to the end of a request's head.
    pub head: Duration,
    /// From one request to the next.
    pub idle: Duration,
}

impl Default for Times {
    /// The longest that clients are known to keep an idle connection is 90 s (Go's `http.Transport`).
    fn default() -> Self {
        Self { head: Duration::from_secs(10), idle: Duration::from_secs(120) }
    }
}

/// How often a connection looks at its own times.
const LOOK: Duration = Duration::from_secs(2);
/// A peer of HTTP/2 that vanished without a word is noticed after so long.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// What HTTP/2 begins with (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI";

/// How connections are served.
#[derive(Clone)]
pub(super) struct Terms {
    pub router: Router,
    pub times: Times,
    /// Room for further connections.
    pub room: Room,
    /// Requests whose answers have not been read.
    pub unread: Arc<watch::Sender<usize>>,
    /// Turns true when connections must close.
    pub stop: watch::Receiver<bool>,
}

/// What a connection is doing.
pub(super) struct Activity {
    state: Mutex<State>,
    /// It is wanted that it closes as soon as it is idle.
    pub leave: Notify,
}

struct State {
    in_flight: usize,
    /// When the last request ended, or the connection began.
    idle_since: Instant,
    /// When the first byte of the next request came.
    head_since: Option<Instant>,
    http2: bool,
}

/// What is to be done about a connection.
#[derive(Debug, PartialEq)]
enum Overdue {
    /// Nothing has been sent for long: to be closed as the protocol has it.
    Idle,
    /// A request's head does not end: nothing can be said to such a client.
    Head,
}

impl Activity {
    pub fn new() -> Arc<Self> {
        let now = Instant::now();
        // Until something was sent, the first head is what is waited for.
        let state = State { in_flight: 0, idle_since: now, head_since: Some(now), http2: false };
        Arc::new(Self { state: Mutex::new(state), leave: Notify::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is half-changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Since when it has been idle; `None` while a request is on its way.
    pub fn idle_since(&self) -> Option<Instant> {
        let state = self.state();
        (state.in_flight == 0 && (state.http2 || state.head_since.is_none())).then_some(state.idle_since)
    }

    fn received(&self, bytes: &[u8]) {
        let mut state = self.state();
        if state.in_flight == 0 && state.head_since.is_none() {
            state.head_since = Some(Instant::now());
        }
        state.http2 |= bytes.starts_with(PREFACE);
    }

    fn began(&self) {
        let mut state = self.state();
        state.in_flight += 1;
        state.head_since = None;
    }

    fn ended(&self) {
        let mut state = self.state();
        state.in_flight -= 1;
        state.idle_since = Instant::now();
    }

    fn overdue(&self, times: &Times, now: Instant) -> Option<Overdue> {
        let state = self.state();
        let longer = |since: Instant, limit| now.saturating_duration_since(since) > limit;
        match state.head_since {
            _ if state.in_flight > 0 => None,
            Some(since) if !state.http2 => longer(since, times.head).then_some(Overdue::Head),
            _ => longer(state.idle_since, times.idle).then_some(Overdue::Idle),
        }
    }
}

/// Serves one connection until it ends.
pub(super) async fn serve<S>(stream: S, identity: Arc<Identity>, activity: Arc<Activity>, terms: Terms)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut builder = auto::Builder::new(TokioExecutor::new());
    // Ours are kept by `Activity`: hyper's would close idle connections, too.
    builder.http1().timer(TokioTimer::new()).header_read_timeout(None);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(KEEPALIVE).max_concurrent_streams(STREAMS);
    let (times, mut stop) = (terms.times, terms.stop.clone());
    let io = TokioIo::new(Watched { stream, activity: Arc::clone(&activity) });
    let service = Requests { identity, activity: Arc::clone(&activity), terms };
    let mut connection = pin!(builder.serve_connection(io, TowerToHyperService::new(service)));
    let mut closing = false;
    loop {
        let overdue = async {
            loop {
                tokio::time::sleep(LOOK.min(times.head)).await;
                if let Some(overdue) = activity.overdue(&times, Instant::now()) {
                    return overdue;
                }
            }
        };
        tokio::select! {
            // What went wrong on one connection is its client's affair.
            ended = connection.as_mut() => return drop(ended),
            overdue = overdue => match overdue {
                Overdue::Head => return,
                Overdue::Idle if closing => return,
                Overdue::Idle => {}
            },
            () = activity.leave.notified(), if !closing => {}
            // An error means that the server itself was dropped.
            _ = stop.wait_for(|stop| *stop), if !closing => {}
        }
        closing = true;
        connection.as_mut().graceful_shutdown();
    }
}

/// Requests that one connection of HTTP/2 may have open: a trainer's whole batch.
const STREAMS: u32 = 4096;

/// The connection's bytes, with an eye on when they come.
struct Watched<S> {
    stream: S,
    activity: Arc<Activity>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        let received = &buffer.filled()[before..];
        if !received.is_empty() {
            self.activity.received(received);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// The requests of one connection.
#[derive(Clone)]
struct Requests {
    identity: Arc<Identity>,
    activity: Arc<Activity>,
    terms: Terms,
}

impl<B> Service<Request<B>> for Requests
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Response = Response<Body>;
    type Error = std::convert::Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let under_way = UnderWay::new(&self.activity, &self.terms.unread);
        let (mut router, room) = (self.terms.router.clone(), self.terms.room.clone());
        request.extensions_mut().insert(Arc::clone(&self.identity));
        let request = request.map(Body::new);
        Box::pin(async move {
            let http1 = request.version() < axum::http::Version::HTTP_2;
            let mut response = router.call(request).await?;
            // Others may be waiting to connect: this client may come again.
            if http1 && room.is_full() {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok(response.map(|body| Body::new(Counted { body, _under_way: under_way })))
        })
    }
}

/// A request until its answer has been read.
struct UnderWay {
    activity: Arc<Activity>,
    unread: Arc<watch::Sender<usize>>,
}

impl UnderWay {
    fn new(activity: &Arc<Activity>, unread: &Arc<watch::Sender<usize>>) -> Self {
        activity.began();
        unread.send_modify(|n| *n += 1);
        Self { activity: Arc::clone(activity), unread: Arc::clone(unread) }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.activity.ended();
        self.unread.send_modify(|n| *n -= 1);
    }
}

/// An answer's body, which counts until it has been handed over.
struct Counted {
    body: Body,
    _under_way: UnderWay,
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_connections_and_unfinished_heads_are_told_apart() {
        let times = Times::default();
        let activity = Activity::new();
        let (head, idle) = (times.head + LOOK, times.idle + LOOK);
        let after = |time| activity.overdue(&times, Instant::now() + time);
        assert_eq!((after(LOOK), after(head)), (None, Some(Overdue::Head)));
        activity.received(b"POST /x");
        activity.began();
        assert_eq!((after(head), after(idle), activity.idle_since()), (None, None, None));
        activity.ended();
        assert_eq!((after(head), after(idle)), (None, Some(Overdue::Idle)));
        assert!(activity.idle_since().is_some());
        activity.received(b"G");
        assert_eq!((after(head), activity.idle_since()), (Some(Overdue::Head), None));
        // Frames of HTTP/2 come without a request, too.
        activity.received(b"PRI * HTTP/2.0");
        assert_eq!((after(head), after(idle)), (None, Some(Overdue::Idle)));
    }
}
