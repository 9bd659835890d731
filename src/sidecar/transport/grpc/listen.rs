//! The listening side of gRPC: TCP and a Unix socket at once, one service behind both, with health and reflection.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, UnixListener};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::transport::server::Router;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use super::RewardService;
use super::accept::{self, Room};
use super::budget::Budgeted;
use super::replies::Unread;
use crate::limits::MAX_MESSAGE_BYTES;
use crate::proto::DESCRIPTORS;
use crate::proto::v1::reward_service_server::RewardServiceServer;
use crate::sidecar::descriptors::Descriptors;
use crate::sidecar::health::Health;
use crate::sidecar::listen_error::ListenError;
use crate::sidecar::transport::socket_file::{self, SocketFile};
use crate::sidecar::transport::{Transport, ended};
use crate::sidecar::{Config, Intake, StartError};

/// Rollouts that HTTP/2 may hold unread for one stream, in bytes: enough to keep a fast sender busy, small enough that
/// back-pressure is felt.
const STREAM_WINDOW_BYTES: u32 = 256 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
/// A peer that vanished without a word is noticed after so long.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// Connections that wait to be accepted, also while the model loads; the system may allow fewer.
const BACKLOG: u32 = 4096;
/// Calls that one connection may have open: trainers need one or a few.
const CONNECTION_STREAMS: u32 = 256;

/// Bound sockets on which nothing is served yet.
pub struct Listeners {
    tcp: Option<TcpListener>,
    uds: Option<(UnixListener, SocketFile)>,
}

impl Listeners {
    /// Binds what the configuration names.
    pub fn bind(config: &Config) -> Result<Self, StartError> {
        let tcp =
            |address| bind_tcp(address).map_err(|source| ListenError::Address { setting: "grpc", address, source });
        let uds = config.uds.as_ref().map(|path| bind_uds(path)).transpose()?;
        Ok(Self { tcp: config.grpc.map(tcp).transpose()?, uds })
    }

    /// The TCP address, with the port that the system picked.
    pub fn tcp_addr(&self) -> Option<SocketAddr> {
        self.tcp.as_ref().and_then(|listener| listener.local_addr().ok())
    }
}

fn bind_tcp(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // As tokio and std do: connections of an earlier server that are not quite closed do not take its port.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn bind_uds(path: &Path) -> Result<(UnixListener, SocketFile), StartError> {
    let (listener, file) = socket_file::bind("uds", path)?;
    Ok((UnixListener::from_std(listener).map_err(StartError::Thread)?, file))
}

/// A running gRPC server.
pub struct Server {
    tasks: JoinSet<()>,
    /// Turns true when open streams must end.
    ending: watch::Sender<bool>,
    /// Turns true when connections must close.
    stop: watch::Sender<bool>,
    unread: Unread,
    reporter: HealthReporter,
    _socket_file: Option<SocketFile>,
}

impl Server {
    /// Serves on every listener.
    pub async fn start(
        listeners: Listeners,
        config: &Config,
        intake: &Intake,
        health: &Health,
        descriptors: &Descriptors,
    ) -> Self {
        let (reporter, health_service) = tonic_health::server::health_reporter();
        reporter.set_serving::<RewardServiceServer<RewardService>>().await;
        let (unread, (ending, ended)) = (Unread::new(), watch::channel(false));
        let service = RewardService {
            intake: intake.clone(),
            in_flight_limit: config.stream_in_flight,
            ending: ended,
            unread: unread.clone(),
        };
        let service = RewardServiceServer::new(service)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let built = "the schema was checked when it was compiled";
        let router: Router = tonic::transport::Server::builder()
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_concurrent_streams(Some(CONNECTION_STREAMS))
            .http2_keepalive_interval(Some(KEEPALIVE))
            .add_service(health_service)
            .add_service(reflection().build_v1().expect(built))
            // Older stock clients ask for v1alpha.
            .add_service(reflection().build_v1alpha().expect(built))
            .add_service(Budgeted::new(service, intake.bytes().clone()));

        let (stop, stopped) = watch::channel(false);
        let until_stopped = || {
            let mut stopped = stopped.clone();
            // An error means that the server itself was dropped.
            async move { drop(stopped.wait_for(|stop| *stop).await) }
        };
        let room = Room::new("grpc", "grpc_connections", config.grpc_connections, descriptors);
        let mut tasks = JoinSet::new();
        if let Some(listener) = listeners.tcp {
            let incoming = accept::connections(listener, room.clone());
            let serving = router.clone().serve_with_incoming_shutdown(incoming, until_stopped());
            tasks.spawn(serve(serving, stopped.clone(), health.clone()));
        }
        let mut socket_file = None;
        if let Some((listener, file)) = listeners.uds {
            let incoming = accept::connections(listener, room);
            let serving = router.serve_with_incoming_shutdown(incoming, until_stopped());
            tasks.spawn(serve(serving, stopped.clone(), health.clone()));
            socket_file = Some(file);
        }
        Self { tasks, ending, stop, unread, reporter, _socket_file: socket_file }
    }
}

/// Serves on one listener. One that ends before it is told to is a failure of the whole sidecar: nobody would hear of it otherwise.
async fn serve(
    serving: impl Future<Output = Result<(), tonic::transport::Error>>,
    stopped: watch::Receiver<bool>,
    health: Health,
) {
    let ended = serving.await;
    if !*stopped.borrow() {
        let why = ended.err().map_or_else(|| "without a reason".into(), |error| error.to_string());
        health.fail(format!("the gRPC server has ended: {why}"));
    } else if let Err(error) = ended {
        tracing::error!(%error, "the gRPC server ended with an error");
    }
}

#[tonic::async_trait]
impl Transport for Server {
    async fn refuse(&self) {
        self.reporter.set_not_serving::<RewardServiceServer<RewardService>>().await;
        // The server as a whole, which is what probes ask for by default.
        self.reporter.set_service_status("", ServingStatus::NotServing).await;
    }

    async fn stop(mut self: Box<Self>, until: tokio::time::Instant) -> usize {
        self.ending.send_replace(true);
        self.stop.send_replace(true);
        if ended(&mut self.tasks, until, "gRPC").await {
            return 0;
        }
        let unread = self.unread.now();
        tracing::warn!(unread, "gRPC connections were still open at the end of the drain and have been cut");
        unread
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ending.send_replace(true);
    }
}
