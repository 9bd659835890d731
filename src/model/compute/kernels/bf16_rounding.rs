//! Rounding to bfloat16 for products that have the same bits with `vdpbf16ps` and without: see [`super::bfloat16_activations`].

/// 2^-55. A bfloat16 number of this magnitude or more is a multiple of 2^-62.
pub(super) const LEAST: f32 = 2.775_557_6e-17;

/// The nearest bfloat16, ties to even, as the upper half of a word whose lower half is zero. Zeros have no sign; a NaN stays one.
#[inline(always)]
pub(super) fn rounded(x: f32) -> u32 {
    const HALF: u32 = 0x7fff;
    const QUIET: u32 = 0x0040_0000;
    let (bits, magnitude) = (x.to_bits(), x.to_bits() & !(1 << 31));
    let nearest = bits.wrapping_add(HALF + (bits >> 16 & 1));
    let nearest = if magnitude > f32::INFINITY.to_bits() { bits | QUIET } else { nearest };
    let nearest = if magnitude < LEAST.to_bits() { 0 } else { nearest };
    nearest & 0xffff_0000
}

#[cfg(test)]
pub(super) mod tests {
    use half::bf16;

    use super::*;

    /// The same by another implementation.
    pub(in crate::model::compute::kernels) fn nearest(x: f32) -> f32 {
        if x.abs() < LEAST { 0.0 } else { bf16::from_f32(x).to_f32() }
    }

    #[test]
    fn numbers_are_rounded_as_by_half() {
        let steps = (0..=u32::MAX / 9973).map(|i| f32::from_bits(i * 9973));
        let edges = [0.0, -0.0, LEAST, -LEAST, LEAST.next_down(), f32::MAX, f32::INFINITY, f32::NEG_INFINITY, f32::NAN];
        for x in steps.chain(edges) {
            let found = f32::from_bits(rounded(x));
            if x.is_nan() {
                assert!(found.is_nan(), "{:x}", x.to_bits());
            } else {
                assert_eq!(found, nearest(x), "{x}");
                assert!(found != 0.0 || found.is_sign_positive(), "{x}");
            }
            assert!(!found.is_subnormal() && rounded(x) & 0xffff == 0);
        }
    }
}
