//! What can go wrong between a client and its server. What is wrong with one rollout is a
//! [`Rejection`](crate::reward::Rejection) instead, and travels in the outcome.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use crate::proto::BadReply;

/// The client's own failure; never the fault of one rollout. Cheap to clone: one loss may answer many rollouts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// The address cannot be understood.
    #[error(
        "address '{address}': {reason}; write grpc://host:port, http://host:port, unix:///path/of/socket or shm:///path/of/socket"
    )]
    BadAddress {
        /// As given.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No server answered for as long as the back-off allows. The next rollout that is submitted tries anew.
    #[error("no connection to {address} for {:.1} s (last: {reason}); is the sidecar running there?", .waited.as_secs_f32())]
    Disconnected {
        /// The server's address.
        address: Arc<str>,
        /// The latest failure.
        reason: Arc<str>,
        /// How long the client has tried.
        waited: Duration,
    },
    /// There were connections, but each was lost, or the server shut down, before this rollout was answered.
    #[error(
        "{address} has lost this rollout {times} times, and it has waited {:.1} s in all to be sent again; the server may break on it: see its log",
        .waited.as_secs_f32()
    )]
    NeverAnswered {
        /// The server's address.
        address: Arc<str>,
        /// How often it was sent and lost.
        times: u32,
        /// How long in all it has waited, without a connection, to be sent again.
        waited: Duration,
    },
    /// Another user listens at a socket of this host: nobody would know whose rewards those are.
    #[error(
        "the server at {address} runs as user {found}, this client as user {own}; a client trusts its own user and root: run both as one user"
    )]
    WrongOwner {
        /// The server's address.
        address: Arc<str>,
        /// Who listens there.
        found: u32,
        /// Who asks.
        own: u32,
    },
    /// The server, or another program that listens there, will not talk to this client; trying again would not help.
    #[error("{address} refused the call ({reason}); is it a reward-sidecar of this version?")]
    Refused {
        /// The server's address.
        address: Arc<str>,
        /// The server's own words.
        reason: Arc<str>,
    },
    /// The server's reply to this rollout cannot be understood or trusted.
    #[error(transparent)]
    BadReply(#[from] BadReply),
    /// The client was closed, or the runtime that drove it has ended.
    #[error("the client is closed; connect another")]
    Closed,
    /// The thread that would drive a blocking client could not be started.
    #[error("cannot start the client's thread: {reason}")]
    NoThread {
        /// The system's own words.
        reason: Arc<str>,
    },
}

impl ClientError {
    /// Its stable name, for programs; none is a rejection's [`Code`](crate::reward::Code).
    pub fn code(&self) -> &'static str {
        match self {
            Self::BadAddress { .. } => "BAD_ADDRESS",
            Self::Disconnected { .. } => "DISCONNECTED",
            Self::NeverAnswered { .. } => "NEVER_ANSWERED",
            Self::WrongOwner { .. } => "WRONG_OWNER",
            Self::Refused { .. } => "REFUSED",
            Self::BadReply(_) => "BAD_REPLY",
            Self::Closed => "CLOSED",
            Self::NoThread { .. } => "NO_THREAD",
        }
    }

    /// Whether the connection is given up: what is submitted next would wait in vain for as long again.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Disconnected { .. } | Self::WrongOwner { .. } | Self::Refused { .. } | Self::Closed)
    }
}

/// An error with its causes, in one line.
pub(super) fn in_full(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Wrappers often repeat what they wrap.
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
