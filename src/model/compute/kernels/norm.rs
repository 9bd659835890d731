//! Normalisation of rows: root mean square, and mean and variance.

use rayon::prelude::*;

use super::isa::{Isa, Task};
use super::lanes::{self, LANES};
use super::simd::Simd;
use crate::model::shapes::HeadLayout;

/// Rows per piece of parallel work.
const ROWS: usize = 32;

/// `out = x / sqrt(mean(x²) + eps) * weight` for each row: `x` and `out` are `[t, d]`, `weight` is `[d]`. As
/// transformers' `LlamaRMSNorm` in float32.
///
/// # Panics
/// If the lengths do not agree.
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    rms_norm_on(Isa::current(), x, weight, eps, out);
}

/// `out = (x - mean) / sqrt(variance + eps) * weight + bias` for each row, as [`rms_norm`]; `bias` is `[d]`. The variance
/// is that of the population, about the mean that was found first.
///
/// # Panics
/// If the lengths do not agree.
pub fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) {
    layer_norm_on(Isa::current(), x, weight, bias, eps, out);
}

/// [`rms_norm`] of every query and key head of `qkv: [t, layout.row()]`, in place; both weights are `[head_dim]`.
///
/// # Panics
/// If the lengths do not agree.
pub fn rms_norm_heads(qkv: &mut [f32], layout: HeadLayout, query: &[f32], key: &[f32], eps: f32) {
    rms_norm_heads_on(Isa::current(), qkv, layout, query, key, eps);
}

fn rms_norm_on(isa: Isa, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let d = check(x, weight, out);
    out.par_chunks_mut(ROWS * d)
        .zip(x.par_chunks(ROWS * d))
        .for_each(|(out, x)| isa.run(RmsNorm { x, weight, eps, out }));
}

fn layer_norm_on(isa: Isa, x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) {
    let d = check(x, weight, out);
    assert_eq!(bias.len(), d, "the bias has one value for each feature");
    out.par_chunks_mut(ROWS * d)
        .zip(x.par_chunks(ROWS * d))
        .for_each(|(out, x)| isa.run(LayerNorm { x, weight, bias, eps, out }));
}

fn rms_norm_heads_on(isa: Isa, qkv: &mut [f32], layout: HeadLayout, query: &[f32], key: &[f32], eps: f32) {
    assert!(qkv.len().is_multiple_of(layout.row()), "the rows hold queries, keys and values");
    assert!([query, key].iter().all(|w| w.len() == layout.head_dim), "a weight for each of {}", layout.head_dim);
    qkv.par_chunks_mut(ROWS * layout.row()).for_each(|qkv| isa.run(Heads { qkv, layout, query, key, eps }));
}

fn check(x: &[f32], weight: &[f32], out: &[f32]) -> usize {
    let d = weight.len();
    assert!(d > 0 && x.len().is_multiple_of(d), "the input holds a broken row of {d}");
    assert_eq!(x.len(), out.len(), "the output has the shape of the input");
    d
}

struct RmsNorm<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    out: &'a mut [f32],
}

impl Task for RmsNorm<'_> {
    #[inline(always)]
    fn run<const WIDTH: usize, S: Simd<WIDTH>>(self, _: S) {
        let d = self.weight.len();
        for (x, out) in self.x.chunks_exact(d).zip(self.out.chunks_exact_mut(d)) {
            let scale = inverse_root(sum(x, |x, sum| x.mul_add(x, sum)) / d as f32 + self.eps);
            for ((out, x), weight) in out.iter_mut().zip(x).zip(self.weight) {
                *out = x * scale * weight;
            }
        }
    }
}

struct LayerNorm<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    bias: &'a [f32],
    eps: f32,
    out: &'a mut [f32],
}

impl Task for LayerNorm<'_> {
    #[inline(always)]
    fn run<const WIDTH: usize, S: Simd<WIDTH>>(self, _: S) {
        let d = self.weight.len();
        for (x, out) in self.x.chunks_exact(d).zip(self.out.chunks_exact_mut(d)) {
            let mean = sum(x, |x, sum| x + sum) / d as f32;
            let variance = sum(x, |x, sum| (x - mean).mul_add(x - mean, sum)) / d as f32;
            let scale = inverse_root(variance + self.eps);
            for (((out, x), weight), bias) in out.iter_mut().zip(x).zip(self.weight).zip(self.bias) {
                *out = ((x - mean) * scale).mul_add(*weight, *bias);
            }
        }
    }
}

struct Heads<'a> {
    qkv: &'a mut [f32],
    layout: HeadLayout,
    query: &'a [f32],
    key: &'a [f32],
    eps: f32,
}

impl Task for Heads<'_> {
    #[inline(always)]
    fn run<const WIDTH: usize, S: Simd<WIDTH>>(self, _: S) {
        let HeadLayout { heads, kv_heads, head_dim } = self.layout;
        for row in self.qkv.chunks_exact_mut(self.layout.row()) {
            for (i, head) in row.chunks_exact_mut(head_dim).take(heads + kv_heads).enumerate() {
                let weight = if i < heads { self.query } else { self.key };
                let scale = inverse_root(sum(head, |x, sum| x.mul_add(x, sum)) / head_dim as f32 + self.eps);
                for (x, weight) in head.iter_mut().zip(weight) {
                    *x = *x * scale * weight;
                }
            }
        }
    }
}

