//! reward-sidecar: rollouts in, trusted rewards out.
//!
//! The map of the house, and who may know whom, is ARCHITECTURE.md. The features are walls: `client`, `sidecar`,
//! `model`, `shm` and `json` each build alone.
#![deny(unsafe_code)]
#![deny(missing_docs)]

pub mod aggregate;
mod answer_only;
pub mod batch;
pub mod engine;
pub mod limits;
pub mod nearest;
pub mod reward;
pub mod rollout;
pub mod secret;

#[cfg(feature = "wire")]
pub mod proto;

#[cfg(feature = "server")]
pub mod cli;
#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "server")]
pub mod config;
#[cfg(feature = "json")]
pub mod json;
#[cfg(feature = "model")]
pub mod model;
#[cfg(all(feature = "shm", target_os = "linux"))]
pub mod shm;
#[cfg(feature = "sidecar")]
pub mod sidecar;
#[cfg(feature = "server")]
mod telemetry;
