//! The HTTP transport, as its clients see it.

#[path = "../common/mod.rs"]
mod common;

mod client;
mod models;
mod native;
mod server;
mod trainers;

use reward_sidecar::engine::{EchoEngine, ReadPolicy};
use reward_sidecar::sidecar::{Config, Sidecar};

use common::{CONTEXT, words};

/// Listens on loopback, on a port that the system picks.
fn http() -> Config {
    Config { http: vec!["127.0.0.1:0".parse().unwrap()], ..Config::default() }
}

/// An echo that takes words and conversations, too.
async fn sidecar(config: Config) -> Sidecar {
    let engine = EchoEngine::new(CONTEXT).taking(words(), ReadPolicy::default());
    Sidecar::start(config, Box::new(engine)).await.unwrap()
}
