//! The ways in which the other end of a lane can break its rules.

/// The other end wrote what no end of this version writes: it is broken, hostile, or another program. The lane is closed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// A ring's position went back, or beyond what the ring holds.
    #[error("the {end} position went to {found}, which is not between {from} and {to}")]
    Position {
        /// Whose: `read` or `write`.
        end: &'static str,
        /// What it says, in words since the lane was opened.
        found: u64,
        /// The least it can be.
        from: u64,
        /// The most.
        to: u64,
    },
    /// A record claims more words than were published.
    #[error("record {sequence} claims {claimed} words, but {published} are published")]
    Length {
        /// Its number, as counted here.
        sequence: u64,
        /// Words after its header.
        claimed: u64,
        /// Words there are.
        published: u64,
    },
    /// A record does not carry the next number.
    #[error("record {expected} carries number {found}")]
    Sequence {
        /// As counted here.
        expected: u64,
        /// What it carries.
        found: u64,
    },
    /// A record of a kind that this version does not know.
    #[error("record {sequence} is of kind {kind}, which is none of this version")]
    Kind {
        /// Its number.
        sequence: u64,
        /// Its kind.
        kind: u16,
    },
    /// A record's fields do not fit its length, or each other.
    #[error("{field}: {why}")]
    Field {
        /// Which field.
        field: &'static str,
        /// What is wrong.
        why: String,
    },
    /// More rollouts were sent, or more answers given, than the lane allows.
    #[error("{0}")]
    Count(&'static str),
}

impl Broken {
    pub(super) fn field(field: &'static str, why: impl Into<String>) -> Self {
        Self::Field { field, why: why.into() }
    }
}
