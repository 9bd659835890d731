//! Checkpoints: named tensors in files, behind one trait, [`WeightSource`].
//!
//! A format is one file or folder here, and one line where it is opened: in `folder.rs` for Hugging Face's layout, else in
//! `src/model/source/base.rs`.

mod adapter;
mod composed;
mod dense;
pub mod digest;
pub mod digest_memory;
mod folder;
pub(crate) mod gguf;
mod mapped;
mod names;
mod nemo;
mod pytorch;
pub mod quantized;
mod safetensors;
mod shards;
mod weights;

#[cfg(fuzzing)]
pub(crate) use adapter::peft;
pub use adapter::{ADAPTER_CONFIG, Adapter, Unchanged};
pub use composed::{Composed, Rounding};
pub use dense::Dense;
pub use folder::open_folder;
pub use gguf::GgufFile;
pub use mapped::MappedFile;
pub use nemo::{ATTRIBUTE_WEIGHTS, NemoCheckpoint};
pub use pytorch::PytorchFile;
pub use safetensors::SafetensorsFile;
pub use shards::Shards;
pub use weights::{ElementType, Factors, RawInfo, Slice, TensorInfo, WeightSource};
