//! What an adapter adds to matrices that stay as they are: `f * (x Wᵀ + (x Aᵀ) (scale * B)ᵀ) + b (+ residual)`.
//!
//! Invariant: each value is the dot product with the base's weights, gone on with over the ranks of the adapter in ascending order,
//! then multiplied by its factor (DoRA's), then the bias is added, then the residual. So it depends on its own row alone, and has the
//! same bits at every degree.

use candle_core::{Device, Result, Tensor};

use super::{Loaded, Matrix};
use crate::model::checkpoint::{Factors, Slice};
use crate::model::compute::kernels::{Addends, PackedMatrix, linear_continue};
use crate::model::network::backbone::RankContext;

/// The changes of low rank to matrices side by side, without `A`. The ranks of all of them stand one after the other; a matrix has zeros at the
/// ranks of the others.
pub struct LowRank {
    /// `scale * B`, `[outputs, ranks]`.
    b: PackedMatrix,
    /// What each output is multiplied by; `None` where it is 1.
    factors: Option<Vec<f32>>,
}

/// Matrices, and what is added to them.
pub enum Change {
    /// Nothing.
    None,
    /// A change of low rank: all `A`, `[ranks, inputs]`, and the rest of it.
    LowRank(PackedMatrix, LowRank),
    /// Another one, after which they are other matrices.
    Other,
}

impl Change {
    /// What the context's weights say of these matrices.
    pub fn load(context: &RankContext, matrices: &[Matrix]) -> Loaded<Self> {
        let (mut a, mut parts, mut ranks, mut outputs) = (Vec::new(), Vec::new(), 0, 0);
        let mut has_magnitudes = false;
        for matrix in matrices {
            let name = format!("{}.weight", matrix.name);
            let is_changed = context.weights.is_changed(&name);
            let mut own = 0;
            for rows in &matrix.rows {
                let slice = Slice { rows: rows.clone(), columns: matrix.columns.clone() };
                let found = if is_changed { context.weights.low_rank(&name, &slice)? } else { None };
                if is_changed && found.is_none() {
                    return Ok(Self::Other);
                }
                if let Some(Factors { a: rows_of_a, rank, row_factors, .. }) = &found {
                    // Every part of a matrix has the same.
                    if own == 0 {
                        a.extend_from_slice(rows_of_a);
                        own = *rank;
                    }
                    has_magnitudes |= row_factors.is_some();
                }
                parts.push((found, ranks, rows.len()));
                outputs += rows.len();
            }
            ranks += own;
        }
        if ranks == 0 {
            return Ok(Self::None);
        }
        let mut b = vec![0.0; outputs * ranks];
        let mut rows = b.chunks_exact_mut(ranks);
        let mut all = Vec::new();
        for (found, first, count) in parts {
            let Some(Factors { b, rank, scale, row_factors, .. }) = found else {
                rows.by_ref().take(count).for_each(drop);
                all.extend(std::iter::repeat_n(1.0, count));
                continue;
            };
            for (row, b) in rows.by_ref().take(count).zip(b.chunks_exact(rank)) {
                row[first..first + rank].iter_mut().zip(b).for_each(|(row, b)| *row = scale * b);
            }
            all.extend(row_factors.unwrap_or_else(|| vec![1.0; count]));
        }
        let a = PackedMatrix::pack(ranks, a.len() / ranks, &a);
        let b = PackedMatrix::pack(outputs, ranks, &b);
        Ok(Self::LowRank(a, LowRank { b, factors: has_magnitudes.then_some(all) }))
    }
}

impl LowRank {
    /// Finishes `y = x Wᵀ`, with `t = x Aᵀ`.
    pub fn finish(&self, y: &Tensor, t: &Tensor, bias: Option<&[f32]>, residual: Option<&Tensor>) -> Result<Tensor> {
        let shape = y.dims2()?;
        let (mut y, t) = (values(y)?, values(t)?);
        let residual = residual.map(values).transpose()?;
        let addends = Addends { bias, residual: residual.as_deref() };
        match &self.factors {
            None => linear_continue(&t, &self.b, addends, &mut y),
            Some(factors) => {
                linear_continue(&t, &self.b, Addends::NONE, &mut y);
                for row in y.chunks_exact_mut(factors.len()) {
                    row.iter_mut().zip(factors).for_each(|(y, factor)| *y *= factor);
                    row.iter_mut().zip(bias.into_iter().flatten()).for_each(|(y, bias)| *y += bias);
                }
                y.iter_mut().zip(residual.iter().flatten()).for_each(|(y, residual)| *y += residual);
            }
        }
        Tensor::from_vec(y, shape, &Device::Cpu)
    }

    /// Weights of `B`.
    pub fn weights(&self) -> usize {
        self.b.n() * self.b.k()
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        self.b.bytes() + self.factors.as_deref().map_or(0, size_of_val)
    }
}

fn values(tensor: &Tensor) -> Result<Vec<f32>> {
    tensor.flatten_all()?.to_vec1()
}
