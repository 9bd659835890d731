//! Layers: what architectures are built of. A candle [`Tensor`] goes in and comes out; how it is computed on a device
//! is decided here and nowhere else. On the CPU that is the slice kernels of [`super::kernels`].
//!
//! Activations are float32 and row-major: `[tokens, features]`.

mod activation;
mod attention;
mod embedding;
mod feed_forward;
#[cfg(feature = "flash-attn")]
#[expect(dead_code, reason = "the layers of other devices than the CPU come next")]
mod flash_attention;
mod linear;
mod norm;
mod paths;
#[expect(dead_code, reason = "the layers of other devices than the CPU come next")]
mod portable_attention;
mod rotary;

pub use activation::{Activation, read_activation};
pub use attention::attend;
pub use embedding::Embedding;
pub use feed_forward::{FeedForward, FeedForwardNames};
pub use linear::{Linear, Matrix};
pub use norm::{HeadNorm, Norm, NormKind};
pub use rotary::Rotary;

use candle_core::{CpuStorage, Layout, Result, Shape, bail};

use super::ModelError;

/// What loading a layer gives.
type Loaded<T> = std::result::Result<T, ModelError>;

/// The values of a contiguous float32 tensor.
fn values<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
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
