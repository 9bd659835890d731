//! Connections, each with the identity of its caller.
//!
//! The invariant: at most `most` connections are open; the next is accepted when one of them has closed. Running out of
//! descriptors is logged and waited out; it never ends the server.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

use crate::sidecar::Identity;

/// How long nothing is accepted after the system refused: without a descriptor to spare, trying at once would not end.
const PAUSE: Duration = Duration::from_millis(100);

/// One connection.
pub(in crate::sidecar::transport) struct Connection<S> {
    stream: S,
    identity: Arc<Identity>,
    _open: OwnedSemaphorePermit,
}

/// Where connections come from.
pub(in crate::sidecar::transport) trait Listener: Send + Sync + 'static {
    /// The connection's bytes.
    type Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    /// The next connection, and whose it is.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, Arc<Identity>)>> + Send;
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<(TcpStream, Arc<Identity>)> {
        let (stream, _) = self.accept().await?;
        // Replies are small, and each is waited for. A socket that refuses is about to fail anyway.
        let _ = stream.set_nodelay(true);
        Ok((stream, Identity::new("grpc", None)))
    }
}

impl Listener for UnixListener {
    type Stream = UnixStream;

    async fn accept(&self) -> io::Result<(UnixStream, Arc<Identity>)> {
        let (stream, _) = self.accept().await?;
        let uid = stream.peer_cred().ok().map(|credentials| credentials.uid());
        Ok((stream, Identity::new("grpc", uid)))
    }
}

/// The connections of `listener`, in order, while there are fewer than the permits of `most`. Accepting ends with the stream.
pub(in crate::sidecar::transport) fn connections<L: Listener>(
    listener: L,
    most: Arc<Semaphore>,
) -> ReceiverStream<io::Result<Connection<L::Stream>>> {
    let (accepted, connections) = mpsc::channel(1);
    tokio::spawn(async move {
        let accept_all = async {
            // The semaphore is never closed.
            while let Ok(open) = Arc::clone(&most).acquire_owned().await {
                let (stream, identity) = accept(&listener).await;
                if accepted.send(Ok(Connection { stream, identity, _open: open })).await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            () = accept_all => {}
            () = accepted.closed() => {}
        }
    });
    ReceiverStream::new(connections)
}

async fn accept<L: Listener>(listener: &L) -> (L::Stream, Arc<Identity>) {
    let mut refused = false;
    loop {
        match listener.accept().await {
            Ok(connection) => return connection,
            // The client was gone again; nothing is wrong here.
            Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) => {}
            Err(error) => {
                if !std::mem::replace(&mut refused, true) {
                    tracing::warn!(%error, "cannot accept a connection; trying again until it works (too few descriptors? see ulimit -n)");
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

impl<S> Connected for Connection<S> {
    type ConnectInfo = Arc<Identity>;

    fn connect_info(&self) -> Arc<Identity> {
        Arc::clone(&self.identity)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
