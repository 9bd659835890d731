//! The gate of the feed-forward layer.

use rayon::prelude::*;

use super::exp::exp;
use super::isa::{Isa, Task};
use super::simd::Simd;

/// Rows per piece of parallel work.
const ROWS: usize = 16;

/// `out = silu(gate) * up`, where `silu(g) = g / (1 + e^-g)`: each row of `gate_up` is `[gate | up]`, `[t, 2 * ffn]`;
/// `out` is `[t, ffn]`.
///
/// # Panics
/// If the lengths do not agree.
pub fn silu_mul(gate_up: &[f32], ffn: usize, out: &mut [f32]) {
    silu_mul_on(Isa::detect(), gate_up, ffn, out);
}

fn silu_mul_on(isa: Isa, gate_up: &[f32], ffn: usize, out: &mut [f32]) {
    assert!(ffn > 0 && out.len().is_multiple_of(ffn), "the output holds a broken row of {ffn}");
    assert_eq!(gate_up.len(), 2 * out.len(), "the input holds a gate and a value for each output");
    out.par_chunks_mut(ROWS * ffn)
        .zip(gate_up.par_chunks(ROWS * 2 * ffn))
        .for_each(|(out, gate_up)| isa.run(SiluMul { gate_up, ffn, out }));
}

struct SiluMul<'a> {
    gate_up: &'a [f32],
    ffn: usize,
    out: &'a mut [f32],
}

impl Task for SiluMul<'_> {
    #[inline(always)]
    fn run<const WIDTH: usize, S: Simd<WIDTH>>(self, _: S) {
        for (gate_up, out) in self.gate_up.chunks_exact(2 * self.ffn).zip(self.out.chunks_exact_mut(self.ffn)) {
            let (gate, up) = gate_up.split_at(self.ffn);
            for ((out, &gate), &up) in out.iter_mut().zip(gate).zip(up) {
                *out = gate / (1.0 + exp(-gate)) * up;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_same_bits, floats, in_pool};
    use super::*;

    #[test]
    fn gates_as_the_formula_says() {
        let (t, ffn) = (3, 37);
        let gate_up: Vec<f32> = floats(t * 2 * ffn, 1).iter().map(|x| x * 20.0).collect();
        let mut out = vec![0.0; t * ffn];
        silu_mul(&gate_up, ffn, &mut out);
        for (row, out) in gate_up.chunks_exact(2 * ffn).zip(out.chunks_exact(ffn)) {
            for (i, &out) in out.iter().enumerate() {
                let (gate, up) = (f64::from(row[i]), f64::from(row[ffn + i]));
                let exact = gate / (1.0 + (-gate).exp()) * up;
                // The exponential's one and a half units, and three roundings of half a unit.
                assert!(
                    (f64::from(out) - exact).abs() <= 3.0 * f64::from(f32::EPSILON) * exact.abs(),
                    "{out} for {exact}"
                );
            }
        }
        let mut edge = [0.0; 4];
        silu_mul(&[-1e4, 1e4, 0.0, f32::NAN, 1.0, 1.0, 1.0, 1.0], 4, &mut edge);
        assert_eq!(edge[..3], [0.0, 1e4, 0.0]);
        assert!(edge[3].is_nan());
    }

    #[test]
    fn a_row_does_not_depend_on_batch_threads_or_instructions() {
        let (t, ffn) = (50, 45);
        let gate_up = floats(t * 2 * ffn, 2);
        let mut rows = vec![0.0; t * ffn];
        for (gate_up, out) in gate_up.chunks_exact(2 * ffn).zip(rows.chunks_exact_mut(ffn)) {
            silu_mul(gate_up, ffn, out);
        }
        for isa in Isa::available() {
            for threads in 1..=3 {
                let mut out = vec![0.0; t * ffn];
                in_pool(threads, || silu_mul_on(isa, &gate_up, ffn, &mut out));
                assert_same_bits(&out, &rows, isa.name());
            }
        }
    }
}
