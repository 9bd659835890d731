//! The gated delta rule: attention in linear time, whose heads carry a state from token to token where others look at all keys.
//! arXiv 2412.06464; as `torch_recurrent_gated_delta_rule` of transformers computes it, token by token.
//!
//! Invariant: what a row gives is a function of the rows of its own path, whose order is the only order of the arithmetic: a
//! segment begins with the state that its parent has left.

use rayon::prelude::*;

use super::activation::{sigmoid, silu};
use super::exp::exp;
use super::isa::{Isa, Task};
use super::norm::inverse_root_of_squares;
use super::paths::Paths;
use super::simd::Simd;
use crate::model::shapes::DeltaLayout;

/// Columns of a state that are computed together, in registers. No constant of the arithmetic: columns know nothing of each other.
const COLUMNS: usize = 32;

/// Rows per piece of parallel work of the norm.
const ROWS: usize = 32;

/// What transformers adds to a sum of squares.
pub(super) const L2_EPS: f32 = 1e-6;

/// What a layer has beside its matrices, for a rank's heads.
#[derive(Debug, Clone)]
pub struct DeltaWeights {
    /// The convolution over the rows of a path, oldest first: `[kernel, layout.convolved()]`.
    pub convolution: Vec<f32>,
    /// What a state fades by, `-e^A`, for each value head.
    pub rate: Vec<f32>,
    /// Added to what a token says of fading, for each value head.
    pub rate_bias: Vec<f32>,
    /// The norm of a value head, `[value_dim]`.
    pub norm: Vec<f32>,
    /// Its epsilon.
    pub eps: f32,
}

/// The values of a delta-rule layer for each row, `[rows, value_heads * value_dim]`, out of its projections `x: [rows, layout.row()]`.
/// `mixed` is memory for as many.
///
/// # Panics
/// If the lengths do not agree.
pub fn gated_delta(
    x: &[f32],
    layout: DeltaLayout,
    weights: &DeltaWeights,
    paths: &Paths,
    mixed: &mut [f32],
    out: &mut [f32],
) {
    gated_delta_on(Isa::current(), Rows { x, layout, weights, paths }, mixed, out);
}

fn gated_delta_on(isa: Isa, of: Rows, mixed: &mut [f32], out: &mut [f32]) {
    let Rows { x, layout, weights, paths } = of;
    let (rows, values) = (paths.rows(), layout.values());
    assert_eq!(x.len(), rows * layout.row(), "a row of projections for each row of the paths");
    assert_eq!([mixed.len(), out.len()], [rows * values; 2], "a row of values for each row of the paths");
    assert_eq!(weights.convolution.len(), layout.kernel * layout.convolved(), "a convolution for each channel");
    assert!([&weights.rate, &weights.rate_bias].iter().all(|w| w.len() == layout.value_heads), "one for each head");
    assert_eq!(weights.norm.len(), layout.value_dim, "a weight for each value");
    if rows == 0 {
        return;
    }
    // The value heads of one key head share their keys and queries.
    let of_head = layout.group() * layout.value_dim;
    mixed.par_chunks_mut(rows * of_head).enumerate().for_each(|(head, mixed)| isa.run(Rule { of, head, mixed }));
    let mixed = &*mixed;
    out.par_chunks_mut(ROWS * values).enumerate().for_each(|(piece, out)| {
        isa.run(GatedNorm { of, first: piece * ROWS, mixed, out });
    });
}

/// What a layer computes from.
#[derive(Clone, Copy)]
struct Rows<'a> {
    x: &'a [f32],
    layout: DeltaLayout,
    weights: &'a DeltaWeights,
    paths: &'a Paths,
}

/// The value heads of one key head, through all rows.
struct Rule<'a> {
    of: Rows<'a>,
    head: usize,
    /// `[rows, group * value_dim]`.
    mixed: &'a mut [f32],
}

/// Columns of a head's state: `[key_dim]` of them.
type Column = [f32; COLUMNS];

