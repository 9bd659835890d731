//! The embedding table. Kept in the precision of the checkpoint, which may be half the memory; a gathered row is
//! widened to float32, which loses nothing.

use candle_core::{DType, Device, Result, Tensor};
use half::{bf16, f16};

use super::Loaded;
use crate::model::checkpoint::{Precision, WeightSource};

/// An embedding table.
pub struct Embedding {
    table: Tensor,
}

impl Embedding {
    /// The table `name`, `[vocabulary, features]`.
    pub fn load(
        weights: &dyn WeightSource,
        name: &str,
        vocabulary: usize,
        features: usize,
        device: &Device,
    ) -> Loaded<Self> {
        let shape = (vocabulary, features);
        let precision = weights.expect(name, &[vocabulary, features])?;
        let values = weights.read_all(name)?;
        let table = match precision {
            Precision::F32 => Tensor::from_vec(values, shape, device)?,
            Precision::F16 => {
                Tensor::from_vec(values.into_iter().map(f16::from_f32).collect::<Vec<_>>(), shape, device)?
            }
            Precision::Bf16 => {
                Tensor::from_vec(values.into_iter().map(bf16::from_f32).collect::<Vec<_>>(), shape, device)?
            }
        };
        Ok(Self { table })
    }

    /// The rows of `tokens: [tokens]` (u32), as float32 `[tokens, features]`.
    pub fn forward(&self, tokens: &Tensor) -> Result<Tensor> {
        self.table.index_select(tokens, 0)?.to_dtype(DType::F32)
    }

    /// Bytes of the table in memory.
    pub fn bytes(&self) -> usize {
        self.table.elem_count() * self.table.dtype().size_in_bytes()
    }
}
