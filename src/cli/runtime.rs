//! The tokio runtime that every command which starts a sidecar runs in: all cores, timers and sockets.

use tokio::runtime::{Builder, Runtime};

use super::failure::Failure;

/// # Errors
///
/// The system gives no threads or no epoll.
pub fn start() -> Result<Runtime, Failure> {
    let runtime = Builder::new_multi_thread().enable_all().build();
    runtime.map_err(|e| Failure::internal(format!("cannot start the runtime: {e}")))
}
