//! The listening side of gRPC: TCP and a Unix socket at once, one service behind both, with health and reflection.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::server::{Router, TcpIncoming};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use super::RewardService;
use crate::limits::MAX_MESSAGE_BYTES;
use crate::proto::DESCRIPTORS;
use crate::proto::v1::reward_service_server::RewardServiceServer;
use crate::sidecar::transport::socket_file::{self, SocketFile};
use crate::sidecar::{Config, StartError};

/// Rollouts that HTTP/2 may hold unread for one stream, in bytes: enough to keep a fast sender busy, small enough that
/// back-pressure is felt.
const STREAM_WINDOW_BYTES: u32 = 256 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
/// A peer that vanished without a word is noticed after so long.
const KEEPALIVE: Duration = Duration::from_secs(20);

/// Bound sockets on which nothing is served yet.
pub struct Listeners {
    tcp: Option<TcpListener>,
    uds: Option<(UnixListener, SocketFile)>,
}

impl Listeners {
    /// Binds what the configuration names.
    pub async fn bind(config: &Config) -> Result<Self, StartError> {
        let tcp = match config.grpc {
            Some(address) => Some(TcpListener::bind(address).await.map_err(StartError::listen(&address))?),
            None => None,
        };
        let uds = match &config.uds {
            Some(path) => Some(bind_uds(path).map_err(StartError::listen(&path.display()))?),
            None => None,
        };
        Ok(Self { tcp, uds })
    }

    /// The TCP address, with the port that the system picked.
    pub fn tcp_addr(&self) -> Option<SocketAddr> {
        self.tcp.as_ref().and_then(|listener| listener.local_addr().ok())
    }
}

fn bind_uds(path: &Path) -> std::io::Result<(UnixListener, SocketFile)> {
    let (listener, file) = socket_file::bind(path)?;
    Ok((UnixListener::from_std(listener)?, file))
}

/// A running gRPC server.
pub struct Server {
    tasks: JoinSet<Result<(), tonic::transport::Error>>,
    stop: watch::Sender<bool>,
    health: HealthReporter,
    _socket_file: Option<SocketFile>,
}

impl Server {
    /// Serves on every listener.
    pub async fn start(listeners: Listeners, service: RewardService) -> Self {
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_serving::<RewardServiceServer<RewardService>>().await;
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
            .http2_keepalive_interval(Some(KEEPALIVE))
            .add_service(health_service)
            .add_service(reflection().build_v1().expect(built))
            // Older stock clients ask for v1alpha.
            .add_service(reflection().build_v1alpha().expect(built))
            .add_service(service);

        let (stop, stopped) = watch::channel(false);
        let until_stopped = || {
            let mut stopped = stopped.clone();
            // An error means that the server itself was dropped.
            async move { drop(stopped.wait_for(|stop| *stop).await) }
        };
        let mut tasks = JoinSet::new();
        if let Some(listener) = listeners.tcp {
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            tasks.spawn(router.clone().serve_with_incoming_shutdown(incoming, until_stopped()));
        }
        let mut socket_file = None;
        if let Some((listener, file)) = listeners.uds {
            tasks.spawn(router.serve_with_incoming_shutdown(UnixListenerStream::new(listener), until_stopped()));
            socket_file = Some(file);
        }
        Self { tasks, stop, health, _socket_file: socket_file }
    }

    /// Tells health checks that no new work is wanted.
    pub async fn refuse(&self) {
        self.health.set_not_serving::<RewardServiceServer<RewardService>>().await;
        // The server as a whole, which is what probes ask for by default.
        self.health.set_service_status("", ServingStatus::NotServing).await;
    }

    /// Takes no new connection, and ends when the open ones have; at `deadline` they are cut.
    pub async fn stop(mut self, deadline: tokio::time::Instant) {
        self.stop.send_replace(true);
        let ended = async {
            while let Some(ended) = self.tasks.join_next().await {
                if let Ok(Err(error)) = ended {
                    tracing::error!(%error, "the gRPC server ended with an error");
                }
            }
        };
        if tokio::time::timeout_at(deadline, ended).await.is_err() {
            tracing::warn!("connections were still open at the end of the drain and have been cut");
        }
    }
}
