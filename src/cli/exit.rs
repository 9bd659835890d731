//! How a command ended, as a number: `std::process::ExitCode` cannot be read back, and a caller in another language needs it.

/// The number of the signal that a write to a pipe without a reader raises.
pub const SIGPIPE: u8 = 13;

/// An exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit(u8);

impl Exit {
    /// Done; for `score`, all rollouts scored.
    pub const DONE: Self = Self(0);
    /// `score`: some rollouts were rejected, the rest is written.
    pub const SOME_REJECTED: Self = Self(1);
    /// `inspect --check`: a score is farther off than it may be.
    pub const CHECK_FAILED: Self = Self(1);
    /// `health`: not ready. `doctor`: something is to be changed.
    pub const NOT_READY: Self = Self(1);
    /// Usage or configuration.
    pub const USAGE: Self = Self(2);
    /// Not the user's fault, or not foreseeable.
    pub const INTERNAL: Self = Self(3);

    /// What a shell reports for a process that a signal ended.
    pub fn signal(number: u8) -> Self {
        Self(number.saturating_add(128))
    }

    /// What the system is told.
    pub fn code(self) -> u8 {
        self.0
    }
}
