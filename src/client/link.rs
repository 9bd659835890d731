//! The way to a server: its address, and one live connection to it.
//!
//! Invariant: a [`Link`] has been spoken through; whoever listens at the other end serves a reward model.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Status};

use super::back_off::{BackOff, random};
use super::error::{ClientError, in_full};
use crate::limits::MAX_MESSAGE_BYTES;
use crate::proto::v1::GetModelRequest;
use crate::proto::v1::reward_service_client::RewardServiceClient;
use crate::proto::{ServedModel, card_from_wire};

/// Longest time that one attempt to connect and to ask for the model may take.
const ATTEMPT: Duration = Duration::from_secs(10);

/// A silent connection is probed this often, and given up when the probe is unanswered for as long: otherwise a host
/// that vanished without a word would be waited for indefinitely.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

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
        let endpoint = Endpoint::from(uri)
            .connect_timeout(ATTEMPT)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE);
        Ok(Self { text: text.into(), endpoint, socket })
    }

    async fn connect(&self) -> Result<Channel, tonic::transport::Error> {
        match &self.socket {
            None => self.endpoint.connect().await,
            Some(path) => {
                let path = path.clone();
                let connector = tower::service_fn(move |_: Uri| {
                    let path = path.clone();
                    async move { UnixStream::connect(path).await.map(TokioIo::new) }
                });
                self.endpoint.connect_with_connector(connector).await
            }
        }
    }
}

/// A live connection, and what is served at its other end.
pub(super) struct Link {
    pub(super) stub: RewardServiceClient<Channel>,
    pub(super) served: ServedModel,
}

/// Failures in a row, of connections and of conversations.
#[derive(Debug, Clone)]
pub(super) struct Trouble {
    failures: u32,
    reason: Arc<str>,
}

impl Trouble {
    /// None yet: the first attempt is made at once.
    pub(super) fn none() -> Self {
        Self { failures: 0, reason: "not tried yet".into() }
    }

    /// One more.
    pub(super) fn add(&mut self, reason: &str) {
        self.failures = self.failures.saturating_add(1);
        self.reason = reason.into();
    }
}

/// Connects, waiting after each failure. Fails when the budget is spent, or when there is no use in trying. `trouble`
/// goes in with what went before and comes out with what was added.
pub(super) async fn dial(address: &Address, back_off: &BackOff, trouble: &mut Trouble) -> Result<Link, ClientError> {
    let since = Instant::now();
    loop {
        if trouble.failures > 0 {
            let delay = back_off.delay(trouble.failures, random());
            let waited = since.elapsed();
            if waited + delay > back_off.budget {
                return Err(ClientError::Disconnected {
                    address: address.text.clone(),
                    reason: trouble.reason.clone(),
                    waited,
                });
            }
            sleep(delay).await;
        }
        match timeout(ATTEMPT, attempt(address)).await {
            Ok(Ok(link)) => return Ok(link),
            Ok(Err(Failure::Final(reason))) => {
                return Err(ClientError::Refused { address: address.text.clone(), reason: reason.into() });
            }
            Ok(Err(Failure::Passing(reason))) => trouble.add(&reason),
            Err(_) => trouble.add(&format!("no answer in {} s", ATTEMPT.as_secs())),
        }
        tracing::debug!(address = %address.text, reason = %trouble.reason, "cannot connect");
    }
}

/// Why a call or a connection failed.
pub(super) enum Failure {
    /// It may go away.
    Passing(String),
    /// It will not.
    Final(String),
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let reason = in_full(&status);
        match status.code() {
            Code::Unimplemented
            | Code::InvalidArgument
            | Code::NotFound
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::OutOfRange => Self::Final(reason),
            _ => Self::Passing(reason),
        }
    }
}

async fn attempt(address: &Address) -> Result<Link, Failure> {
    let channel = address.connect().await.map_err(|error| Failure::Passing(in_full(&error)))?;
    let mut stub = RewardServiceClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let card = stub.get_model(GetModelRequest {}).await?.into_inner();
    let served = card_from_wire(card).map_err(|error| Failure::Final(error.to_string()))?;
    Ok(Link { stub, served })
}

#[cfg(test)]
mod tests {
    use super::*;

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
