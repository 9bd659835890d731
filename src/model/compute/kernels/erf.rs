//! The error function, from fused operations and the kernels' exponential alone: the same bits on every instruction set and in
//! every loop.

use super::exp::exp;

/// Up to here a polynomial times the argument, beyond it one less an exponential.
pub(super) const SPLIT: f32 = 0.9375;
/// From here on the result is one.
pub(super) const ONE: f32 = 4.0;
/// `(erf(x) - x) / x` in powers of `x^2` on `|x| <= SPLIT`, interpolated at Chebyshev nodes, lowest power first.
pub(super) const NEAR: [f32; 7] =
    [0.128_379_17, -0.376_126_32, 0.112_836_84, -0.026_858_723, 0.005_199_318_3, -0.000_812_296_1, 8.285_826e-5];
/// `ln(1 - erf(x))` in powers of `x` on `SPLIT <= x <= ONE`, of least greatest error in `erf`: 3.3e-11.
pub(super) const FAR: [f32; 8] = [
    0.000_180_344_78,
    -1.129_542_1,
    -0.633_291_84,
    -0.108_340_725,
    0.025_158_683,
    -0.004_185_991_4,
    0.000_437_548_65,
    -2.136_247_4e-5,
];

/// `erf(x)`, at most one and a half units in the last place away.
#[inline(always)]
pub(super) fn erf(x: f32) -> f32 {
    let square = x * x;
    let mut p = NEAR[6];
    for i in (0..6).rev() {
        p = p.mul_add(square, NEAR[i]);
    }
    let near = p.mul_add(x, x);
    let size = x.abs();
    // What is no number stays none.
    let size = if size > ONE { ONE } else { size };
    let mut q = FAR[7];
    for i in (0..7).rev() {
        q = q.mul_add(size, FAR[i]);
    }
    let far = (1.0 - exp(q)).copysign(x);
    if x.abs() <= SPLIT { near } else { far }
}

#[cfg(test)]
mod tests {
    use super::super::isa::{Isa, Task};
    use super::super::simd::Simd;
    use super::*;

    struct ErfAll<'a>(&'a mut [f32]);
    impl Task for ErfAll<'_> {
        #[inline(always)]
        fn run<const WIDTH: usize, S: Simd<WIDTH>>(self, _: S) {
            for x in self.0 {
                *x = erf(*x);
            }
        }
    }

    /// Every so many floats from one millionth to 10.
    fn arguments() -> impl Iterator<Item = f32> {
        (1e-6_f32.to_bits()..=10.0_f32.to_bits()).step_by(997).map(f32::from_bits)
    }

    #[test]
    fn erf_is_near_the_exact_value() {
        let ulps = |x: f32| {
            let exact = libm::erf(f64::from(x));
            let nearest = exact as f32;
            (f64::from(erf(x)) - exact).abs() / (f64::from(nearest.next_up()) - f64::from(nearest))
        };
        let worst = arguments().map(ulps).fold(0.0, f64::max);
        assert!(worst <= 1.5, "{worst} units in the last place");
        assert!(arguments().all(|x| erf(-x) == -erf(x)));
    }

    #[test]
    fn erf_at_the_edges() {
        assert_eq!((erf(0.0).to_bits(), erf(-0.0).to_bits()), (0.0_f32.to_bits(), (-0.0_f32).to_bits()));
        assert_eq!((erf(ONE), erf(1e30), erf(f32::INFINITY), erf(f32::NEG_INFINITY)), (1.0, 1.0, 1.0, -1.0));
        assert!(erf(f32::NAN).is_nan());
    }

    #[test]
    fn a_vector_gives_the_bits_of_a_scalar() {
        let arguments: Vec<f32> = arguments().step_by(31).flat_map(|x| [x, -x]).chain([0.0, f32::NAN]).collect();
        for isa in Isa::available() {
            let mut found = arguments.clone();
            isa.run(ErfAll(&mut found));
            for (&x, y) in arguments.iter().zip(found) {
                assert_eq!(y.to_bits(), erf(x).to_bits(), "erf({x}) on {}", isa.name());
            }
        }
    }
}
