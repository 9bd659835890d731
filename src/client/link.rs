//! The way to a server: its address, and one live connection to it.
//!
//! Invariant: a [`Link`] has been spoken through: its other end serves a reward model, and on a Unix socket it belongs to
//! this user or to root.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Status};

use super::back_off::{BackOff, TELL, random};
use super::error::{ClientError, in_full};
use crate::limits::MAX_MESSAGE_BYTES;
use crate::proto::v1::GetModelRequest;
use crate::proto::v1::reward_service_client::RewardServiceClient;
use crate::proto::{ServedModel, card_from_wire};

/// Longest time that one attempt to connect and to ask for the model may take.
const ATTEMPT: Duration = Duration::from_secs(8);

/// How a connection on which nothing comes is watched. Without it, a server that hangs, or a host that vanished without a
/// word, would be waited for indefinitely.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeepAlive {
    /// Silence after which the server is asked whether it is there (an HTTP/2 ping).
    pub interval: Duration,
    /// How long it may take to answer. Then the connection counts as lost.
    pub timeout: Duration,
}

impl Default for KeepAlive {
    /// A server that hangs is noticed after 8 s.
    fn default() -> Self {
        Self { interval: Duration::from_secs(4), timeout: Duration::from_secs(4) }
    }
}

/// Where a server listens.
#[derive(Debug, Clone)]
pub(super) struct Address {
    /// As the user wrote it.
    pub(super) text: Arc<str>,
    endpoint: Endpoint,
    /// The Unix socket to dial in place of the endpoint's host.
    socket: Option<PathBuf>,
}

impl Address {
    /// Understands `grpc://host:port`, `http://host:port` (the same) and `unix:///path`.
    pub(super) fn parse(text: &str) -> Result<Self, ClientError> {
        let bad = |reason: String| ClientError::BadAddress { address: text.into(), reason };
        let (uri, socket) = match text.split_once("://") {
            Some(("grpc" | "http", rest)) => (format!("http://{rest}"), None),
            Some(("unix", path)) if path.starts_with('/') && path.len() > 1 => {
                // The host only fills the header that HTTP/2 wants.
                ("http://localhost".to_string(), Some(PathBuf::from(path)))
            }
            Some(("unix", _)) => return Err(bad("the path of a Unix socket must be absolute".into())),
            Some(("shm", _)) => return Err(bad("shared memory is for threads that wait (client::blocking)".into())),
            Some((scheme, _)) => return Err(bad(format!("there is no transport called '{scheme}'"))),
            None => return Err(bad("it has no scheme".into())),
        };
        let uri: Uri = uri.parse().map_err(|error| bad(in_full(&error)))?;
        if socket.is_none() && uri.port().is_none() {
            return Err(bad("it has no port".into()));
        }
        let endpoint = Endpoint::from(uri).connect_timeout(ATTEMPT).keep_alive_while_idle(true);
        Ok(Self { text: text.into(), endpoint, socket }.with_keep_alive(KeepAlive::default()))
    }

    pub(super) fn with_keep_alive(self, keep_alive: KeepAlive) -> Self {
        let KeepAlive { interval, timeout } = keep_alive;
        let endpoint = self.endpoint.http2_keep_alive_interval(interval).keep_alive_timeout(timeout);
        Self { endpoint, ..self }
    }

    async fn connect(&self) -> Result<Channel, Failure> {
        let connected = match &self.socket {
            None => self.endpoint.connect().await,
            Some(path) => {
                let path = path.clone();
                let connector = tower::service_fn(move |_: Uri| {
                    let path = path.clone();
                    async move { trusted(&path).await.map(TokioIo::new) }
                });
                self.endpoint.connect_with_connector(connector).await
            }
        };
        connected.map_err(|error| match wrong_owner(&error) {
            Some(&WrongOwner { found, own }) => {
                Failure::Final(ClientError::WrongOwner { address: self.text.clone(), found, own })
            }
            None if self.socket.is_some() && is_absent(&error) => Failure::Absent(in_full(&error)),
            None => Failure::Passing(in_full(&error)),
        })
    }
}

