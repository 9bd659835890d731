//! What is added to the dot products of a linear layer once they are finished.

use std::ops::Range;

/// What is added to a finished dot product: the bias, and to their sum the residual.
///
/// A dot product may also be finished in several calls, over consecutive runs of `k`: see [`linear_continue`](super::linear_continue).
#[derive(Debug, Clone, Copy, Default)]
pub struct Addends<'a> {
    /// `[n]`, the same for every row.
    pub bias: Option<&'a [f32]>,
    /// `[t, n]`.
    pub residual: Option<&'a [f32]>,
}

impl<'a> Addends<'a> {
    /// Nothing.
    pub const NONE: Self = Self { bias: None, residual: None };

    /// Adds its part to columns `columns` of row `row` of a `[t, n]` matrix.
    #[inline(always)]
    pub(super) fn add<const WIDTH: usize>(&self, row: usize, n: usize, columns: &Range<usize>, y: &mut [f32; WIDTH]) {
        if let Some(bias) = self.bias {
            add(&bias[columns.clone()], y);
        }
        if let Some(residual) = self.residual {
            add(&residual[row * n..][columns.clone()], y);
        }
    }

    /// What belongs to some of the rows.
    pub(super) fn of_rows(&self, rows: Range<usize>, n: usize) -> Self {
        Self { residual: self.residual.map(|residual| &residual[rows.start * n..rows.end * n]), ..*self }
    }
}

/// `y += part`. The columns of a whole panel have a length that the compiler knows.
#[inline(always)]
fn add<const WIDTH: usize>(part: &[f32], y: &mut [f32; WIDTH]) {
    match <&[f32; WIDTH]>::try_from(part) {
        Ok(part) => {
            for i in 0..WIDTH {
                y[i] += part[i];
            }
        }
        Err(_) => y.iter_mut().zip(part).for_each(|(y, part)| *y += part),
    }
}

/// Copies a row of a tile to where it belongs; the columns of a whole panel have a length that the compiler knows.
#[inline(always)]
pub(super) fn copy<const WIDTH: usize>(from: &[f32; WIDTH], to: &mut [f32]) {
    match to.as_chunks_mut::<WIDTH>() {
        ([to], []) => *to = *from,
        _ => to.copy_from_slice(&from[..to.len()]),
    }
}
