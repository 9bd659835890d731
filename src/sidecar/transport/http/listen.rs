//! The listening side of HTTP: TCP and Unix sockets, one router behind all.
//!
//! Invariants: a connection is accepted while fewer than `http_connections` are open, and under that pressure the longest idle one
//! makes room; whoever connects from one host, or as one user of this one, is one caller, since many trainers open a connection for
//! each rollout.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_stream::StreamExt as _;
use tonic::transport::server::Connected as _;

use super::address::{GymOnRejection, HttpAddress};
use super::connection::{self, Activity, Terms, Times};
use super::flights::Flights;
use super::routes;
use super::state::Shared;
use crate::sidecar::descriptors::Descriptors;
use crate::sidecar::health::Health;
use crate::sidecar::listen_error::ListenError;
use crate::sidecar::transport::grpc::accept::{self, Connection, Room};
use crate::sidecar::transport::socket_file::{self, SocketFile};
use crate::sidecar::transport::{Transport, ended};
use crate::sidecar::{Config, Identity, Intake, StartError};

/// Connections that wait to be accepted: a trainer's whole step may connect at once. The system may allow fewer
/// (`net.core.somaxconn`).
const BACKLOG: u32 = 4096;

const SETTING: &str = "http";

/// A bound socket on which nothing is served yet.
enum Bound {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

/// Bound sockets, with their addresses.
pub struct Listeners(Vec<(Bound, HttpAddress)>);

impl Listeners {
    /// Binds what the configuration names.
    pub fn bind(config: &Config) -> Result<Self, StartError> {
        config.http.iter().map(bind).collect::<Result<_, _>>().map(Self)
    }

    /// The addresses, with the ports that the system picked.
    pub fn addresses(&self) -> Vec<HttpAddress> {
        self.0.iter().map(|(_, address)| address.clone()).collect()
    }
}

fn bind(address: &HttpAddress) -> Result<(Bound, HttpAddress), StartError> {
    match address {
        HttpAddress::Tcp(name) => {
            let unknown = |source| ListenError::Name { setting: SETTING, name: name.clone(), source };
            let mut found: Vec<SocketAddr> = name.to_socket_addrs().map_err(unknown)?.collect();
            // As for gRPC: `localhost` is 127.0.0.1.
            found.sort_by_key(SocketAddr::is_ipv6);
            let first = found.first().copied();
            let address = first.ok_or_else(|| unknown(io::Error::from(io::ErrorKind::NotFound)))?;
            let failed = |source| ListenError::Address { setting: SETTING, address, source };
            let listener = bind_tcp(address).map_err(failed)?;
            let bound = listener.local_addr().map_err(failed)?;
            Ok((Bound::Tcp(listener), HttpAddress::Tcp(bound.to_string())))
        }
        HttpAddress::Unix(path) => {
            let (listener, file) = socket_file::bind(SETTING, path)?;
            let listener = UnixListener::from_std(listener).map_err(StartError::Thread)?;
            Ok((Bound::Unix(listener, file), address.clone()))
        }
    }
}

fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A server that comes back finds its port again, though old connections linger.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// A running HTTP server.
pub struct Server {
    tasks: JoinSet<()>,
    /// Turns true once no new work is wanted.
    draining: watch::Sender<bool>,
    /// Turns true when open streams must end.
    ending: watch::Sender<bool>,
    /// Turns true when connections must close.
    stop: watch::Sender<bool>,
    unread: Arc<watch::Sender<usize>>,
    _socket_files: Vec<SocketFile>,
}

impl Server {
    /// Serves on every listener.
    pub fn start(
        listeners: Listeners,
        config: &Config,
        intake: &Intake,
        health: &Health,
        descriptors: &Descriptors,
    ) -> Self {
        let (draining, drains) = watch::channel(false);
        let (ending, ends) = watch::channel(false);
        let (stop, stopped) = watch::channel(false);
        let shared = Shared {
            intake: intake.clone(),
            health: health.clone(),
            flights: Flights::default(),
            draining: drains,
            ending: ends,
            gym_fails: config.gym_on_rejection == GymOnRejection::Fail,
            in_flight_limit: config.stream_in_flight,
        };
        let terms = Terms {
            router: routes::router(shared),
            times: Times::default(),
            room: Room::new("http", "http_connections", config.http_connections, descriptors),
            unread: Arc::new(watch::Sender::new(0)),
            stop: stopped,
        };
        let unread = Arc::clone(&terms.unread);
        let (mut tasks, mut socket_files) = (JoinSet::new(), Vec::new());
        let peers = Peers::default();
        for (bound, _) in listeners.0 {
            let (terms, peers, health) = (terms.clone(), peers.clone(), health.clone());
            match bound {
                Bound::Tcp(listener) => drop(tasks.spawn(serve(Tcp { listener, peers }, terms, health))),
                Bound::Unix(listener, file) => {
                    tasks.spawn(serve(Unix { listener, peers }, terms, health));
                    socket_files.push(file);
                }
            }
        }
        Self { tasks, draining, ending, stop, unread, _socket_files: socket_files }
    }
}

/// Serves the connections of one listener until it is told to stop. One that ends before is a failure of the whole sidecar.
async fn serve<L: accept::Listener>(listener: L, terms: Terms, health: Health) {
    let mut connections = accept::connections(listener, terms.room.clone());
    let (mut stop, mut open) = (terms.stop.clone(), JoinSet::new());
    let mut known: Vec<Weak<Activity>> = Vec::new();
    loop {
        tokio::select! {
            next = connections.next() => match next {
                Some(Ok(connection)) => {
                    let activity = Activity::new();
                    remember(&mut known, &activity);
                    open.spawn(serve_one(connection, activity, terms.clone()));
                    if terms.room.is_full() {
                        make_room(&known);
                    }
                }
                Some(Err(_)) => {}
                None => return health.fail("the HTTP server has ended: nothing is accepted any more"),
            },
            Some(_) = open.join_next(), if !open.is_empty() => {}
            _ = stop.wait_for(|stop| *stop) => break,
        }
    }
    drop(connections);
    while open.join_next().await.is_some() {}
}

async fn serve_one<S>(connection: Connection<S>, activity: Arc<Activity>, terms: Terms)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
    Connection<S>: tonic::transport::server::Connected<ConnectInfo = Arc<Identity>>,
{
    let identity = connection.connect_info();
    connection::serve(connection, identity, activity, terms).await;
}

/// Keeps it among those that are open, and forgets those that are not once they are the most.
fn remember(known: &mut Vec<Weak<Activity>>, activity: &Arc<Activity>) {
    if known.len() == known.capacity() {
        known.retain(|other| other.strong_count() > 0);
    }
    known.push(Arc::downgrade(activity));
}

/// The longest idle connection closes, if there is an idle one.
fn make_room(known: &[Weak<Activity>]) {
    let open = known.iter().filter_map(Weak::upgrade);
    let idle = open.filter_map(|activity| Some((activity.idle_since()?, activity)));
    if let Some((_, activity)) = idle.min_by_key(|(since, _)| *since) {
        activity.leave.notify_one();
    }
}

#[tonic::async_trait]
impl Transport for Server {
    async fn refuse(&self) {
        self.draining.send_replace(true);
    }