impl Task for Rule<'_> {
    #[inline(always)]
    fn run<const WIDTH: usize, S: Simd<WIDTH>>(self, _: S) {
        let Rows { layout, paths, .. } = self.of;
        let DeltaLayout { key_heads, key_dim, value_dim, .. } = layout;
        let (group, of_head) = (layout.group(), layout.group() * value_dim);
        let blocks = value_dim.div_ceil(COLUMNS);
        let (queries, keys) = (self.head * key_dim, (key_heads + self.head) * key_dim);
        let values = 2 * key_heads * key_dim + self.head * of_head;
        let (mut query, mut key, mut value) = (vec![0.0; key_dim], vec![0.0; key_dim], vec![0.0; of_head]);
        let mut left: Vec<usize> = paths.segments.iter().map(|run| run.children).collect();
        let mut states: Vec<Option<Vec<Column>>> = vec![None; left.len()];
        for (index, run) in paths.segments.iter().enumerate() {
            let mut state = match run.parent {
                None => vec![[0.0; COLUMNS]; group * blocks * key_dim],
                Some(parent) => {
                    left[parent] -= 1;
                    let last = left[parent] == 0;
                    let of_parent = if last { states[parent].take() } else { states[parent].clone() };
                    of_parent.expect("a segment stands behind its parent, whose state is kept until the last child")
                }
            };
            for row in run.rows.clone() {
                self.of.convolve(row, queries, &mut query);
                self.of.convolve(row, keys, &mut key);
                self.of.convolve(row, values, &mut value);
                let scale = inverse_root_of_squares(&query, L2_EPS) / (key_dim as f32).sqrt();
                scale_all(&mut query, scale);
                let scale = inverse_root_of_squares(&key, L2_EPS);
                scale_all(&mut key, scale);
                let out = &mut self.mixed[row * of_head..][..of_head];
                for member in 0..group {
                    let [decay, beta] = self.of.gates(row, self.head * group + member);
                    let own = member * value_dim..(member + 1) * value_dim;
                    for block in 0..blocks {
                        let state = &mut state[(member * blocks + block) * key_dim..][..key_dim];
                        let at = own.start + block * COLUMNS..own.end.min(own.start + (block + 1) * COLUMNS);
                        let mut padded = [0.0; COLUMNS];
                        padded[..at.len()].copy_from_slice(&value[at.clone()]);
                        let given = step(state, &query, &key, &padded, decay, beta);
                        out[at.clone()].copy_from_slice(&given[..at.len()]);
                    }
                }
            }
            if run.children > 0 {
                states[index] = Some(state);
            }
        }
    }
}

impl Rows<'_> {
    /// The convolution of channels from `first` on over a row and those before it on its path, through SiLU.
    #[inline(always)]
    fn convolve(&self, row: usize, first: usize, out: &mut [f32]) {
        let (channels, stride) = (self.layout.convolved(), self.layout.row());
        out.fill(0.0);
        let mut at = Some(row as u32);
        for tap in (0..self.layout.kernel).rev() {
            let Some(row) = at else { break };
            let x = &self.x[row as usize * stride + first..][..out.len()];
            let weights = &self.weights.convolution[tap * channels + first..][..out.len()];
            for ((out, x), weight) in out.iter_mut().zip(x).zip(weights) {
                *out = x.mul_add(*weight, *out);
            }
            at = self.paths.before[row as usize];
        }
        for x in out {
            *x = silu(*x);
        }
    }

    /// What a value head's state fades to at a row, and how much of what is new it takes.
    #[inline(always)]
    fn gates(&self, row: usize, head: usize) -> [f32; 2] {
        let gates = &self.x[row * self.layout.row() + self.layout.convolved() + self.layout.values()..];
        let (beta, time) = (gates[head], gates[self.layout.value_heads + head] + self.weights.rate_bias[head]);
        // As PyTorch: above 20 the logarithm is its argument.
        let softplus = if time > 20.0 { time } else { libm::log1pf(exp(time)) };
        [exp(self.weights.rate[head] * softplus), sigmoid(beta)]
    }
}

#[inline(always)]
fn scale_all(x: &mut [f32], scale: f32) {
    for x in x {
        *x *= scale;
    }
}

/// One token through some columns of a state: what it looks up, and the state behind it.
#[inline(always)]
fn step(state: &mut [Column], query: &[f32], key: &[f32], value: &Column, decay: f32, beta: f32) -> Column {
    let (mut found, mut out) = ([0.0; COLUMNS], [0.0; COLUMNS]);
    for (state, &key) in state.iter_mut().zip(key) {
        for i in 0..COLUMNS {
            state[i] *= decay;
            found[i] = state[i].mul_add(key, found[i]);
        }
    }
    let mut delta = [0.0; COLUMNS];
    for i in 0..COLUMNS {
        delta[i] = (value[i] - found[i]) * beta;
    }
    for ((state, &key), &query) in state.iter_mut().zip(key).zip(query) {
        for i in 0..COLUMNS {
            state[i] = key.mul_add(delta[i], state[i]);
            out[i] = state[i].mul_add(query, out[i]);
        }
    }
    out
}

