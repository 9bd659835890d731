//! Connections, each with the identity of its caller.
//!
//! The invariant: at most as many connections are open as [`Room`] has room for; the next is accepted when one of them has closed.
//! Running out of descriptors is logged and waited out; it never ends the server.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

use crate::sidecar::Identity;
use crate::sidecar::accepting::{self, Pauses};
use crate::sidecar::descriptors::{Descriptors, Taken};

/// One connection.
pub(in crate::sidecar::transport) struct Connection<S> {
    stream: S,
    identity: Arc<Identity>,
    _open: Open,
}

/// Room for connections, shared by all listeners of one transport.
#[derive(Debug, Clone)]
pub(in crate::sidecar::transport) struct Room {
    /// The transport, for the log and the metric.
    of: &'static str,
    /// The setting that says how many they are.
    setting: &'static str,
    connections: Arc<Semaphore>,
    most: usize,
    descriptors: Descriptors,
}

/// One connection's part of the room.
type Open = (OwnedSemaphorePermit, Taken);

impl Room {
    /// For at most `most` connections, and no more than there are descriptors.
    pub(in crate::sidecar::transport) fn new(
        of: &'static str,
        setting: &'static str,
        most: usize,
        descriptors: &Descriptors,
    ) -> Self {
        Self { of, setting, connections: Arc::new(Semaphore::new(most)), most, descriptors: descriptors.clone() }
    }

    /// Whether whoever connects now has to wait.
    pub(in crate::sidecar::transport) fn is_full(&self) -> bool {
        self.connections.available_permits() == 0 || self.descriptors.try_connection().is_none()
    }

    /// Room for one more connection, once there is some.
    async fn next(&self, pauses: &mut Pauses) -> Open {
        let connection = match Arc::clone(&self.connections).try_acquire_owned() {
            Ok(connection) => connection,
            Err(_) => {
                pauses.begin(|| {
                    format!("all {} connections are open ({}); further clients wait", self.most, self.setting)
                });
                Arc::clone(&self.connections).acquire_owned().await.expect("the semaphore is never closed")
            }
        };
        let descriptors = match self.descriptors.try_connection() {
            Some(descriptors) => descriptors,
            None => {
                pauses.begin(|| {
                    let Descriptors { most, limit, .. } = self.descriptors;
                    format!("all {most} descriptors that clients may have are in use (ulimit -n is {limit}); further clients wait")
                });
                return (connection, self.descriptors.connection().await);
            }
        };
        pauses.end();
        (connection, descriptors)
    }
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

/// The connections of `listener`, in order, while there is `room`. Accepting ends with the stream.
pub(in crate::sidecar::transport) fn connections<L: Listener>(
    listener: L,
    room: Room,
) -> ReceiverStream<io::Result<Connection<L::Stream>>> {
    let (accepted, connections) = mpsc::channel(1);
    tokio::spawn(async move {
        let accept_all = async {
            let (mut full, mut refused) = (Pauses::of(room.of), Pauses::of(room.of));
            loop {
                let open = room.next(&mut full).await;
                let (stream, identity) = accept(&listener, &mut refused).await;
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

async fn accept<L: Listener>(listener: &L, pauses: &mut Pauses) -> (L::Stream, Arc<Identity>) {
    loop {
        match listener.accept().await {
            Ok(connection) => {
                pauses.end();
                return connection;
            }
            Err(error) if accepting::client_left(&error) => {}
            Err(error) => {
                pauses.refused(&error);
                tokio::time::sleep(accepting::PAUSE).await;
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
