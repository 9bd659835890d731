//! `/metrics`, `/health`, `/ready`, on a thread and a runtime of their own: they answer while everything else is
//! busy, loading or stuck.

mod accept;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::routing::get;
use tokio::sync::oneshot;

use super::descriptors;
use super::listen_error::ListenError;
use super::metrics::Exposition;

/// How often recorded times are folded into their histograms.
const UPKEEP: Duration = Duration::from_secs(5);

/// Whether rollouts may be sent here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Readiness {
    /// The model is not there yet.
    #[default]
    Loading,
    /// The model is there and the transports listen.
    Ready,
    /// A request to stop came: accepted work is answered, new work is refused.
    Draining,
    /// It can be trusted no longer, for this reason; the process is about to end.
    Failed(Arc<str>),
}

impl Readiness {
    /// What `/ready` says.
    pub fn reason(&self) -> &str {
        match self {
            Readiness::Loading => "loading",
            Readiness::Ready => "ready",
            Readiness::Draining => "draining",
            Readiness::Failed(reason) => reason,
        }
    }
}

/// A running admin server; dropping it stops it.
#[derive(Debug)]
pub struct Admin {
    address: SocketAddr,
    readiness: Arc<RwLock<Readiness>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Admin {
    /// Listens on `address` (port 0 lets the system pick) and answers from now on; not ready yet. Without an
    /// `exposition`, `/metrics` is 404.
    pub fn start(address: SocketAddr, exposition: Option<Exposition>) -> Result<Self, ListenError> {
        Self::listen(address, exposition).map_err(|source| ListenError::Address { setting: "admin", address, source })
    }

    fn listen(address: SocketAddr, exposition: Option<Exposition>) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        // Everything that can fail is done here, where the caller hears of it.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = {
            let _inside = runtime.enter();
            tokio::net::TcpListener::from_std(listener)?
        };
        let listener = accept::Listener::new(listener, descriptors::admin_connections());
        let readiness = Arc::new(RwLock::new(Readiness::default()));
        let app = router(readiness.clone(), exposition.clone());
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new().name("admin".into()).spawn(move || {
            runtime.block_on(async move {
                tokio::select! {
                    // Ends only with an error of the listener, which accept retries.
                    _ = axum::serve(listener, app).into_future() => {}
                    () = upkeep(exposition) => {}
                    // A dropped sender stops it as well.
                    _ = stopped => {}
                }
            });
        })?;
        Ok(Self { address, readiness, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    /// Changes what `/ready` says.
    pub fn set_ready(&self, readiness: Readiness) {
        *self.readiness.write().unwrap_or_else(PoisonError::into_inner) = readiness;
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // Fails only where the thread is gone already.
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            // A panic in there has been reported by the panic hook.
            let _ = thread.join();
        }
    }
}

async fn upkeep(exposition: Option<Exposition>) {
    let mut ticks = tokio::time::interval(UPKEEP);
    loop {
        ticks.tick().await;
        if let Some(exposition) = &exposition {
            exposition.run_upkeep();
        }
    }
}

fn router(readiness: Arc<RwLock<Readiness>>, exposition: Option<Exposition>) -> Router {
    let router =
        Router::new().route("/health", get(|| async { "alive\n" })).route("/ready", get(ready).with_state(readiness));
    match exposition {
        Some(exposition) => router.route("/metrics", get(metrics).with_state(exposition)),
        None => router,
    }
}

async fn ready(State(readiness): State<Arc<RwLock<Readiness>>>) -> (StatusCode, String) {
    let readiness = readiness.read().unwrap_or_else(PoisonError::into_inner).clone();
    let status = if readiness == Readiness::Ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, format!("{}\n", readiness.reason()))
}

async fn metrics(State(exposition): State<Exposition>) -> ([(header::HeaderName, &'static str); 1], String) {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], exposition.render())
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpStream;

    use super::*;

    fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n").unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        response
    }

    fn start() -> Admin {
        Admin::start("127.0.0.1:0".parse().unwrap(), crate::sidecar::metrics::install()).unwrap()
    }

    #[test]
    fn says_how_it_is() {
        let admin = start();
        let status = |path: &str| get(admin.addr(), path).split(' ').nth(1).unwrap().to_owned();
        assert_eq!(status("/health"), "200");
        assert_eq!(status("/ready"), "503");
        assert!(get(admin.addr(), "/ready").ends_with("loading\n"));
        admin.set_ready(Readiness::Ready);
        assert_eq!(status("/ready"), "200");
        admin.set_ready(Readiness::Draining);
        assert_eq!(status("/ready"), "503");
        assert!(get(admin.addr(), "/ready").ends_with("draining\n"));
        assert_eq!(status("/health"), "200");
        assert_eq!(status("/nothing"), "404");
        let metrics = get(admin.addr(), "/metrics");
        assert!(metrics.contains("text/plain; version=0.0.4"), "{metrics}");
        assert!(metrics.contains("reward_sidecar_queue_rollouts "), "{metrics}");
    }

    #[test]
    fn a_taken_port_is_an_error() {
        let admin = start();
        let taken = Admin::start(admin.addr(), None).unwrap_err().to_string();
        assert!(taken.contains("another process listens there") && taken.contains("--admin off"), "{taken}");
    }

    #[test]
    fn dropping_it_stops_it_even_while_a_connection_is_open() {
        let admin = start();
        let address = admin.addr();
        let mut open = TcpStream::connect(address).unwrap();
        // One that is served, and that neither end would close.
        write!(open, "GET /health HTTP/1.1\r\nHost: admin\r\n\r\n").unwrap();
        let mut answer = [0; 12];
        open.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
        drop(admin);
        // The port is free again, and the open connection ends.
        TcpListener::bind(address).unwrap();
        open.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut rest = Vec::new();
        match open.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
        }
    }

    /// A scraper that keeps its connection open is no reason to leave the next one waiting.
    #[test]
    fn silent_connections_keep_nobody_out() {
        let admin = start();
        let silent: Vec<TcpStream> = (0..50).map(|_| TcpStream::connect(admin.addr()).unwrap()).collect();
        assert!(get(admin.addr(), "/health").starts_with("HTTP/1.1 200"));
        drop(silent);
    }
}
