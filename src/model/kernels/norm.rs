//! Root-mean-square normalisation.

use rayon::prelude::*;

use super::isa::{Isa, Task};
use super::lanes::{self, LANES};
use super::simd::Simd;

/// Rows per piece of parallel work.
const ROWS: usize = 32;

/// `out = x / sqrt(mean(x²) + eps) * weight` for each row: `x` and `out` are `[t, d]`, `weight` is `[d]`. As
/// transformers' `LlamaRMSNorm` in float32.
///
/// # Panics
/// If the lengths do not agree.
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    rms_norm_on(Isa::detect(), x, weight, eps, out);
}

fn rms_norm_on(isa: Isa, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let d = weight.len();
    assert!(d > 0 && x.len().is_multiple_of(d), "the input holds a broken row of {d}");
    assert_eq!(x.len(), out.len(), "the output has the shape of the input");
    out.par_chunks_mut(ROWS * d)
        .zip(x.par_chunks(ROWS * d))
        .for_each(|(out, x)| isa.run(RmsNorm { x, weight, eps, out }));
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
            let scale = 1.0 / (sum_of_squares(x) / d as f32 + self.eps).sqrt();
            for ((out, x), weight) in out.iter_mut().zip(x).zip(self.weight) {
                *out = x * scale * weight;
            }
        }
    }
}

/// Value `i` goes to lane `i % LANES`.
#[inline(always)]
fn sum_of_squares(x: &[f32]) -> f32 {
    let mut sums = [0.0f32; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            sums[i] = chunk[i].mul_add(chunk[i], sums[i]);
        }
    }
    for (sum, x) in sums.iter_mut().zip(rest) {
        *sum = x.mul_add(*x, *sum);
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
    fn a_row_does_not_depend_on_batch_threads_or_instructions() {
        let (t, d) = (101, 67);
        let (x, weight) = (floats(t * d, 3), floats(d, 4));
        let mut rows = vec![0.0; t * d];
        for (x, out) in x.chunks_exact(d).zip(rows.chunks_exact_mut(d)) {
            rms_norm(x, &weight, 1e-6, out);
        }
        for isa in Isa::available() {
            for threads in 1..=3 {
                let mut out = vec![0.0; t * d];
                in_pool(threads, || rms_norm_on(isa, &x, &weight, 1e-6, &mut out));
                assert_same_bits(&out, &rows, isa.name());
            }
        }
    }
}
