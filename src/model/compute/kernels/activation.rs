//! Activations of the feed-forward layer, alone or as the gate of a second value.

use std::marker::PhantomData;

use rayon::prelude::*;

use super::erf::erf;
use super::exp::{exp, tanh};
use super::isa::{Isa, Task};
use super::simd::Simd;
use crate::model::shapes::Activation;

/// Values per piece of parallel work.
const PIECE: usize = 16_384;

/// `out = act(gate) * up`: each row of `gate_up` is `[gate | up]`, `[t, 2 * features]`; `out` is `[t, features]`.
///
/// # Panics
/// If the lengths do not agree.
pub fn gate(activation: Activation, gate_up: &[f32], features: usize, out: &mut [f32]) {
    gate_on(Isa::current(), activation, gate_up, features, out);
}

/// `x = act(x)`, value by value.
pub fn activate(activation: Activation, x: &mut [f32]) {
    activate_on(Isa::current(), activation, x);
}

/// Runs an expression with `F` as the activation's function, chosen outside of all loops.
macro_rules! with_function {
    ($activation:expr, $F:ident => $run:expr) => {
        match $activation {
            Activation::Silu => {
                type $F = Silu;
                $run
            }
            Activation::GeluTanh => {
                type $F = GeluTanh;
                $run
            }
            Activation::Gelu => {
                type $F = Gelu;
                $run
            }
            Activation::Tanh => {
                type $F = Tanh;
                $run
            }
            Activation::Sigmoid => {
                type $F = Sigmoid;
                $run
            }
            Activation::Relu => {
                type $F = Relu;
                $run
            }
            Activation::SquaredRelu => {
                type $F = SquaredRelu;
                $run
            }
        }
    };
}

fn gate_on(isa: Isa, activation: Activation, gate_up: &[f32], features: usize, out: &mut [f32]) {
    assert!(features > 0 && out.len().is_multiple_of(features), "the output holds a broken row of {features}");
    assert_eq!(gate_up.len(), 2 * out.len(), "the input holds a gate and a value for each output");
    let rows = PIECE.div_ceil(features);
    let pieces = out.par_chunks_mut(rows * features).zip(gate_up.par_chunks(rows * 2 * features));
    pieces.for_each(|(out, gate_up)| gate_here(isa, activation, gate_up, features, out));
}

/// [`gate`] on the calling thread alone.
pub(super) fn gate_here(isa: Isa, activation: Activation, gate_up: &[f32], features: usize, out: &mut [f32]) {
    with_function!(activation, F => isa.run(Gate { function: PhantomData::<F>, gate_up, features, out }));
}

/// [`activate`] on the calling thread alone.
pub(super) fn activate_here(isa: Isa, activation: Activation, x: &mut [f32]) {
    with_function!(activation, F => isa.run(Activate { function: PhantomData::<F>, x }));
}

fn activate_on(isa: Isa, activation: Activation, x: &mut [f32]) {
    x.par_chunks_mut(PIECE).for_each(|x| activate_here(isa, activation, x));
}

trait Function: Sync {
    fn at(x: f32) -> f32;
}

struct Silu;

impl Function for Silu {
    #[inline(always)]
    fn at(x: f32) -> f32 {
        x / (1.0 + exp(-x))
    }
}

/// `x / (1 + e^-x)`, for other kernels.
#[inline(always)]
pub(super) fn silu(x: f32) -> f32 {
    Silu::at(x)
}

/// `sqrt(2 / pi)`.
pub(super) const GELU_ROOT: f32 = 0.797_884_6;

struct GeluTanh;

impl Function for GeluTanh {
    #[inline(always)]
    fn at(x: f32) -> f32 {
        0.5 * x * (1.0 + tanh(GELU_ROOT * (0.044_715 * (x * x * x) + x)))
    }
}

struct Gelu;

impl Function for Gelu {
    #[inline(always)]
    fn at(x: f32) -> f32 {
        0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))
    }
}

struct Tanh;

impl Function for Tanh {
    #[inline(always)]
    fn at(x: f32) -> f32 {
        tanh(x)
    }
}

struct Sigmoid;

impl Function for Sigmoid {
    #[inline(always)]
    fn at(x: f32) -> f32 {
        sigmoid(x)
    }
}

/// `1 / (1 + e^-x)`, for other kernels.
#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

struct Relu;

impl Function for Relu {
    /// NaN stays NaN, which `f32::max` would turn into zero.
    #[inline(always)]
    fn at(x: f32) -> f32 {
        if x <= 0.0 { 0.0 } else { x }
    }
}

struct SquaredRelu;

impl Function for SquaredRelu {
    #[inline(always)]
    fn at(x: f32) -> f32 {
        Relu::at(x) * Relu::at(x)
    }
}

struct Gate<'a, F> {
    function: PhantomData<F>,
    gate_up: &'a [f32],
    features: usize,
    out: &'a mut [f32],
}

