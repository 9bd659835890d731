//! How the layers of a model compute: with kernels of our own, or with candle's tensor operations.

use candle_core::DType;

use super::kernels::WeightType;
use crate::model::compute::dtype::Precision;

/// How the layers of a model compute. Every layer of every rank does it alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// [`super::kernels`] on the CPU, with weights of this type and everything else in float32: a row has the same bits in
    /// every micro-batch, on any number of threads, and of ranks unless the type
    /// [rounds by rank](WeightType::rounds_by_rank).
    Kernels(WeightType),
    /// [`super::tensors`], on any device. Matrices and activations have this type; norms, rotary embedding, activation
    /// functions and softmax are float32, rounded once. In which order a product is summed is up to the device's
    /// library, which looks at its shape: a row has the same bits in the same micro-batch on the same kind of device,
    /// and close ones in another.
    Tensors(Precision),
}

impl Backend {
    /// Type of activations.
    pub fn precision(self) -> Precision {
        match self {
            Self::Kernels(_) => Precision::F32,
            Self::Tensors(precision) => precision,
        }
    }

    /// Type of the weights, as reports write it.
    pub fn weights(self) -> &'static str {
        match self {
            Self::Kernels(weights) => weights.name(),
            Self::Tensors(precision) => precision.name(),
        }
    }

    /// Type of activations for candle.
    pub fn dtype(self) -> DType {
        match self.precision() {
            Precision::F32 => DType::F32,
            Precision::F16 => DType::F16,
            Precision::Bf16 => DType::BF16,
        }
    }
}
