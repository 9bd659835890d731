//! What an adapter adds to matrices that stay as they are: `f * (x Wᵀ + (x Aᵀ) (scale * B)ᵀ) + b (+ residual)`.
//!
//! Invariant: each value is the dot product with the base's weights, gone on with over the adapter's ranks in ascending order, then
//! multiplied by its factor (DoRA's), then the bias is added, then the residual. So it depends on its own row alone, and has the
//! same bits at every degree.
//!
//! Source: `forward` of PEFT's `lora.Linear`, which rounds in another order.

use std::ops::Range;

use rayon::prelude::*;

use super::{Loaded, Matrix};
use crate::model::checkpoint::{Factors, Slice};
use crate::model::compute::kernels::{Addends, PackedMatrix, linear, linear_continue_within};
use crate::model::network::backbone::RankContext;

/// Matrices side by side, and what is done to them.
pub enum Change {
    /// Nothing.
    None,
    /// Terms of low rank are added.
    LowRank(LowRankTerms),
    /// Another one, after which they are other matrices.
    Other,
}

/// What is added to matrices side by side.
pub struct LowRankTerms {
    /// Every `A`, one under the other: `[ranks, inputs]`.
    a: PackedMatrix,
    terms: Vec<Term>,
    /// What each output is multiplied by; `None` where all of that is 1.
    factors: Option<Vec<f32>>,
    outputs: usize,
}

/// What is added to one of the matrices.
struct Term {
    /// Its columns of what comes out.
    columns: Range<usize>,
    /// Its columns of `x Aᵀ`.
    ranks: Range<usize>,
    /// `scale * B`: `[columns, ranks]`.
    b: PackedMatrix,
}

impl Change {
    /// What the context's weights say of these matrices.
    pub fn load(context: &RankContext, matrices: &[Matrix]) -> Loaded<Self> {
        let (mut a, mut terms, mut factors) = (Vec::new(), Vec::new(), Vec::new());
        let (mut ranks, mut outputs, mut has_factors) = (0, 0, false);
        for matrix in matrices {
            let name = format!("{}.weight", matrix.name);
            let own: usize = matrix.rows.iter().map(Range::len).sum();
            let columns = outputs..outputs + own;
            outputs = columns.end;
            if !context.weights.is_changed(&name) {
                factors.resize(outputs, 1.0);
                continue;
            }
            context.weights.expect(&name, &[matrix.outputs, matrix.inputs])?;
            let (mut b, mut rank) = (Vec::new(), 0);
            for (i, rows) in matrix.rows.iter().enumerate() {
                let slice = Slice { rows: rows.clone(), columns: matrix.columns.clone() };
                let Some(part) = context.weights.low_rank(&name, &slice)? else { return Ok(Self::Other) };
                let Factors { a: rows_of_a, b: rows_of_b, scale, row_factors, .. } = part;
                rank = part.rank;
                // Every part of a matrix has the same.
                if i == 0 {
                    a.extend(rows_of_a);
                }
                b.extend(rows_of_b.into_iter().map(|b| scale * b));
                has_factors |= row_factors.is_some();
                factors.extend(row_factors.unwrap_or_else(|| vec![1.0; rows.len()]));
            }
            terms.push(Term { columns, ranks: ranks..ranks + rank, b: PackedMatrix::pack(own, rank, &b) });
            ranks += rank;
        }
        if terms.is_empty() {
            return Ok(Self::None);
        }
        let a = PackedMatrix::pack(ranks, a.len() / ranks, &a);
        Ok(Self::LowRank(LowRankTerms { a, terms, factors: has_factors.then_some(factors), outputs }))
    }
}

impl LowRankTerms {
    /// Every `A`, `[ranks, inputs]`: [`Self::finish`] is given its products.
    pub fn a(&self) -> &PackedMatrix {
        &self.a
    }

    /// Finishes `y = x Wᵀ` where this rank has all inputs.
    pub fn add(&self, x: &[f32], addends: Addends, y: &mut [f32]) {
        let mut products = vec![0.0; x.len() / self.a.k() * self.a.n()];
        linear(x, &self.a, Addends::NONE, &mut products);
        self.finish(&products, addends, y);
    }

    /// Finishes `y = x Wᵀ` with `products = x Aᵀ`.
    pub fn finish(&self, products: &[f32], addends: Addends, y: &mut [f32]) {
        for Term { columns, ranks, b } in &self.terms {
            let own = products.chunks_exact(self.a.n()).flat_map(|row| &row[ranks.clone()]).copied();
            linear_continue_within(&own.collect::<Vec<_>>(), b, columns.clone(), y, self.outputs);
        }
        if self.factors.is_none() && addends.bias.is_none() && addends.residual.is_none() {
            return;
        }
        y.par_chunks_exact_mut(self.outputs).enumerate().for_each(|(i, y)| {
            if let Some(factors) = &self.factors {
                y.iter_mut().zip(factors).for_each(|(y, factor)| *y *= factor);
            }
            if let Some(bias) = addends.bias {
                y.iter_mut().zip(bias).for_each(|(y, bias)| *y += bias);
            }
            if let Some(residual) = addends.residual {
                y.iter_mut().zip(&residual[i * self.outputs..]).for_each(|(y, residual)| *y += residual);
            }
        });
    }

    /// Weights of all `A` and `B`.
    pub fn weights(&self) -> usize {
        let size = |matrix: &PackedMatrix| matrix.n() * matrix.k();
        size(&self.a) + self.terms.iter().map(|term| size(&term.b)).sum::<usize>()
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        self.a.bytes()
            + self.terms.iter().map(|term| term.b.bytes()).sum::<usize>()
            + self.factors.as_deref().map_or(0, size_of_val)
    }
}
