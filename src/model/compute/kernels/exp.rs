//! The exponential and the hyperbolic tangent, from fused operations alone: the same bits on every instruction set and
//! in every loop. libm's differ from machine to machine, and do not vectorise.

/// `1.5 * 2^23`: added to a small number it leaves the nearest integer in the low bits of the mantissa.
pub(super) const ROUND: f32 = 12_582_912.0;
/// ln 2 cut to 15 bits after the point, so that its product with an exponent is exact, and what is left of it.
pub(super) const LN_2_HIGH: f32 = 0.693_145_75;
pub(super) const LN_2_LOW: f32 = 1.428_606_8e-6;
/// Least argument whose exponential is a normal number; below it the result is zero.
pub(super) const LEAST: f32 = -87.336_54;
/// Greatest argument whose exponential is finite.
pub(super) const GREATEST: f32 = 88.722_83;
/// `(e^r - 1 - r) / r^2` on `|r| <= ln(2)/2`, interpolated at Chebyshev nodes, lowest power first. The error in `e^r`
/// is 7e-10 of its value, a hundredth of half a unit in the last place.
pub(super) const EXP: [f32; 6] = [0.5, 0.166_666_67, 0.041_666_467, 0.008_333_31, 0.001_393_365, 0.000_198_909_91];
/// `(tanh(y) - y) / y^3` in powers of `y^2` on `|y| <= 0.5`, made in the same way; error 4.5e-9 of the value.
pub(super) const TANH: [f32; 5] = [-0.333_333_3, 0.133_332_25, -0.053_933_468, 0.021_470_683, -0.006_942_942];

/// `e^x`, at most one and a half units in the last place away. Results below the least normal number are zero.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    let rounded = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = rounded - ROUND;
    let r = n.mul_add(-LN_2_LOW, n.mul_add(-LN_2_HIGH, x));
    let mut p = EXP[5];
    for i in (0..5).rev() {
        p = p.mul_add(r, EXP[i]);
    }
    let e = p.mul_add(r * r, r) + 1.0;
    // Multiply by 2^n: `rounded` holds n in its low bits, and the shift pushes everything else out.
    let scaled = f32::from_bits(e.to_bits().wrapping_add(rounded.to_bits() << 23));
    let scaled = if x < LEAST { 0.0 } else { scaled };
    let scaled = if x > GREATEST { f32::INFINITY } else { scaled };
    if x.is_nan() { x } else { scaled }
}

/// `tanh(y)`, at most two units in the last place away.
#[inline(always)]
pub(super) fn tanh(y: f32) -> f32 {
    let square = y * y;
    let mut p = TANH[4];
    for i in (0..4).rev() {
        p = p.mul_add(square, TANH[i]);
    }
    let near = p.mul_add(square * y, y);
    let far = (1.0 - 2.0 / (exp(2.0 * y.abs()) + 1.0)).copysign(y);
    if y.abs() <= 0.5 { near } else { far }
}

#[cfg(test)]
mod tests {
    use super::super::isa::{Isa, Task};
    use super::super::simd::Simd;
    use super::*;

    struct ExpAll<'a>(&'a mut [f32]);
    impl Task for ExpAll<'_> {
        #[inline(always)]
        fn run<const WIDTH: usize, S: Simd<WIDTH>>(self, _: S) {
            for x in self.0 {
                *x = exp(*x);
            }
        }
    }

    struct TanhAll<'a>(&'a mut [f32]);
    impl Task for TanhAll<'_> {
        #[inline(always)]
        fn run<const WIDTH: usize, S: Simd<WIDTH>>(self, _: S) {
            for x in self.0 {
                *x = tanh(*x);
            }
        }
    }

    /// Distance in units in the last place of the float32 nearest to `exact`.
    fn ulps(value: f32, exact: f64) -> f64 {
        let nearest = (exact as f32).abs();
        (f64::from(value) - exact).abs() / (f64::from(nearest.next_up()) - f64::from(nearest))
    }

    /// Every `step`-th float32 from `a` to `b`, both of one sign.
    fn floats(a: f32, b: f32, step: usize) -> impl Iterator<Item = f32> {
        let (a, b) = (a.to_bits().min(b.to_bits()), a.to_bits().max(b.to_bits()));
        (a..=b).step_by(step).map(f32::from_bits)
    }

    #[test]
    fn exp_is_near_the_exact_value() {
        let worst = floats(-87.3, -1e-9, 997)
            .chain(floats(1e-9, 88.7, 997))
            .map(|x| ulps(exp(x), libm::exp(f64::from(x))))
            .fold(0.0, f64::max);
        assert!(worst <= 1.5, "{worst} units in the last place");
    }

    #[test]
    fn tanh_is_near_the_exact_value() {
        let worst = floats(1e-9, 20.0, 997).map(|x| ulps(tanh(x), libm::tanh(f64::from(x)))).fold(0.0, f64::max);
        assert!(worst <= 2.0, "{worst} units in the last place");
        assert!(floats(1e-9, 20.0, 9973).all(|x| tanh(-x) == -tanh(x)));
    }

    #[test]
    fn exp_at_the_edges() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY).to_bits(), 0);
        assert_eq!(exp(-1e30).to_bits(), 0);
        assert_eq!(exp(LEAST.next_down()).to_bits(), 0);
        assert!(exp(LEAST).is_normal());
        assert!(exp(GREATEST).is_finite());
        assert_eq!(exp(GREATEST.next_up()), f32::INFINITY);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert!(exp(f32::NAN).is_nan());
        assert_eq!(tanh(f32::INFINITY), 1.0);
        assert!(tanh(f32::NAN).is_nan());
    }

    #[test]
    fn a_vector_gives_the_bits_of_a_scalar() {
        let arguments: Vec<f32> = floats(-90.0, -1e-6, 99_991)
            .chain(floats(1e-6, 90.0, 99_991))
            .chain([0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN])
            .collect();
        for isa in Isa::available() {
            let (mut exps, mut tanhs) = (arguments.clone(), arguments.clone());
            isa.run(ExpAll(&mut exps));
            isa.run(TanhAll(&mut tanhs));
            for ((&x, &e), &t) in arguments.iter().zip(&exps).zip(&tanhs) {
                assert_eq!(e.to_bits(), exp(x).to_bits(), "exp({x}) on {}", isa.name());
                assert_eq!(t.to_bits(), tanh(x).to_bits(), "tanh({x}) on {}", isa.name());
            }
        }
    }
}
