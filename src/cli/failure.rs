//! Why a command ends early: one line on stderr, and the exit code.

use std::io::{self, ErrorKind, Write as _};

use super::exit::{Exit, SIGPIPE};
use super::signals::Stop;
use crate::config::ConfigError;
use crate::model::ModelError;
use crate::sidecar::{DrainTimeout, ListenError, StartError};
use crate::telemetry::TelemetryError;

/// The end of a command, with its exit code.
#[derive(Debug)]
pub enum Failure {
    /// To be reported.
    Fatal {
        /// Stable; for programs.
        code: &'static str,
        /// For a person.
        message: String,
        /// How the process ends.
        exit: Exit,
    },
    /// The reader of our standard output left; nobody is there to be told.
    NoReader,
    /// A second signal.
    Signal(u8),
}

impl Failure {
    /// A mistake on the command line or in a file that it names.
    pub fn usage(code: &'static str, message: impl Into<String>) -> Self {
        Self::Fatal { code, message: message.into(), exit: Exit::USAGE }
    }

    /// Anything else.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::Fatal { code: "INTERNAL", message: message.into(), exit: Exit::INTERNAL }
    }

    /// The sidecar could be trusted no longer.
    pub fn failed(reason: &str) -> Self {
        Self::Fatal { code: "FAILED", message: reason.to_owned(), exit: Exit::INTERNAL }
    }

    /// A signal ended the command early, in good order; `what` says what was done by then.
    pub fn interrupted(signal: Stop, what: &str) -> Self {
        let message = format!("ended by {signal}; {what}");
        Self::Fatal { code: "INTERRUPTED", message, exit: Exit::signal(signal.number()) }
    }

    /// Writing data failed.
    pub fn output(name: &str, error: &io::Error) -> Self {
        match error.kind() {
            ErrorKind::BrokenPipe => Self::NoReader,
            _ => Self::Fatal { code: "OUTPUT", message: format!("cannot write {name}: {error}"), exit: Exit::INTERNAL },
        }
    }

    /// Data that was written cannot be put where it belongs.
    pub fn output_lost(message: String) -> Self {
        Self::Fatal { code: "OUTPUT", message, exit: Exit::INTERNAL }
    }

    /// Says what went wrong.
    pub fn report(self) -> Exit {
        match self {
            Self::Fatal { code, message, exit } => {
                // Where stderr is gone, the exit code still tells.
                let _ = writeln!(io::stderr(), "error[{code}]: {message}");
                exit
            }
            Self::NoReader => Exit::signal(SIGPIPE),
            Self::Signal(signal) => Exit::signal(signal),
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

impl From<ListenError> for Failure {
    fn from(error: ListenError) -> Self {
        Self::usage("LISTEN", error.to_string())
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Listen(_) | StartError::Descriptors(_) => Self::usage("LISTEN", error.to_string()),
            StartError::Text(_) | StartError::Models(_) => Self::usage("MODEL", error.to_string()),
            StartError::Lanes(_) => Self::usage("CONFIG", error.to_string()),
            StartError::Engine(_) | StartError::Thread(_) => Self::internal(error.to_string()),
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
        Self::Fatal { code: "DRAIN_TIMEOUT", message: format!("{error}; raise drain_ms"), exit: Exit::INTERNAL }
    }
}
