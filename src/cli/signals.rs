//! Requests to stop, as the system sends them.
//!
//! The invariant: from the moment at which [`Signals`] exist none of theirs is missed, and none ends the process by itself.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The requests that a command listens to.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Option<Signal>,
}

/// A request to stop.
#[derive(Debug, Clone, Copy)]
pub enum Stop {
    Terminate,
    Interrupt,
    HangUp,
}

impl Stop {
    /// The signal's number, which is the same on all systems that we know.
    pub fn number(self) -> u8 {
        match self {
            Stop::Terminate => 15,
            Stop::Interrupt => 2,
            Stop::HangUp => 1,
        }
    }
}

impl std::fmt::Display for Stop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Stop::Terminate => "SIGTERM",
            Stop::Interrupt => "SIGINT",
            Stop::HangUp => "SIGHUP",
        })
    }
}

impl Signals {
    /// SIGTERM and SIGINT. Needs a tokio runtime.
    pub fn new() -> io::Result<Self> {
        let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        Ok(Self { terminate, interrupt, hang_up: None })
    }

    /// SIGHUP, too: a terminal that was closed must not end a server differently from SIGTERM.
    pub fn and_hang_up(self) -> io::Result<Self> {
        Ok(Self { hang_up: Some(signal(SignalKind::hangup())?), ..self })
    }

    /// The next one.
    pub async fn next(&mut self) -> Stop {
        let Self { terminate, interrupt, hang_up } = self;
        let hang_up = async {
            match hang_up {
                Some(hang_up) => hang_up.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = terminate.recv() => Stop::Terminate,
            _ = interrupt.recv() => Stop::Interrupt,
            _ = hang_up => Stop::HangUp,
        }
    }
}
