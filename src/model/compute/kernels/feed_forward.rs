//! The feed-forward layer: `down(act(gate) * up)`, or `down(act(up))` where there is no gate.
//!
//! The inner activations are several times as wide as the hidden state. A block of rows goes all the way on one thread, so
//! that they stay in its cache, a large micro-batch needs no more memory for them than a small one, and threads meet once per
//! layer. Few rows are shared out by columns instead, a step at a time.

use rayon::prelude::*;

use super::activation::{activate, activate_here, gate, gate_here};
use super::addends::Addends;
use super::aligned::with_scratch;
use super::isa::Isa;
use super::linear::{linear, linear_here, row_blocks};
use super::matrix::PackedMatrix;
use super::panel::BLOCK_ROWS;
use crate::model::shapes::Activation;

/// Rows for each thread that make it worth while to share out rows: with fewer than two full blocks each, the last one to
/// finish would be too large a part.
const MIN_ROWS: usize = 2 * BLOCK_ROWS;

/// The weights of a layer.
#[derive(Debug, Clone, Copy)]
pub struct FeedForwardWeights<'a> {
    /// `[features, hidden]`; with a gate `[2 * features, hidden]`, the gate first.
    pub up: &'a PackedMatrix,
    /// One value for each output of `up`.
    pub up_bias: Option<&'a [f32]>,
    /// Whether there is a gate.
    pub gated: bool,
    /// What the gate goes through, or `up` itself.
    pub activation: Activation,
    /// `[hidden, features]`.
    pub down: &'a PackedMatrix,
}

/// The layer of `x: [t, hidden]` with what is added to it: `y` is `[t, hidden]`.
///
/// # Panics
/// If the lengths do not agree.
pub fn feed_forward(x: &[f32], weights: FeedForwardWeights, addends: Addends, y: &mut [f32]) {
    let (hidden, n) = (weights.up.k(), weights.down.n());
    let t = x.len() / hidden;
    if t < rayon::current_num_threads() * MIN_ROWS {
        let (mut wide, mut inner) = (Vec::new(), Vec::new());
        for (i, (x, y)) in x.chunks(BLOCK_ROWS * hidden).zip(y.chunks_mut(BLOCK_ROWS * n)).enumerate() {
            let rows = i * BLOCK_ROWS..i * BLOCK_ROWS + x.len() / hidden;
            weights.inner(x, &mut wide, &mut inner);
            linear(&inner, weights.down, addends.of_rows(rows, n), y);
        }
        return;
    }
    let mut rest = y;
    let blocks: Vec<_> = row_blocks(t)
        .map(|rows| {
            let (y, right) = std::mem::take(&mut rest).split_at_mut(rows.len() * n);
            rest = right;
            (rows, y)
        })
        .collect();
    blocks.into_par_iter().with_max_len(1).for_each(|(rows, y)| {
        let x = &x[rows.start * hidden..rows.end * hidden];
        weights.here(x, addends.of_rows(rows, n), y);
    });
}

impl FeedForwardWeights<'_> {
    /// `act(gate) * up`, or `act(up)`, of some rows; `wide` is scratch.
    pub fn inner(&self, x: &[f32], wide: &mut Vec<f32>, inner: &mut Vec<f32>) {
        let width = x.len() / self.up.k() * self.up.n();
        let buffer = if self.gated { &mut *wide } else { &mut *inner };
        buffer.resize(width, 0.0);
        linear(x, self.up, self.up_addends(), buffer);
        if self.gated {
            inner.resize(width / 2, 0.0);
            gate(self.activation, wide, self.up.n() / 2, inner);
        } else {
            activate(self.activation, inner);
        }
    }

    /// The layer of a block of rows, on the calling thread.
    pub(super) fn here(&self, x: &[f32], addends: Addends, y: &mut [f32]) {
        let (isa, features) = (Isa::current(), self.down.k());
        let t = x.len() / self.up.k();
        with_scratch(t * (self.up.n() + features), |scratch| {
            let (wide, inner) = scratch.split_at_mut(t * self.up.n());
            linear_here(x, self.up, self.up_addends(), wide);
            if self.gated {
                let inner = &mut inner[..t * features];
                gate_here(isa, self.activation, wide, features, inner);
                linear_here(inner, self.down, addends, y);
            } else {
                activate_here(isa, self.activation, wide);
                linear_here(wide, self.down, addends, y);
            }
        });
    }

    fn up_addends(&self) -> Addends<'_> {
        Addends { bias: self.up_bias, residual: None }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_same_bits, floats, in_pool};
    use super::*;

    #[test]
    fn blocks_of_rows_have_the_bits_of_steps() {
        let (hidden, features) = (40, 56);
        let down = PackedMatrix::pack(hidden, features, &floats(hidden * features, 1));
        for gated in [false, true] {
            let ways_up = if gated { 2 * features } else { features };
            let (up, bias) = (PackedMatrix::pack(ways_up, hidden, &floats(ways_up * hidden, 2)), floats(ways_up, 3));
            let activation = Activation::Silu;
            let weights = FeedForwardWeights { up: &up, up_bias: Some(&bias), gated, activation, down: &down };
            // On either side of where rows are shared out, up to blocks of full height and broken ones.
            for t in [1, 191, 192, 193, 500, 1000] {
                let (x, residual, bias) = (floats(t * hidden, 4), floats(t * hidden, 5), floats(hidden, 6));
                let addends = Addends { bias: Some(&bias), residual: Some(&residual) };
                let mut wide = vec![0.0; t * ways_up];
                linear(&x, &up, weights.up_addends(), &mut wide);
                let mut inner = vec![0.0; t * features];
                if gated {
                    gate(activation, &wide, features, &mut inner)
                } else {
                    inner = wide;
                    activate(activation, &mut inner);
                }
                let mut expected = vec![0.0; t * hidden];
                linear(&inner, &down, addends, &mut expected);
                for threads in 1..=3 {
                    let mut y = vec![f32::NAN; t * hidden];
                    in_pool(threads, || feed_forward(&x, weights, addends, &mut y));
                    assert_same_bits(&y, &expected, &format!("{t} rows, {threads} threads, gated: {gated}"));
                }
            }
        }
    }
}
