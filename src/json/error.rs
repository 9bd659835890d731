//! What is wrong with the JSON of a rollout, and where.

use crate::reward::{Code, Rejection};

/// Why JSON is no rollout.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RolloutError {
    /// Not UTF-8.
    #[error("not valid UTF-8 at byte {byte}")]
    NotUtf8 {
        /// The first byte that is wrong, counted from 1.
        byte: usize,
    },
    /// Not JSON, or not of the types and names that a rollout has.
    #[error("{what} (line {line}, column {column})")]
    Malformed {
        /// `BAD_ID` where the id is no text, `MALFORMED` for everything else.
        code: Code,
        /// The field, as far as one was being read, and what is wrong.
        what: String,
        /// The line within what was parsed, counted from 1.
        line: usize,
        /// Counted from 1.
        column: usize,
    },
    /// JSON of the right shape that says no rollout.
    #[error("{}", .0.message)]
    Rejected(Rejection),
}

impl RolloutError {
    /// As a rejection. What was parsed is line `number` of a file with one rollout on each line: the message says so.
    pub fn in_line(self, number: u64) -> Rejection {
        match self {
            Self::NotUtf8 { .. } => Rejection::new(Code::Malformed, format!("line {number}: {self}")),
            Self::Malformed { code, what, column, .. } => {
                Rejection::new(code, format!("{what} (line {number}, column {column})"))
            }
            Self::Rejected(rejection) => rejection,
        }
    }
}

impl From<RolloutError> for Rejection {
    fn from(error: RolloutError) -> Self {
        match error {
            RolloutError::NotUtf8 { .. } => Self::new(Code::Malformed, error.to_string()),
            RolloutError::Malformed { code, .. } => Self::new(code, error.to_string()),
            RolloutError::Rejected(rejection) => rejection,
        }
    }
}