/// Another user listens at a Unix socket.
#[derive(Debug, thiserror::Error)]
#[error("user {found} listens there, not user {own} or root")]
struct WrongOwner {
    found: u32,
    own: u32,
}

/// Connects to a Unix socket at which this user or root listens: in a folder that others may write to, anybody could.
async fn trusted(path: &Path) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(path).await?;
    let (found, own) = (stream.peer_cred()?.uid(), rustix::process::geteuid().as_raw());
    if found == own || found == 0 { Ok(stream) } else { Err(io::Error::other(WrongOwner { found, own })) }
}

/// Whether that was why a connection could not be made.
fn wrong_owner<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a WrongOwner> {
    causes(error).find_map(|cause| {
        // What an `io::Error` was made of is not its source, but stands in its place.
        let inner = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        inner.and_then(|inner| inner.downcast_ref()).or_else(|| cause.downcast_ref())
    })
}

/// Whether a connection could not be made because there is no such file.
fn is_absent(error: &(dyn Error + 'static)) -> bool {
    let mut errors = causes(error).filter_map(|cause| cause.downcast_ref::<io::Error>());
    errors.any(|error| error.kind() == io::ErrorKind::NotFound)
}

/// An error and what caused it, one after the other.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error: &&'a (dyn Error + 'static)| error.source())
}

/// A live connection, and what is served at its other end.
pub(super) struct Link {
    pub(super) stub: RewardServiceClient<Channel>,
    pub(super) served: ServedModel,
}

/// Failures in a row, to connect and of connections, and why the latest.
#[derive(Debug, Clone)]
pub(super) struct Failures {
    count: u32,
    reason: Arc<str>,
}

impl Failures {
    /// None yet: the first attempt is made at once.
    pub(super) fn none() -> Self {
        Self { count: 0, reason: "not tried yet".into() }
    }

    /// One more.
    pub(super) fn add(&mut self, reason: &str) {
        self.count = self.count.saturating_add(1);
        self.reason = reason.into();
    }
}

/// Connects to the server of a model, waiting after each failure. Fails when the budget is spent, which is `absent` while there is no socket, or when
/// there is no use in trying. `failures` goes in with what went before and comes out with what was added.
pub(super) async fn dial(
    address: &Address,
    model: &str,
    back_off: &BackOff,
    absent: Duration,
    failures: &mut Failures,
) -> Result<Link, ClientError> {
    let (since, mut budget, mut told) = (Instant::now(), back_off.budget, false);
    loop {
        if failures.count > 0 {
            let delay = back_off.delay(failures.count, random());
            let waited = since.elapsed();
            if waited + delay > budget {
                return Err(ClientError::Disconnected {
                    address: address.text.clone(),
                    reason: failures.reason.clone(),
                    waited,
                });
            }
            sleep(delay).await;
        }
        budget = back_off.budget;
        match timeout(ATTEMPT, attempt(address, model)).await {
            Ok(Ok(link)) => return Ok(link),
            Ok(Err(Failure::Final(error))) => return Err(error),
            Ok(Err(Failure::Passing(reason))) => failures.add(&reason),
            Ok(Err(Failure::Absent(reason))) => {
                failures.add(&reason);
                budget = back_off.for_absent(absent);
            }
            Err(_) => failures.add(&format!("no answer in {} s", ATTEMPT.as_secs())),
        }
        if since.elapsed() >= TELL && !std::mem::replace(&mut told, true) {
            let give_up_s = budget.as_secs_f32();
            tracing::warn!(address = %address.text, reason = %failures.reason, give_up_s, "no connection yet");
        }
        tracing::debug!(address = %address.text, reason = %failures.reason, "cannot connect");
    }
}

