//! The float32 values in candle's CPU storage, as the plain slices that kernels take.

use candle_core::{CpuStorage, Layout, Result, Shape, bail};

/// The values of a contiguous float32 tensor.
pub fn values<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let CpuStorage::F32(values) = storage else {
        bail!("expected float32 activations, found {:?}", storage_name(storage))
    };
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&values[start..end]),
        None => bail!("expected contiguous activations, found {layout:?}"),
    }
}

/// The values of a contiguous float32 tensor that is changed in place.
pub fn values_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((start, end))) => Ok(&mut values[start..end]),
        (storage, _) => bail!("expected contiguous float32 activations, found {:?} {layout:?}", storage_name(storage)),
    }
}

/// The storage and shape of a float32 result `[rows, columns]`, as a custom operation returns it.
pub fn output(values: Vec<f32>, rows: usize, columns: usize) -> (CpuStorage, Shape) {
    (CpuStorage::F32(values), (rows, columns).into())
}

fn storage_name(storage: &CpuStorage) -> candle_core::DType {
    use candle_core::backend::BackendStorage;
    storage.dtype()
}