/// The norm of each value head, times its gate.
struct GatedNorm<'a> {
    of: Rows<'a>,
    /// The first of the rows in `out`, of all.
    first: usize,
    /// `[key_heads, rows, group * value_dim]`.
    mixed: &'a [f32],
    out: &'a mut [f32],
}

impl Task for GatedNorm<'_> {
    #[inline(always)]
    fn run<const WIDTH: usize, S: Simd<WIDTH>>(self, _: S) {
        let Rows { x, layout, weights, paths } = self.of;
        let (value_dim, of_head) = (layout.value_dim, layout.group() * layout.value_dim);
        for (row, out) in self.out.chunks_exact_mut(layout.values()).enumerate() {
            let row = self.first + row;
            let gates = &x[row * layout.row() + layout.convolved()..][..out.len()];
            for (head, out) in out.chunks_exact_mut(of_head).enumerate() {
                let mixed = &self.mixed[(head * paths.rows() + row) * of_head..][..of_head];
                let gates = &gates[head * of_head..][..of_head];
                let heads = out.chunks_exact_mut(value_dim).zip(mixed.chunks_exact(value_dim));
                for ((out, mixed), gates) in heads.zip(gates.chunks_exact(value_dim)) {
                    let mean_eps = weights.eps * value_dim as f32;
                    let scale = inverse_root_of_squares(mixed, mean_eps) * (value_dim as f32).sqrt();
                    for (((out, x), gate), weight) in out.iter_mut().zip(mixed).zip(gates).zip(&weights.norm) {
                        *out = x * scale * weight * silu(*gate);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_same_bits, floats, in_pool};
    use super::*;
    use crate::batch::MicroBatch;

    const LAYOUT: DeltaLayout = DeltaLayout { key_heads: 2, value_heads: 4, key_dim: 19, value_dim: 37, kernel: 4 };

    fn weights(layout: DeltaLayout) -> DeltaWeights {
        let rates = |seed| floats(layout.value_heads, seed);
        DeltaWeights {
            convolution: floats(layout.kernel * layout.convolved(), 1),
            rate: rates(2).iter().map(|a| -libm::expf(*a)).collect(),
            rate_bias: rates(3),
            norm: floats(layout.value_dim, 4),
            eps: 1e-6,
        }
    }

    /// Rollouts that share prefixes, one of them a part of another.
    fn rollouts() -> Vec<Vec<u32>> {
        let path = |ends: &[u32]| ends.iter().flat_map(|end| (0..9).map(move |i| end * 16 + i)).collect::<Vec<_>>();
        vec![path(&[0, 1]), path(&[0, 2, 3]), path(&[0, 2, 4]), path(&[5]), path(&[0]), vec![999]]
    }

    /// Projections that are a function of a row's token.
    fn projections(batch: &MicroBatch, layout: DeltaLayout) -> Vec<f32> {
        batch.tokens.iter().flat_map(|token| floats(layout.row(), 100 + u64::from(*token))).collect()
    }

    fn run(isa: Isa, batch: &MicroBatch, layout: DeltaLayout) -> Vec<f32> {
        let mut out = vec![0.0; batch.tokens.len() * layout.values()];
        let mut mixed = out.clone();
        let (x, paths) = (projections(batch, layout), Paths::of(batch));
        gated_delta_on(isa, Rows { x: &x, layout, weights: &weights(layout), paths: &paths }, &mut mixed, &mut out);
        out
    }

    #[test]
    fn a_rollout_has_the_same_bits_in_every_batch_on_all_threads_and_instructions() {
        let (rollouts, width) = (rollouts(), LAYOUT.values());
        let batch = MicroBatch::pack(&rollouts, true);
        assert!(batch.segments.iter().any(|segment| segment.parent.is_some()), "something is shared");
        for isa in Isa::available() {
            for threads in [1, 3] {
                let together = in_pool(threads, || run(isa, &batch, LAYOUT));
                for (rollout, read) in rollouts.iter().zip(&batch.reads) {
                    let alone = run(Isa::detect(), &MicroBatch::pack(&[rollout], true), LAYOUT);
                    let row = read.row as usize * width..(read.row as usize + 1) * width;
                    assert_same_bits(&together[row], &alone[alone.len() - width..], isa.name());
                }
            }
        }
    }

    /// The definition in float64, for one sequence.
    fn exact(x: &[f32], layout: DeltaLayout, weights: &DeltaWeights) -> Vec<f64> {
        let DeltaLayout { key_dim, value_dim, value_heads, kernel, .. } = layout;
        let (row, convolved, rows) = (layout.row(), layout.convolved(), x.len() / layout.row());
        let at = |t: usize, i: usize| f64::from(x[t * row + i]);
        let silu = |x: f64| x / (1.0 + libm::exp(-x));
        let convolve = |t: usize, channel: usize| {
            let taps = (0..kernel.min(t + 1)).map(|back| {
                f64::from(weights.convolution[(kernel - 1 - back) * convolved + channel]) * at(t - back, channel)
            });
            silu(taps.sum())
        };
        let unit = |x: Vec<f64>| {
            let root = (x.iter().map(|x| x * x).sum::<f64>() + 1e-6).sqrt();
            x.into_iter().map(|x| x / root).collect::<Vec<_>>()
        };
        let mut out = vec![0.0; rows * layout.values()];
        for head in 0..value_heads {
            let of_key = head / layout.group() * key_dim;
            let mut state = vec![vec![0.0; value_dim]; key_dim];
            for t in 0..rows {
                let query = unit((0..key_dim).map(|i| convolve(t, of_key + i)).collect());
                let key = unit((0..key_dim).map(|i| convolve(t, layout.keys() + of_key + i)).collect());
                let gates = convolved + layout.values();
                let time = at(t, gates + value_heads + head) + f64::from(weights.rate_bias[head]);
                let decay = libm::exp(f64::from(weights.rate[head]) * libm::log1p(libm::exp(time)));
                let beta = 1.0 / (1.0 + libm::exp(-at(t, gates + head)));
                let mut given = vec![0.0; value_dim];
                for (j, given) in given.iter_mut().enumerate() {
                    state.iter_mut().for_each(|state| state[j] *= decay);
                    let found: f64 = state.iter().zip(&key).map(|(state, key)| state[j] * key).sum();
                    let value = convolve(t, 2 * layout.keys() + head * value_dim + j);
                    state.iter_mut().zip(&key).for_each(|(state, key)| state[j] += key * (value - found) * beta);
                    let sum: f64 = state.iter().zip(&query).map(|(state, query)| state[j] * query).sum();
                    *given = sum / (key_dim as f64).sqrt();
                }
                let mean = given.iter().map(|x| x * x).sum::<f64>() / value_dim as f64;
                for (j, given) in given.iter().enumerate() {
                    let gate = silu(at(t, convolved + head * value_dim + j));
                    out[t * layout.values() + head * value_dim + j] =
                        given / (mean + f64::from(weights.eps)).sqrt() * f64::from(weights.norm[j]) * gate;
                }
            }
        }
        out
    }

    #[test]
    fn values_are_those_of_the_definition() {
        for layout in [LAYOUT, DeltaLayout { value_heads: 2, key_dim: 32, value_dim: 64, kernel: 2, ..LAYOUT }] {
            let batch = MicroBatch::pack(&[(0..23).collect::<Vec<u32>>()], true);
            let expected = exact(&projections(&batch, layout), layout, &weights(layout));
            for (i, (found, expected)) in run(Isa::detect(), &batch, layout).iter().zip(&expected).enumerate() {
                // Values are near 1. A state is 23 updates old, each with a lookup of `key_dim` terms; each rounding is half an
                // epsilon of a value that is at most 4, and the norm divides by a root that is seldom below a quarter.
                let bound = f64::from(f32::EPSILON) * 23.0 * layout.key_dim as f64 * 4.0;
                assert!((f64::from(*found) - expected).abs() <= bound, "value {i}: {found} for {expected}");
            }
        }
    }

    #[test]
    fn nothing_gives_nothing() {
        assert!(run(Isa::detect(), &MicroBatch::default(), LAYOUT).is_empty());
    }
}