/// `1 / sqrt(sum of x² + eps)`.
#[inline(always)]
pub(super) fn inverse_root_of_squares(x: &[f32], eps: f32) -> f32 {
    inverse_root(sum(x, |x, sum| x.mul_add(x, sum)) + eps)
}

#[inline(always)]
fn inverse_root(x: f32) -> f32 {
    1.0 / x.sqrt()
}

/// Adds up what `add` makes of each value; value `i` goes to lane `i % LANES`.
#[inline(always)]
fn sum(x: &[f32], add: impl Fn(f32, f32) -> f32) -> f32 {
    let mut sums = [0.0f32; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            sums[i] = add(chunk[i], sums[i]);
        }
    }
    for (sum, x) in sums.iter_mut().zip(rest) {
        *sum = add(*x, *sum);
    }
    lanes::sum(sums)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_same_bits, floats, in_pool};
    use super::*;

    #[test]
    fn normalises_as_the_formula_says() {
        for (t, d) in [(1, 1), (3, 17), (70, 576)] {
            let (x, weight, mut out) = (floats(t * d, 1), floats(d, 2), vec![0.0; t * d]);
            rms_norm(&x, &weight, 1e-5, &mut out);
            for (x, out) in x.chunks_exact(d).zip(out.chunks_exact(d)) {
                let mean = x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / d as f64;
                let scale = 1.0 / (mean + f64::from(1e-5f32)).sqrt();
                for ((&out, &x), &weight) in out.iter().zip(x).zip(&weight) {
                    let exact = f64::from(x) * scale * f64::from(weight);
                    // d/16 + 4 additions of the sum, halved by the root, and five roundings more; each half an
                    // epsilon of the value.
                    let bound = (d as f64 / 64.0 + 7.0) * f64::from(f32::EPSILON) * exact.abs();
                    assert!((f64::from(out) - exact).abs() <= bound, "{out} for {exact}");
                }
            }
        }
    }

    #[test]
    fn mean_and_variance_are_taken_out() {
        for (t, d) in [(1, 1), (3, 17), (70, 576)] {
            let (x, weight, bias, mut out) = (floats(t * d, 1), floats(d, 2), floats(d, 3), vec![0.0; t * d]);
            layer_norm(&x, &weight, &bias, 1e-5, &mut out);
            for (x, out) in x.chunks_exact(d).zip(out.chunks_exact(d)) {
                let mean = x.iter().map(|&x| f64::from(x)).sum::<f64>() / d as f64;
                let variance = x.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / d as f64;
                let scale = 1.0 / (variance + f64::from(1e-5f32)).sqrt();
                let greatest = x.iter().fold(0.0f32, |max, x| max.max(x.abs()));
                for (i, &out) in out.iter().enumerate() {
                    let exact = (f64::from(x[i]) - mean) * scale * f64::from(weight[i]) + f64::from(bias[i]);
                    // As for the root mean square, but what the mean is off by counts against the largest value: values
                    // near the mean are differences of larger ones.
                    let roundings = (d as f64 / 32.0 + 10.0) * f64::from(f32::EPSILON);
                    let bound = roundings * (f64::from(greatest) * scale * f64::from(weight[i]).abs() + exact.abs());
                    assert!((f64::from(out) - exact).abs() <= bound, "{out} for {exact}");
                }
            }
        }
    }

    #[test]
    fn heads_are_normed_one_by_one() {
        let layout = HeadLayout { heads: 3, kv_heads: 2, head_dim: 11 };
        let (t, query, key) = (5, floats(11, 1), floats(11, 2));
        let before = floats(t * layout.row(), 3);
        for isa in Isa::available() {
            let mut qkv = before.clone();
            rms_norm_heads_on(isa, &mut qkv, layout, &query, &key, 1e-6);
            for (before, after) in before.chunks_exact(layout.row()).zip(qkv.chunks_exact(layout.row())) {
                for (i, (before, after)) in before.chunks_exact(11).zip(after.chunks_exact(11)).enumerate() {
                    let mut expected = before.to_vec();
                    match i {
                        0..3 => rms_norm(before, &query, 1e-6, &mut expected),
                        3..5 => rms_norm(before, &key, 1e-6, &mut expected),
                        _ => {}
                    }
                    assert_same_bits(after, &expected, isa.name());
                }
            }
        }
    }

    #[test]
    fn a_row_does_not_depend_on_batch_threads_or_instructions() {
        let (t, d) = (101, 67);
        let (x, weight) = (floats(t * d, 3), floats(d, 4));
        let mut rows = vec![0.0; t * d];
        for (x, out) in x.chunks_exact(d).zip(rows.chunks_exact_mut(d)) {
            rms_norm(x, &weight, 1e-6, out);
        }
        let bias = floats(d, 5);
        let mut centred = vec![0.0; t * d];
        for (x, out) in x.chunks_exact(d).zip(centred.chunks_exact_mut(d)) {
            layer_norm(x, &weight, &bias, 1e-6, out);
        }
        for isa in Isa::available() {
            for threads in 1..=3 {
                let mut out = vec![0.0; t * d];
                in_pool(threads, || rms_norm_on(isa, &x, &weight, 1e-6, &mut out));
                assert_same_bits(&out, &rows, isa.name());
                in_pool(threads, || layer_norm_on(isa, &x, &weight, &bias, 1e-6, &mut out));
                assert_same_bits(&out, &centred, isa.name());
            }
        }
    }
}
