//! Sums over all ranks, block of rows by block of rows. Along a line each rank goes on with what the one before it has
//! got to, so that the result has the bits of one rank alone.

use std::ops::Range;

use candle_core::{Device, Result, Tensor};

use crate::model::collective::Collective;

/// `[rows, outputs]`, the same on every rank. `add` gives a block's rows: what it was given and this rank's part; where it
/// was given nothing, this rank's part alone.
pub(super) fn line_sum(
    ranks: &dyn Collective,
    blocks: impl Iterator<Item = Range<usize>>,
    outputs: usize,
    mut add: impl FnMut(Range<usize>, Option<Vec<f32>>) -> Result<Vec<f32>>,
) -> Result<Tensor> {
    let mut sums = Vec::new();
    let line = ranks.line();
    for rows in blocks {
        match line {
            Some(line) => {
                let y = add(rows, line.take()?)?;
                sums.extend(line.hand_on(y)?.into_iter().flatten());
            }
            None => sums.append(&mut add(rows, None)?),
        }
    }
    let rows = sums.len() / outputs;
    let sum = Tensor::from_vec(sums, (rows, outputs), &Device::Cpu)?;
    match line {
        Some(_) => ranks.broadcast(&sum, ranks.world() - 1),
        None if ranks.world() == 1 => Ok(sum),
        None => ranks.all_reduce(&sum),
    }
}

/// Rows 0 to `rows` in blocks of `block`.
pub(super) fn blocks(rows: usize, block: usize) -> impl Iterator<Item = Range<usize>> {
    (0..rows).step_by(block).map(move |first| first..rows.min(first + block))
}