/// Why a call or a connection failed.
pub(super) enum Failure {
    /// It may go away.
    Passing(String),
    /// There is no socket of that name; it may come.
    Absent(String),
    /// It will not.
    Final(ClientError),
}

impl Failure {
    /// A call's end, as the server put it.
    pub(super) fn of(status: &Status, address: &Address) -> Self {
        let reason = words_of(status);
        match status.code() {
            Code::Unimplemented
            | Code::InvalidArgument
            | Code::NotFound
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::OutOfRange => Self::refused(&reason, address),
            _ => Self::Passing(reason),
        }
    }

    fn refused(reason: &str, address: &Address) -> Self {
        Self::Final(ClientError::Refused { address: address.text.clone(), reason: reason.into() })
    }
}

/// What a status says, without the form in which tonic prints one.
fn words_of(status: &Status) -> String {
    let message = if status.message().is_empty() { status.code().description() } else { status.message() };
    match status.source() {
        Some(source) => {
            let source = in_full(source);
            if message.contains(&source) { message.to_owned() } else { format!("{message}: {source}") }
        }
        None => message.to_owned(),
    }
}

/// `model` is the name of the one that is asked for; empty for the server's first.
async fn attempt(address: &Address, model: &str) -> Result<Link, Failure> {
    let channel = address.connect().await?;
    let mut stub = RewardServiceClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let asked = GetModelRequest { model: model.to_owned() };
    let card = stub.get_model(asked).await.map_err(|status| Failure::of(&status, address))?.into_inner();
    let served = card_from_wire(card).map_err(|error| Failure::refused(&error.to_string(), address))?;
    // A server of an earlier version does not know the field, and would score by the only model that it has.
    if !model.is_empty() && served.model.name != model {
        return Err(Failure::refused(
            &format!("model: '{model}' is asked for, '{}' is served", served.model.name),
            address,
        ));
    }
    Ok(Link { stub, served })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_hangs_is_noticed_in_less_than_ten_seconds() {
        let KeepAlive { interval, timeout } = KeepAlive::default();
        assert!(interval + timeout < Duration::from_secs(10) && ATTEMPT < Duration::from_secs(10));
    }

    #[test]
    fn a_status_is_said_in_words() {
        assert_eq!(words_of(&Status::unavailable("draining")), "draining");
        assert_eq!(words_of(&Status::new(Code::Unknown, "")), "Unknown error");
        let broken = Status::from_error(Box::new(io::Error::from(io::ErrorKind::BrokenPipe)));
        assert_eq!(words_of(&broken), "broken pipe");
    }

    #[test]
    fn an_owner_is_found_in_the_causes_of_an_error() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot connect")]
        struct Wrapper(#[source] io::Error);
        let wrapped = Wrapper(io::Error::other(WrongOwner { found: 7, own: 8 }));
        assert!(wrong_owner(&wrapped).is_some_and(|owner| (owner.found, owner.own) == (7, 8)));
        assert!(wrong_owner(&Wrapper(io::Error::other("else"))).is_none());
        assert!(is_absent(&Wrapper(io::ErrorKind::NotFound.into())));
        assert!(!is_absent(&Wrapper(io::ErrorKind::ConnectionRefused.into())));
    }

    #[test]
    fn addresses_name_a_transport_and_a_place() {
        for good in ["grpc://127.0.0.1:50051", "http://sidecar:1", "grpc://[::1]:50051", "unix:///run/reward.sock"] {
            assert_eq!(&*Address::parse(good).unwrap().text, good);
        }
        for (bad, why) in [
            ("127.0.0.1:50051", "no scheme"),
            ("grpc://sidecar", "no port"),
            ("ftp://sidecar:1", "'ftp'"),
            ("unix://run/reward.sock", "absolute"),
            ("grpc://", "address"),
        ] {
            let message = Address::parse(bad).unwrap_err().to_string();
            assert!(message.contains(bad) && message.contains(why) && message.contains("write grpc://"), "{message}");
        }
    }
}
