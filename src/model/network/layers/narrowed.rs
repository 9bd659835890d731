//! Weights on their way from a checkpoint to a device.

use candle_core::{Device, Result, Tensor};
use half::{bf16, f16};

use crate::model::compute::dtype::Precision;

/// Values in the type that they will have on a device.
pub(super) enum Narrowed {
    F32(Vec<f32>),
    F16(Vec<f16>),
    Bf16(Vec<bf16>),
}

impl Narrowed {
    /// None yet.
    pub(super) fn new(precision: Precision) -> Self {
        match precision {
            Precision::F32 => Self::F32(Vec::new()),
            Precision::F16 => Self::F16(Vec::new()),
            Precision::Bf16 => Self::Bf16(Vec::new()),
        }
    }

    /// Makes room for so many more values.
    pub(super) fn reserve(&mut self, more: usize) {
        match self {
            Self::F32(values) => values.reserve_exact(more),
            Self::F16(values) => values.reserve_exact(more),
            Self::Bf16(values) => values.reserve_exact(more),
        }
    }

    /// Adds values, each rounded to the nearest one of the type.
    pub(super) fn extend(&mut self, mut more: Vec<f32>) {
        match self {
            // Where there is one part, nothing is copied.
            Self::F32(values) if values.capacity() == 0 => *values = more,
            Self::F32(values) => values.append(&mut more),
            Self::F16(values) => values.extend(more.into_iter().map(f16::from_f32)),
            Self::Bf16(values) => values.extend(more.into_iter().map(bf16::from_f32)),
        }
    }

    /// All of them as `[rows, columns]` on a device.
    pub(super) fn into_tensor(self, columns: usize, device: &Device) -> Result<Tensor> {
        // candle works out the rows.
        let shape = ((), columns);
        match self {
            Self::F32(values) => Tensor::from_vec(values, shape, device),
            Self::F16(values) => Tensor::from_vec(values, shape, device),
            Self::Bf16(values) => Tensor::from_vec(values, shape, device),
        }
    }
}
