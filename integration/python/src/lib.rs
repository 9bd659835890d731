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
mod desk;
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
    use std::ffi::OsString;

    use pyo3::{Python, pyfunction};

    #[pymodule_export]
    use super::batch::{Batch, Reads, Result};
    #[pymodule_export]
    use super::client::Client;
    #[pymodule_export]
    use super::desk::{Defaults, Desk};
    #[pymodule_export]
    use super::stream::Stream;

    /// The command line: arguments in, the first of them its name, and the exit code out. For once in a process.
    #[pyfunction]
    fn run_cli(py: Python<'_>, arguments: Vec<OsString>) -> u8 {
        py.detach(|| reward_sidecar::cli::run_from(arguments))
    }
}
