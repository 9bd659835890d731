//! Clients that have connected and not greeted yet.
//!
//! Invariant: one that has not greeted by its time is sent away.

use std::os::unix::net::UnixStream;
use std::time::Instant;

use crate::shm::handshake::{Hello, Peer};
use crate::sidecar::descriptors::Taken;

/// One of them.
pub(super) struct Ungreeted {
    pub socket: UnixStream,
    pub peer: Peer,
    pub hello: Hello,
    pub until: Instant,
    pub descriptors: Taken,
}