impl<F: Function> Task for Gate<'_, F> {
    #[inline(always)]
    fn run<const WIDTH: usize, S: Simd<WIDTH>>(self, _: S) {
        let rows = self.gate_up.chunks_exact(2 * self.features).zip(self.out.chunks_exact_mut(self.features));
        for (gate_up, out) in rows {
            let (gate, up) = gate_up.split_at(self.features);
            for ((out, &gate), &up) in out.iter_mut().zip(gate).zip(up) {
                *out = F::at(gate) * up;
            }
        }
    }
}

struct Activate<'a, F> {
    function: PhantomData<F>,
    x: &'a mut [f32],
}

impl<F: Function> Task for Activate<'_, F> {
    #[inline(always)]
    fn run<const WIDTH: usize, S: Simd<WIDTH>>(self, _: S) {
        for x in self.x {
            *x = F::at(*x);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_same_bits, floats, in_pool};
    use super::*;

    fn exact(activation: Activation, x: f64) -> f64 {
        match activation {
            Activation::Silu => x / (1.0 + libm::exp(-x)),
            Activation::GeluTanh => {
                0.5 * x * (1.0 + libm::tanh(std::f64::consts::FRAC_2_PI.sqrt() * (x + 0.044_715 * x.powi(3))))
            }
            Activation::Gelu => 0.5 * x * (1.0 + libm::erf(x * std::f64::consts::FRAC_1_SQRT_2)),
            Activation::Tanh => libm::tanh(x),
            Activation::Sigmoid => 1.0 / (1.0 + libm::exp(-x)),
            Activation::Relu => x.max(0.0),
            Activation::SquaredRelu => x.max(0.0).powi(2),
        }
    }

    #[test]
    fn values_are_those_of_the_formula() {
        let (t, features) = (3, 37);
        let gate_up: Vec<f32> = floats(t * 2 * features, 1).iter().map(|x| x * 20.0).collect();
        for activation in Activation::ALL {
            let mut out = vec![0.0; t * features];
            gate(activation, &gate_up, features, &mut out);
            let mut alone = gate_up.clone();
            activate(activation, &mut alone);
            for (row, (out, alone)) in
                gate_up.chunks_exact(2 * features).zip(out.chunks_exact(features).zip(alone.chunks_exact(2 * features)))
            {
                for (i, &out) in out.iter().enumerate() {
                    let (gate, up) = (f64::from(row[i]), f64::from(row[features + i]));
                    let value = exact(activation, gate);
                    // An exponential or tanh of two units, and up to six roundings of half a unit. Near minus infinity
                    // 1 + tanh, or 1 + erf, cancels: what is left is within a few roundings of 1, times x / 2.
                    let gelu = matches!(activation, Activation::GeluTanh | Activation::Gelu);
                    let cancelled = if gelu { gate.abs() } else { 0.0 };
                    let bound = f64::from(f32::EPSILON) * (5.0 * value.abs() + 2.0 * cancelled);
                    assert!((f64::from(alone[i]) - value).abs() <= bound, "{activation:?}({gate}) = {}", alone[i]);
                    let bound = (bound + f64::from(f32::EPSILON) * value.abs()) * up.abs();
                    assert!((f64::from(out) - value * up).abs() <= bound, "{activation:?}({gate}) * {up} = {out}");
                }
            }
        }
    }

    #[test]
    fn edges() {
        for activation in Activation::ALL {
            let mut edge = [-1e4, 1e4, 0.0, f32::NAN];
            activate(activation, &mut edge);
            let (least, greatest) = match activation {
                Activation::SquaredRelu => (0.0, 1e8),
                Activation::Tanh => (-1.0, 1.0),
                Activation::Sigmoid => (0.0, 1.0),
                _ => (0.0, 1e4),
            };
            assert_eq!((edge[0], edge[1]), (least, greatest), "{activation:?}");
            let zero = if activation == Activation::Sigmoid { 0.5 } else { 0.0 };
            assert!(edge[2] == zero && edge[3].is_nan());
        }
    }

    #[test]
    fn a_row_does_not_depend_on_batch_threads_or_instructions() {
        let (t, features) = (700, 45);
        let gate_up = floats(t * 2 * features, 2);
        for activation in Activation::ALL {
            let mut rows = vec![0.0; t * features];
            for (gate_up, out) in gate_up.chunks_exact(2 * features).zip(rows.chunks_exact_mut(features)) {
                gate(activation, gate_up, features, out);
            }
            let mut values = gate_up.clone();
            values.iter_mut().for_each(|x| activate(activation, std::slice::from_mut(x)));
            for isa in Isa::available() {
                for threads in 1..=2 {
                    let (mut out, mut alone) = (vec![0.0; t * features], gate_up.clone());
                    in_pool(threads, || {
                        gate_on(isa, activation, &gate_up, features, &mut out);
                        activate_on(isa, activation, &mut alone);
                    });
                    assert_same_bits(&out, &rows, isa.name());
                    assert_same_bits(&alone, &values, isa.name());
                }
            }
        }
    }
}
