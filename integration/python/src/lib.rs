//! The native half of the Python package `reward-sidecar`: the client over shared memory and gRPC, with NumPy in and out.
//!
//! | module | what |
//! |---|---|
//! | `client`, `stream`, `desk` | the classes that speak to a server: waiting, iterating, for an event loop |
//! | `rows`, `inputs`, `form`, `odd`, `line`, `options` | rollouts, out of Python: arguments and dicts |
//! | `text`, `messages`, `chat`, `json`, `ids`, `owners`, `padding`, `tokenizer` | what they are made of |
//! | `gathered`, `batch`, `columns`, `result`, `reads`, `thinking`, `pickle`, `arrays`, `error` | rewards and failures, into Python |
//! | `wait`, `guard`, `progress`, `logs`, `process` | the interpreter's lock, signals and timeouts; bars; `logging`; forks |
//!
//! Its one invariant: a client is only ever called without the interpreter's lock, and Python only with it.
#![deny(unsafe_code)]

mod arrays;
mod batch;
mod chat;
mod client;
mod columns;
mod desk;
mod error;
mod form;
mod gathered;
mod guard;
mod ids;
mod inputs;
mod json;
mod line;
mod logs;
mod messages;
mod odd;
mod options;
mod owners;
mod padding;
mod pickle;
mod process;
mod progress;
mod reads;
mod result;
mod rows;
mod stream;
mod text;
mod thinking;
mod tokenizer;
mod wait;

/// What `reward_sidecar/*.py` stands on.
#[pyo3::pymodule]
mod _native {
    use std::ffi::OsString;

    use pyo3::prelude::*;

    #[pymodule_export]
    use super::batch::{_batch, Batch};
    #[pymodule_export]
    use super::client::Client;
    #[pymodule_export]
    use super::desk::{Defaults, Desk};
    #[pymodule_export]
    use super::reads::{_reads, Reads};
    #[pymodule_export]
    use super::result::{_result, Result};
    #[pymodule_export]
    use super::stream::Stream;
    #[pymodule_export]
    use super::thinking::{_thinking, Thinking};

    /// When it is imported.
    #[pymodule_init]
    fn init(_module: &Bound<'_, PyModule>) -> PyResult<()> {
        super::logs::start();
        Ok(())
    }

    /// The package's version, which is the crate's.
    #[pymodule_export]
    #[expect(non_upper_case_globals, reason = "it is Python's name")]
    const __version__: &str = env!("CARGO_PKG_VERSION");

    /// The command line: arguments in, the first of them its name, and the exit code out. For once in a process.
    #[pyfunction]
    fn run_cli(py: Python<'_>, arguments: Vec<OsString>) -> u8 {
        py.detach(|| reward_sidecar::cli::run_from(arguments))
    }
}
