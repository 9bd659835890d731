//! Why a client gets no lane.

use std::io;
use std::path::PathBuf;

/// Why a lane was not opened.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// Nobody listens there, or no longer.
    #[error("{path}: {source}", path = .path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The system does not let this process connect.
    #[error(
        "{path}: permission denied: {owner}, and this process runs as user {own}; run both as the same user",
        path = .path.display()
    )]
    Forbidden {
        /// The socket.
        path: PathBuf,
        /// Whose it is, as far as can be seen.
        owner: SocketOwner,
        /// This process's user id.
        own: u32,
    },
    /// The process that listens belongs to another user.
    #[error(
        "{path} is served by user {found}, and this process runs as user {own}; run both as the same user",
        path = .path.display()
    )]
    Owner {
        /// The socket.
        path: PathBuf,
        /// The other process's user id.
        found: u32,
        /// This process's user id.
        own: u32,
    },
    /// The sidecar opens no lane.
    #[error("{reason}")]
    Refused {
        /// Whether asking again later may help.
        transient: bool,
        /// Its own words.
        reason: String,
    },
    /// What answers there does not speak this protocol.
    #[error("{path}: {why}", path = .path.display())]
    NoSidecar {
        /// The socket.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

impl HandshakeError {
    /// Whether there is nothing at all where the socket should be.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Connect { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    /// Whether asking again later may help.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Connect { .. } => true,
            Self::Refused { transient, .. } => *transient,
            Self::Forbidden { .. } | Self::Owner { .. } | Self::NoSidecar { .. } => false,
        }
    }
}

/// Whose a socket is that this process may not connect to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketOwner {
    /// The user of this id.
    User(u32),
    /// Its folder does not let this process see it.
    Hidden,
}

impl std::fmt::Display for SocketOwner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::User(uid) => write!(f, "the socket belongs to user {uid}"),
            Self::Hidden => f.write_str("its folder may not be entered"),
        }
    }
}
