//! The registers of a tile: one row of accumulators is two of them. Written out, for compilers do not reliably keep an
//! array of accumulators in registers; loops without that need are left to them.
//!
//! Invariant: every operation is lane by lane, and rounds as `f32::mul_add` does.

use half::bf16;

/// The upper half of a word: the first bfloat16 number of a pair.
#[cfg(target_arch = "x86_64")]
const UPPER_HALF: i32 = !0xffff;

/// Rows and columns of what [`Simd::transpose`] turns.
pub(super) const SQUARE: usize = 8;

/// Operations on rows of `WIDTH` floats. A value of an implementing type is the proof that its instructions are there.
pub(super) trait Simd<const WIDTH: usize>: Copy {
    /// `WIDTH` floats in registers.
    type Row: Copy;

    fn load(self, from: &[f32; WIDTH]) -> Self::Row;
    fn store(self, row: Self::Row, to: &mut [f32; WIDTH]);
    /// `a * b + c`, rounded once.
    fn mul_add(self, a: f32, b: Self::Row, c: Self::Row) -> Self::Row;

    /// As [`Self::load`], of numbers that are the upper halves of floats.
    fn load_bf16(self, from: &[bf16; WIDTH]) -> Self::Row;

    /// Asks for the line that holds a value, which will be wanted soon.
    fn prefetch<T>(self, value: &T);

    /// Writes columns as rows, which begin `stride` apart.
    #[inline(always)]
    fn transpose(self, rows: [&[f32; SQUARE]; SQUARE], to: &mut [f32], stride: usize) {
        for i in 0..SQUARE {
            let to = &mut to[i * stride..][..SQUARE];
            for (to, row) in to.iter_mut().zip(rows) {
                *to = row[i];
            }
        }
    }

    /// `WIDTH` pairs of numbers of two bytes in registers: small integers, or bfloat16.
    type Pairs: Copy;
    /// `WIDTH` sums of their products.
    type Sums: Copy;

    fn load_pairs(self, from: &[[i16; 2]; WIDTH]) -> Self::Pairs;
    /// As [`Self::load_pairs`], of bytes.
    fn load_byte_pairs(self, from: &[[i8; 2]; WIDTH]) -> Self::Pairs;
    fn no_sums(self) -> Self::Sums;
    /// Adds to each sum the products of a pair with the two halves of `a`, the lower one first. The caller sees to it that
    /// nothing overflows.
    fn add_products(self, a: i32, b: Self::Pairs, c: Self::Sums) -> Self::Sums;
    /// Adds to each value the product of a pair's upper half with that of `a`, and then that of the lower halves, each by a
    /// multiply-add that is rounded once. All are bfloat16 numbers; none of them, and no value, may be subnormal.
    fn add_bf16_products(self, a: i32, b: Self::Pairs, c: Self::Row) -> Self::Row;
    /// `sums * (scale * scales) + c`, where the sums are rounded to floats, then the product of both scales is, and then the
    /// multiply-add, once.
    fn add_scaled(self, sums: Self::Sums, scale: f32, scales: Self::Row, c: Self::Row) -> Self::Row;
}

/// Plain Rust.
#[derive(Clone, Copy)]
pub(super) struct Portable;

impl Simd<16> for Portable {
    type Row = [f32; 16];

    #[inline(always)]
    fn load(self, from: &[f32; 16]) -> [f32; 16] {
        *from
    }

    #[inline(always)]
    fn store(self, row: [f32; 16], to: &mut [f32; 16]) {
        *to = row;
    }

    #[inline(always)]
    fn mul_add(self, a: f32, b: [f32; 16], mut c: [f32; 16]) -> [f32; 16] {
        for (c, b) in c.iter_mut().zip(b) {
            *c = a.mul_add(b, *c);
        }
        c
    }

    #[inline(always)]
    fn load_bf16(self, from: &[bf16; 16]) -> [f32; 16] {
        from.map(|value| f32::from_bits(u32::from(value.to_bits()) << 16))
    }

    #[inline(always)]
    fn prefetch<T>(self, _: &T) {}

    type Pairs = [[i16; 2]; 16];
    type Sums = [i32; 16];

    #[inline(always)]
    fn load_pairs(self, from: &[[i16; 2]; 16]) -> [[i16; 2]; 16] {
        *from
    }

    #[inline(always)]
    fn load_byte_pairs(self, from: &[[i8; 2]; 16]) -> [[i16; 2]; 16] {
        from.map(|pair| pair.map(i16::from))
    }

    #[inline(always)]
    fn no_sums(self) -> [i32; 16] {
        [0; 16]
    }

    #[inline(always)]
    fn add_products(self, a: i32, b: [[i16; 2]; 16], mut c: [i32; 16]) -> [i32; 16] {
        let (low, high) = (i32::from(a as i16), a >> 16);
        for (c, b) in c.iter_mut().zip(b) {
            *c += low * i32::from(b[0]) + high * i32::from(b[1]);
        }
        c
    }

    #[inline(always)]
    fn add_bf16_products(self, a: i32, b: [[i16; 2]; 16], mut c: [f32; 16]) -> [f32; 16] {
        let float = |half: i16| f32::from_bits(u32::from(half as u16) << 16);
        let (lower, upper) = (float(a as i16), float((a >> 16) as i16));
        for (c, b) in c.iter_mut().zip(b) {
            *c = lower.mul_add(float(b[0]), upper.mul_add(float(b[1]), *c));
        }
        c
    }

    #[inline(always)]
    fn add_scaled(self, sums: [i32; 16], scale: f32, scales: [f32; 16], mut c: [f32; 16]) -> [f32; 16] {
        for ((c, sum), weight_scale) in c.iter_mut().zip(sums).zip(scales) {
            *c = (sum as f32).mul_add(scale * weight_scale, *c);
        }
        c
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

#[cfg(target_arch = "x86_64")]
pub(super) use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(super) use avx512::Avx512;
