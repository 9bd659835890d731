//! Generated protocol types, and their translation from and to our nouns. No protobuf type goes past a transport or the
//! client.

mod card;
mod reply;
mod rollout;

pub use card::{BadCard, ServedModel, card_from_wire, card_to_wire};
pub use reply::{BadReply, code_from_wire, code_to_wire, outcome_from_wire, outcome_to_wire};
pub use rollout::{aggregation_from_bytes, aggregation_to_bytes, rollout_from_wire, rollout_to_wire};

/// The generated types.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod v1 {
    tonic::include_proto!("reward.v1");
}

/// The compiled schema, for the reflection service.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/reward.v1.bin"));
