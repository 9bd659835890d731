//! How the layers of a model compute: with kernels of our own, or with candle's tensor operations.

use candle_core::DType;

use super::checkpoint::Precision;

/// How the layers of a model compute. Every layer of every rank does it alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// [`super::kernels`], in float32, on the CPU: a row has the same bits in every micro-batch, on any number of threads
    /// and ranks.
    Kernels,
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
            Self::Kernels => Precision::F32,
            Self::Tensors(precision) => precision,
        }
    }

    /// The same for candle.
    pub fn dtype(self) -> DType {
        match self.precision() {
            Precision::F32 => DType::F32,
            Precision::F16 => DType::F16,
            Precision::Bf16 => DType::BF16,
        }
    }
}
