//! A rollout and its rewards as JSON: the one form that the command line, the Python package and routes over HTTP share.
//!
//! Pure: bytes or text in, our nouns or typed errors out, and the reverse. Files, sockets and lines are the caller's.

mod beside;
mod error;
mod extra;
mod fields;
mod finish_reason;
mod form;
mod message;
mod plain;
pub mod rewards;
pub mod rollout;
pub mod row;
pub mod value;
mod values;

pub use self::fields::{FIELDS, REWARDS_FIELDS, unknown};
pub use self::plain::plain;
