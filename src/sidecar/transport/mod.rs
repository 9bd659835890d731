//! The transports: each decodes rollouts, makes their tickets, submits them to the intake and sends the answers back.
//!
//! To add one, write `src/sidecar/transport/NAME.rs` with a `start` and call it where the sidecar starts its transports.

pub mod grpc;
