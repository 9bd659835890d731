//! What is added to a matrix or to an embedding table, `W + scale * B A`, and what its rows or columns are multiplied by
//! afterwards where there are magnitudes (DoRA).
//!
//! Source: `get_delta_weight` and `DoraLinearLayer` of PEFT: of a matrix `[out, in]`, `A` is `[rank, in]` and `B` is `[out, rank]`,
//! and magnitudes are of outputs; of a table `[tokens, features]`, `A` is `[rank, tokens]`, `B` is `[features, rank]`, the
//! product is transposed, and magnitudes are of features.

use super::super::{Factors, Slice, WeightSource};
use crate::model::compute::kernels::add_low_rank;
use crate::model::error::ModelError;

/// Rows of an embedding table that are in memory at a time while its features' norms are computed.
const BLOCK_ROWS: usize = 1024;

/// What the change is made to: the base's tensor, without it.
pub struct Unchanged<'a> {
    /// Rows and columns.
    pub shape: (usize, usize),
    /// Reads a slice.
    pub read: &'a dyn Fn(&Slice) -> Result<Vec<f32>, ModelError>,
}

/// A change of low rank, by the names of its tensors in the adapter.
pub(super) struct LowRank {
    pub(super) a: String,
    pub(super) b: String,
    pub(super) magnitudes: Option<String>,
    pub(super) rank: usize,
    pub(super) scale: f32,
    pub(super) is_table: bool,
}

impl LowRank {
    /// A slice of the change to a matrix, for those who do not merge it.
    pub(super) fn factors(
        &self,
        source: &dyn WeightSource,
        slice: &Slice,
        unchanged: &Unchanged,
    ) -> Result<Factors, ModelError> {
        let (a, b) = self.read(source, slice)?;
        let row_factors = match &self.magnitudes {
            Some(name) => Some(self.row_factors(name, source, slice, unchanged)?),
            None => None,
        };
        Ok(Factors { a, b, rank: self.rank, scale: self.scale, row_factors })
    }

    /// Changes a slice.
    pub(super) fn merge(
        &self,
        source: &dyn WeightSource,
        slice: &Slice,
        unchanged: &Unchanged,
        weight: &mut [f32],
    ) -> Result<(), ModelError> {
        let columns = slice.columns.len();
        if columns == 0 {
            return Ok(());
        }
        self.add(source, slice, weight)?;
        match &self.magnitudes {
            None => {}
            Some(name) if self.is_table => {
                let norms = self.column_norms(source, slice, unchanged)?;
                let magnitudes = source.read(name, &Slice { rows: slice.columns.clone(), columns: 0..1 })?;
                let factors = quotients(&magnitudes, &norms);
                for row in weight.chunks_exact_mut(columns) {
                    row.iter_mut().zip(&factors).for_each(|(w, factor)| *w *= factor);
                }
            }
            Some(name) => {
                let factors = self.row_factors(name, source, slice, unchanged)?;
                for (row, factor) in weight.chunks_exact_mut(columns).zip(factors) {
                    row.iter_mut().for_each(|w| *w *= factor);
                }
            }
        }
        Ok(())
    }

    /// `a: [rank, columns]` and `b: [rows, rank]` of a slice.
    fn read(&self, source: &dyn WeightSource, slice: &Slice) -> Result<(Vec<f32>, Vec<f32>), ModelError> {
        let all = || 0..self.rank;
        if self.is_table {
            let of_tokens = source.read(&self.a, &Slice { rows: all(), columns: slice.rows.clone() })?;
            let of_features = source.read(&self.b, &Slice { rows: slice.columns.clone(), columns: all() })?;
            Ok((transposed(&of_features, self.rank), transposed(&of_tokens, slice.rows.len())))
        } else {
            let a = source.read(&self.a, &Slice { rows: all(), columns: slice.columns.clone() })?;
            let b = source.read(&self.b, &Slice { rows: slice.rows.clone(), columns: all() })?;
            Ok((a, b))
        }
    }

    fn add(&self, source: &dyn WeightSource, slice: &Slice, weight: &mut [f32]) -> Result<(), ModelError> {
        let (a, b) = self.read(source, slice)?;
        add_low_rank(weight, &a, &b, self.rank, self.scale);
        Ok(())
    }

    /// What the rows of a slice are multiplied by: their magnitudes, which have this name, through their lengths.
    fn row_factors(
        &self,
        magnitudes: &str,
        source: &dyn WeightSource,
        slice: &Slice,
        unchanged: &Unchanged,
    ) -> Result<Vec<f32>, ModelError> {
        let norms = self.row_norms(source, slice, unchanged)?;
        let magnitudes = source.read(magnitudes, &Slice { rows: slice.rows.clone(), columns: 0..1 })?;
        Ok(quotients(&magnitudes, &norms))
    }

    /// The length of each row of a slice, over all columns of the matrix.
    fn row_norms(
        &self,
        source: &dyn WeightSource,
        slice: &Slice,
        unchanged: &Unchanged,
    ) -> Result<Vec<f64>, ModelError> {
        let columns = unchanged.shape.1;
        let whole = Slice { rows: slice.rows.clone(), columns: 0..columns };
        let mut rows = (unchanged.read)(&whole)?;
        self.add(source, &whole, &mut rows)?;
        let square = |w: &f32| f64::from(*w) * f64::from(*w);
        Ok(rows.chunks_exact(columns).map(|row| row.iter().map(square).sum::<f64>().sqrt()).collect())
    }

    /// The length of each column of a slice, over all rows of the table.
    fn column_norms(
        &self,
        source: &dyn WeightSource,
        slice: &Slice,
        unchanged: &Unchanged,
    ) -> Result<Vec<f64>, ModelError> {
        let (all, columns) = (unchanged.shape.0, slice.columns.len());
        let mut squares = vec![0.0; columns];
        for first in (0..all).step_by(BLOCK_ROWS) {
            let block = Slice { rows: first..all.min(first + BLOCK_ROWS), columns: slice.columns.clone() };
            let mut rows = (unchanged.read)(&block)?;
            self.add(source, &block, &mut rows)?;
            for row in rows.chunks_exact(columns) {
                squares.iter_mut().zip(row).for_each(|(sum, w)| *sum += f64::from(*w) * f64::from(*w));
            }
        }
        Ok(squares.into_iter().map(f64::sqrt).collect())
    }
}

fn quotients(magnitudes: &[f32], norms: &[f64]) -> Vec<f32> {
    magnitudes.iter().zip(norms).map(|(magnitude, norm)| (f64::from(*magnitude) / norm) as f32).collect()
}

/// The transpose of a matrix of so many columns.
fn transposed(matrix: &[f32], columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|column| matrix.iter().skip(column).step_by(columns)).copied().collect()
}
