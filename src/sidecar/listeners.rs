//! Every address and path that a sidecar listens on, bound before the model is loaded.
//!
//! The invariant: whoever connects before the sidecar starts is not lost. Calls over gRPC and HTTP wait in their sockets until they are
//! served; a lane is refused with a reason after which clients ask again.

use std::net::SocketAddr;

use super::descriptors::Descriptors;
#[cfg(target_os = "linux")]
use super::transport::shm;
use super::transport::{grpc, http};
use super::{Config, StartError};

/// Bound sockets on which nothing is served yet.
pub struct Listeners {
    pub(super) grpc: grpc::Listeners,
    pub(super) http: http::Listeners,
    #[cfg(target_os = "linux")]
    pub(super) lanes: Option<shm::Listener>,
}

impl Listeners {
    /// Binds what the configuration names. Needs a tokio runtime.
    pub async fn bind(config: &Config) -> Result<Self, StartError> {
        let listeners = Self {
            grpc: grpc::Listeners::bind(config)?,
            http: http::Listeners::bind(config)?,
            #[cfg(target_os = "linux")]
            lanes: shm::Listener::bind(config)?,
        };
        // Counted again once the engine is there, which may need some; but too few for this are too few for that.
        Descriptors::left()?;
        Ok(listeners)
    }

    /// The TCP address of gRPC, with the port that the system picked.
    pub fn grpc_addr(&self) -> Option<SocketAddr> {
        self.grpc.tcp_addr()
    }
}
