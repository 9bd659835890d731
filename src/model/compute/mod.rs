//! Arithmetic, and nothing that knows a model: kernels on plain slices, the same as tensor operations, and the devices and
//! types that they work with.

pub(in crate::model) mod backend;
pub(in crate::model) mod buffers;
pub(in crate::model) mod device;
pub(in crate::model) mod dtype;
#[cfg(any(feature = "cuda", test))]
mod gpu_refusal;
pub mod kernels;
pub mod meter;
pub(in crate::model) mod storage;
pub(in crate::model) mod tensors;
