//! Rust client over a gRPC stream.
