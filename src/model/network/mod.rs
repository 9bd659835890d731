//! The network: architectures, the decoder that they are forms of, its layers, and the heads that read it.

pub mod arch;
pub mod backbone;
pub mod decoder;
pub mod head;
pub mod layers;
