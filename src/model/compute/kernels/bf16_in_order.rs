//! Whether a processor's bfloat16 products are added as [`Simd::add_bf16_products`] says.
//!
//! Intel's manual states it for `vdpbf16ps` (two multiply-adds, the upper halves' first, each rounded to nearest, with subnormal
//! numbers taken for zero). A processor that did otherwise would give other rewards under the same model version, so it is asked.

use super::bf16_rounding::rounded;
use super::simd::Simd;

/// Rows of products that are tried. Of sums in another order, or rounded once less, each row differs in every tenth value or so.
const ROWS: u32 = 256;

/// Whether they are, in every bit.
#[inline(always)]
pub(super) fn agrees<const WIDTH: usize, S: Simd<WIDTH>>(simd: S) -> bool {
    let mut agree = true;
    let mut state = 1;
    for _ in 0..ROWS {
        let (a, mut b, mut c) = (pair(&mut state), [[0; 2]; WIDTH], [0.0; WIDTH]);
        let mut expected = [0.0; WIDTH];
        for i in 0..WIDTH {
            let weights = pair(&mut state);
            b[i] = [weights as i16, (weights >> 16) as i16];
            c[i] = number(&mut state);
            let sum = upper(a).mul_add(upper(weights), c[i]);
            expected[i] = lower(a).mul_add(lower(weights), sum);
        }
        let mut sums = [0.0; WIDTH];
        simd.store(simd.add_bf16_products(a as i32, simd.load_pairs(&b), simd.load(&c)), &mut sums);
        for i in 0..WIDTH {
            agree &= sums[i].to_bits() == expected[i].to_bits();
        }
    }
    agree
}

#[inline(always)]
fn upper(pair: u32) -> f32 {
    f32::from_bits(pair & 0xffff_0000)
}

#[inline(always)]
fn lower(pair: u32) -> f32 {
    f32::from_bits(pair << 16)
}

#[inline(always)]
fn pair(state: &mut u32) -> u32 {
    rounded(number(state)) | rounded(number(state)) >> 16
}

/// A number of either sign from 1/16 up to 16.
#[inline(always)]
fn number(state: &mut u32) -> f32 {
    // xorshift32
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    let exponent = 127 - 4 + (*state >> 24) % 8;
    f32::from_bits(*state << 31 | exponent << 23 | *state & 0x7f_ffff)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sums in any other order, or of products that were added first, would be seen.
    #[test]
    fn another_order_has_other_bits() {
        let mut state = 1;
        let (mut other_order, mut products_first) = (0, 0);
        for _ in 0..1000 {
            let (a, b, c) = (pair(&mut state), pair(&mut state), number(&mut state));
            let sum = lower(a).mul_add(lower(b), upper(a).mul_add(upper(b), c));
            other_order += u32::from(sum != upper(a).mul_add(upper(b), lower(a).mul_add(lower(b), c)));
            products_first += u32::from(sum != c + (upper(a) * upper(b) + lower(a) * lower(b)));
        }
        assert!(other_order > 50 && products_first > 50, "{other_order}, {products_first} of 1000");
    }
}
