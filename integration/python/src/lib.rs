//! The native half of the Python package `reward-sidecar`: the client over shared memory and gRPC, with NumPy in and out.
//!
//! | module | what |
//! |---|---|
//! | `client`, `stream`, `desk` | the classes that speak to a server: waiting, iterating, for an event loop |
//! | `rows`, `line`, `options`, `text`, `ids` | rollouts, out of Python |
//! | `gathered`, `batch`, `arrays`, `error` | rewards and failures, into Python |
//! | `wait`, `process` | the interpreter's lock and signals; forks |
//!
//! Its one invariant: a client is only ever called without the interpreter's lock, and Python only with it.
#![deny(unsafe_code)]

mod arrays;
mod batch;
mod client;
mod error;
mod gathered;
mod ids;
mod line;
mod options;
mod process;
mod rows;
mod stream;
mod text;
mod wait;

/// What `reward_sidecar/*.py` stands on.
#[pyo3::pymodule]
mod _native {
    #[pymodule_export]
    use super::batch::{Batch, Reads, Result};
    #[pymodule_export]
    use super::client::Client;
    #[pymodule_export]
    use super::stream::Stream;
}