    async fn stop(mut self: Box<Self>, until: tokio::time::Instant) -> usize {
        self.ending.send_replace(true);
        self.stop.send_replace(true);
        if ended(&mut self.tasks, until, "HTTP").await {
            return 0;
        }
        let unread = *self.unread.borrow();
        tracing::warn!(unread, "HTTP connections were still open at the end of the drain and have been cut");
        unread
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ending.send_replace(true);
    }
}

/// Who connects from where: one caller for each host, or for each user of this one.
#[derive(Clone, Default)]
struct Peers(Arc<Mutex<HashMap<Peer, Weak<Identity>>>>);

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Peer {
    Host(IpAddr),
    User(Option<u32>),
}

impl Peers {
    fn identity(&self, peer: Peer) -> Arc<Identity> {
        // Nothing panics half-way.
        let mut peers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(identity) = peers.get(&peer).and_then(Weak::upgrade) {
            return identity;
        }
        peers.retain(|_, identity| identity.strong_count() > 0);
        let uid = if let Peer::User(uid) = peer { uid } else { None };
        let identity = Identity::new("http", uid);
        peers.insert(peer, Arc::downgrade(&identity));
        identity
    }
}

struct Tcp {
    listener: TcpListener,
    peers: Peers,
}

impl accept::Listener for Tcp {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<(TcpStream, Arc<Identity>)> {
        let (stream, peer) = self.listener.accept().await?;
        // Replies are small, and each is waited for. A socket that refuses is about to fail anyway.
        let _ = stream.set_nodelay(true);
        Ok((stream, self.peers.identity(Peer::Host(peer.ip()))))
    }
}

struct Unix {
    listener: UnixListener,
    peers: Peers,
}

impl accept::Listener for Unix {
    type Stream = UnixStream;

    async fn accept(&self) -> io::Result<(UnixStream, Arc<Identity>)> {
        let (stream, _) = self.listener.accept().await?;
        let uid = stream.peer_cred().ok().map(|credentials| credentials.uid());
        Ok((stream, self.peers.identity(Peer::User(uid))))
    }
}
