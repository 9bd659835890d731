//! The network: architectures, the decoder and the encoder that they are forms of, their layers, and the heads that read them.

pub mod arch;
pub mod backbone;
pub mod decoder;
pub mod encoder;
pub mod head;
pub mod layers;
pub mod spec;
