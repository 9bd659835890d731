//! Generated protocol types, and their translation from and to our nouns. No protobuf type goes past a transport.

/// The generated types.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod v1 {
    tonic::include_proto!("reward.v1");
}

/// The compiled schema, for the reflection service.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/reward.v1.bin"));
