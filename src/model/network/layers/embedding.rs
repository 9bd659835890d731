//! The embedding table. For the kernels it is kept in the precision of the checkpoint, which may be half the memory; a
//! gathered row is widened to float32, which loses nothing. For tensor operations it has the activations' type.

use std::ops::Range;

use candle_core::{DType, Result, Tensor};
use half::bf16;

use super::Loaded;
use super::narrowed::Narrowed;
use crate::model::checkpoint::Slice;
use crate::model::collective::Collective;
use crate::model::compute::backend::Backend;
use crate::model::compute::dtype::Precision;
use crate::model::network::backbone::RankContext;

/// Rows that are read at a time, so that little of the table is in memory twice.
const ROWS_AT_A_TIME: usize = 512;

/// An embedding table, or the rows of some of its tokens.
#[derive(Clone)]
pub struct Embedding {
    /// `[tokens, features]`; one row of zeros more where other ranks hold the other tokens.
    table: Tensor,
    tokens: Range<usize>,
    scale: Option<f64>,
    /// Type of the rows that come out.
    activations: DType,
}

impl Embedding {
    /// This rank's rows of the table `name`, `[vocabulary, features]`. Rows are multiplied by `scale` once widened.
    pub fn load(
        context: &RankContext,
        name: &str,
        vocabulary: usize,
        features: usize,
        scale: Option<f32>,
    ) -> Loaded<Self> {
        let precision = context.weights.expect(name, &[vocabulary, features])?;
        let tokens = context.shard.of(vocabulary);
        let mut table = Narrowed::new(match context.backend {
            // In two bytes where that is no rougher than the other weights. Of one byte it would be the roughest part of all.
            Backend::Kernels(weights) if precision == Precision::F32 && weights.bits() <= bf16::MANTISSA_DIGITS => {
                Precision::Bf16
            }
            Backend::Kernels(_) => precision,
            Backend::Tensors(precision) => precision,
        });
        let zeros = if tokens.len() < vocabulary { features } else { 0 };
        table.reserve(tokens.len() * features + zeros);
        for start in tokens.clone().step_by(ROWS_AT_A_TIME) {
            let rows = start..tokens.end.min(start + ROWS_AT_A_TIME);
            table.extend(context.weights.read(name, &Slice { rows, columns: 0..features })?);
        }
        table.extend(vec![0.0; zeros]);
        let table = table.into_tensor(features, &context.device)?;
        Ok(Self { table, tokens, scale: scale.map(f64::from), activations: context.backend.dtype() })
    }

    /// The rows of `tokens`, `[tokens, features]`.
    pub fn forward(&self, tokens: &[u32], ranks: &dyn Collective) -> Result<Tensor> {
        let device = self.table.device();
        let rows = match ranks.world() {
            1 => self.table.index_select(&Tensor::new(tokens, device)?, 0)?.to_dtype(self.activations)?,
            _ => {
                // Tokens of other ranks read the zeros.
                let row = |&token: &u32| {
                    if self.tokens.contains(&(token as usize)) {
                        token - self.tokens.start as u32
                    } else {
                        self.tokens.len() as u32
                    }
                };
                let rows = Tensor::new(tokens.iter().map(row).collect::<Vec<_>>(), device)?;
                ranks.all_reduce(&self.table.index_select(&rows, 0)?.to_dtype(self.activations)?)?
            }
        };
        match self.scale {
            // Not in the rows' own type, which would round the factor too.
            Some(scale) => rows.to_dtype(DType::F32)?.affine(scale, 0.0)?.to_dtype(self.activations),
            None => Ok(rows),
        }
    }

    /// Bytes of the table in memory.
    pub fn bytes(&self) -> usize {
        self.table.elem_count() * self.table.dtype().size_in_bytes()
    }
}
