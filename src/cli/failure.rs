//! Why a command ends early: one line on stderr, and the exit code.

use std::io::{self, ErrorKind, Write as _};
use std::process::ExitCode;

use reward_sidecar::config::ConfigError;
use reward_sidecar::model::ModelError;
use reward_sidecar::sidecar::{DrainTimeout, StartError};

use crate::telemetry::TelemetryError;

/// Usage or configuration.
const USAGE: u8 = 2;
/// Not the user's fault, or not foreseeable.
const INTERNAL: u8 = 3;
/// What a shell reports for a process that wrote to a pipe nobody reads: 128 + SIGPIPE.
const BROKEN_PIPE: u8 = 141;

/// The end of a command, with its exit code.
#[derive(Debug)]
pub enum Failure {
    /// To be reported.
    Fatal {
        /// Stable; for programs.
        code: &'static str,
        /// For a person.
        message: String,
        /// The exit code.
        exit: u8,
    },
    /// The reader of our standard output left; nobody is there to be told.
    NoReader,
    /// A second signal.
    Signal(u8),
}

impl Failure {
    /// A mistake on the command line or in a file that it names.
    pub fn usage(code: &'static str, message: impl Into<String>) -> Self {
        Self::Fatal { code, message: message.into(), exit: USAGE }
    }

    /// Anything else.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::Fatal { code: "INTERNAL", message: message.into(), exit: INTERNAL }
    }

    /// Writing data failed.
    pub fn output(name: &str, error: &io::Error) -> Self {
        match error.kind() {
            ErrorKind::BrokenPipe => Self::NoReader,
            _ => Self::Fatal { code: "OUTPUT", message: format!("cannot write {name}: {error}"), exit: INTERNAL },
        }
    }

    /// Says what went wrong.
    pub fn report(self) -> ExitCode {
        match self {
            Self::Fatal { code, message, exit } => {
                // Where stderr is gone, the exit code still tells.
                let _ = writeln!(io::stderr(), "error[{code}]: {message}");
                ExitCode::from(exit)
            }
            Self::NoReader => ExitCode::from(BROKEN_PIPE),
            Self::Signal(signal) => ExitCode::from(128u8.saturating_add(signal)),
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::usage("CONFIG", error.to_string())
    }
}

impl From<ModelError> for Failure {
    fn from(error: ModelError) -> Self {
        Self::usage("MODEL", error.to_string())
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Listen { .. } => Self::usage("LISTEN", error.to_string()),
            StartError::Text(_) => Self::usage("MODEL", error.to_string()),
            StartError::Thread(_) => Self::internal(error.to_string()),
        }
    }
}

impl From<TelemetryError> for Failure {
    fn from(error: TelemetryError) -> Self {
        Self::usage("CONFIG", error.to_string())
    }
}

impl From<DrainTimeout> for Failure {
    fn from(error: DrainTimeout) -> Self {
        Self::Fatal { code: "DRAIN_TIMEOUT", message: error.to_string(), exit: INTERNAL }
    }
}
