//! Layers: what architectures are built of. A candle [`Tensor`](candle_core::Tensor) goes in and comes out; how it is
//! computed is decided here and nowhere else: by the slice kernels of [`crate::model::compute::kernels`] or by the tensor operations of
//! [`crate::model::compute::tensors`].
//!
//! Activations are row-major, `[tokens, features]`, of the type that the [`Backend`](crate::model::compute::backend::Backend) names.

mod activation;
mod attention;
mod dense;
mod embedding;
mod feed_forward;
mod linear;
mod matrix;
mod narrowed;
mod norm;
mod packed;
mod rotary;

pub use activation::{Activation, read_activation};
pub use attention::Attention;
pub use embedding::Embedding;
pub use feed_forward::{FeedForward, FeedForwardNames};
pub use linear::Linear;
pub use matrix::Matrix;
pub use norm::{HeadNorm, Norm, NormKind};
pub use rotary::Rotary;

use candle_core::{CpuStorage, Layout, Result, Shape, bail};

use crate::model::error::ModelError;

/// What loading a layer gives.
type Loaded<T> = std::result::Result<T, ModelError>;

/// The values of a contiguous float32 tensor.
pub(in crate::model) fn values<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let CpuStorage::F32(values) = storage else {
        bail!("expected float32 activations, found {:?}", storage_name(storage))
    };
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&values[start..end]),
        None => bail!("expected contiguous activations, found {layout:?}"),
    }
}

/// The values of a contiguous float32 tensor that is changed in place.
fn values_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((start, end))) => Ok(&mut values[start..end]),
        (storage, _) => bail!("expected contiguous float32 activations, found {:?} {layout:?}", storage_name(storage)),
    }
}

/// A result of `[rows, columns]`.
fn output(values: Vec<f32>, rows: usize, columns: usize) -> (CpuStorage, Shape) {
    (CpuStorage::F32(values), (rows, columns).into())
}

fn storage_name(storage: &CpuStorage) -> candle_core::DType {
    use candle_core::backend::BackendStorage;
    storage.dtype()
}
