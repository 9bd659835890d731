//! A rollout and its rewards as JSON: the one form that the command line, the Python package and routes over HTTP share.
//!
//! Pure: bytes or text in, our nouns or typed errors out, and the reverse. Files, sockets and lines are the caller's.

pub mod rewards;
pub mod rollout;
mod values;
