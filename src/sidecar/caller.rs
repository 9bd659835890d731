//! Who sent a rollout. Fairness, groups and limits are kept per connection, so that two callers can never be taken for one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The identity of one caller: one connection, or one lane.
#[derive(Debug, PartialEq, Eq)]
pub struct Identity {
    /// Unique in this process.
    pub connection: u64,
    /// The user whose process it is, where the system says so (Unix sockets and lanes).
    pub uid: Option<u32>,
    /// The transport that it came by, as metrics and logs name it.
    pub transport: &'static str,
}

impl Identity {
    /// The identity of a connection that nobody has had before.
    pub fn new(transport: &'static str, uid: Option<u32>) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Arc::new(Self { connection: NEXT.fetch_add(1, Ordering::Relaxed), uid, transport })
    }
}

impl std::fmt::Display for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} connection {}", self.transport, self.connection)?;
        self.uid.map_or(Ok(()), |uid| write!(f, " of uid {uid}"))
    }
}
