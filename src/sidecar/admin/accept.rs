//! Connections of the admin port.
//!
//! The invariant: at most so many are open, and one more is always taken: the oldest is closed for it. So whoever asks for
//! `/health` is answered, however many others have connected and say nothing.

use std::collections::VecDeque;
use std::future::Future as _;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::sidecar::accepting::{self, Pauses};

/// See the module.
pub struct Listener {
    listener: TcpListener,
    room: Arc<Semaphore>,
    /// Those that were accepted, the oldest first; closing one means dropping its sender. Some may have ended.
    open: VecDeque<oneshot::Sender<()>>,
    pauses: Pauses,
    full: Pauses,
}

impl Listener {
    /// Accepts from `listener`, `most` at a time.
    pub fn new(listener: TcpListener, most: usize) -> Self {
        let room = Arc::new(Semaphore::new(most));
        let (pauses, full) = (Pauses::of("admin"), Pauses::of("admin"));
        Self { listener, room, open: VecDeque::with_capacity(most), pauses, full }
    }

    async fn accept_one(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok(accepted) => {
                    self.pauses.end();
                    return accepted;
                }
                Err(error) if accepting::client_left(&error) => {}
                Err(error) => {
                    self.pauses.refused(&error);
                    tokio::time::sleep(accepting::PAUSE).await;
                }
            }
        }
    }

    /// Room for one more connection: of one that has ended, or of the oldest.
    async fn room(&mut self) -> OwnedSemaphorePermit {
        self.open.retain(|connection| !connection.is_closed());
        if let Ok(permit) = Arc::clone(&self.room).try_acquire_owned() {
            self.full.end();
            return permit;
        }
        self.full.begin(|| "all connections are open; the oldest is closed for each new one".into());
        // Its connection notices, and gives its permit back when it is dropped.
        drop(self.open.pop_front());
        Arc::clone(&self.room).acquire_owned().await.expect("the semaphore is never closed")
    }
}

impl axum::serve::Listener for Listener {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        let (stream, address) = self.accept_one().await;
        let permit = self.room().await;
        let (close, closed) = oneshot::channel();
        self.open.push_back(close);
        (Connection { stream, closed: Some(closed), _permit: permit }, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// One connection. Once it is to be closed, its client has nothing more to say, and a client that does not read is cut off.
pub struct Connection {
    stream: TcpStream,
    /// Resolves, with an error, when it is to be closed; `None` afterwards.
    closed: Option<oneshot::Receiver<()>>,
    _permit: OwnedSemaphorePermit,
}

impl Connection {
    fn is_closed(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(closed) = &mut self.closed else { return true };
        let is_closed = Pin::new(closed).poll(cx).is_ready();
        if is_closed {
            self.closed = None;
        }
        is_closed
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        // Nothing read means the end.
        if read.is_pending() && self.is_closed(cx) { Poll::Ready(Ok(())) } else { read }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        if written.is_pending() && self.is_closed(cx) {
            Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()))
        } else {
            written
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
