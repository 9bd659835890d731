//! HTTP/1.1 and h2c: our own route, and those that trainers' clients speak, each a parser and a renderer over one way to score.
//!
//! The invariant: a request is answered with a reward for each of its inputs, in their order, or with an error status; where a
//! dialect knows neither, with what its caller has asked for by name.

mod address;
mod answer;
mod body;
mod classify;
mod connection;
mod dialect;
mod flights;
mod gym;
mod inputs;
mod kserve;
mod listen;
mod llama_factory;
mod native;
mod openai;
mod openapi;
mod openrlhf;
mod pooling;
mod predict;
mod python_json;
mod query;
mod rank;
mod reply;
mod request;
mod routes;
mod slime;
mod state;
mod tokenize;

pub use self::address::{GymOnRejection, HttpAddress, HttpAddresses, NoAddress};
pub use self::listen::{Listeners, Server};
