//! The registers of a tile: one row of accumulators is two of them. Written out, for compilers do not reliably keep an
//! array of accumulators in registers; loops without that need are left to them.
//!
//! Invariant: every operation is lane by lane, and rounds as `f32::mul_add` does.
#![allow(unsafe_code)]

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

    /// Asks for the line that holds a value, which will be wanted soon.
    fn prefetch(self, value: &f32);

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

    /// `WIDTH` pairs of small integers in registers.
    type Pairs: Copy;
    /// `WIDTH` sums of their products.
    type Sums: Copy;

    fn load_pairs(self, from: &[[i16; 2]; WIDTH]) -> Self::Pairs;
    fn no_sums(self) -> Self::Sums;
    fn store_sums(self, sums: Self::Sums, to: &mut [i32; WIDTH]);
    /// Adds to each sum the products of a pair with the two halves of `a`, the lower one first. The caller sees to it that
    /// nothing overflows.
    fn add_products(self, a: i32, b: Self::Pairs, c: Self::Sums) -> Self::Sums;
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
    fn prefetch(self, _: &f32) {}

    type Pairs = [[i16; 2]; 16];
    type Sums = [i32; 16];

    #[inline(always)]
    fn load_pairs(self, from: &[[i16; 2]; 16]) -> [[i16; 2]; 16] {
        *from
    }

    #[inline(always)]
    fn no_sums(self) -> [i32; 16] {
        [0; 16]
    }

    #[inline(always)]
    fn store_sums(self, sums: [i32; 16], to: &mut [i32; 16]) {
        *to = sums;
    }

    #[inline(always)]
    fn add_products(self, a: i32, b: [[i16; 2]; 16], mut c: [i32; 16]) -> [i32; 16] {
        let (low, high) = (i32::from(a as i16), a >> 16);
        for (c, b) in c.iter_mut().zip(b) {
            *c += low * i32::from(b[0]) + high * i32::from(b[1]);
        }
        c
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{SQUARE, Simd};

    /// See [`Simd::transpose`]: pairs of values, then pairs of pairs, then halves of rows change places.
    ///
    /// # Safety
    /// The machine has avx2.
    #[inline(always)]
    unsafe fn transpose(rows: [&[f32; SQUARE]; SQUARE], to: &mut [f32], stride: usize) {
        // SAFETY: the caller has made sure of the instructions; loads are of whole rows, which need no alignment.
        let columns = unsafe {
            let mut r = [_mm256_setzero_ps(); SQUARE];
            for (r, row) in r.iter_mut().zip(rows) {
                *r = _mm256_loadu_ps(row.as_ptr());
            }
            let (p0, p1) = (_mm256_unpacklo_ps(r[0], r[1]), _mm256_unpackhi_ps(r[0], r[1]));
            let (p2, p3) = (_mm256_unpacklo_ps(r[2], r[3]), _mm256_unpackhi_ps(r[2], r[3]));
            let (p4, p5) = (_mm256_unpacklo_ps(r[4], r[5]), _mm256_unpackhi_ps(r[4], r[5]));
            let (p6, p7) = (_mm256_unpacklo_ps(r[6], r[7]), _mm256_unpackhi_ps(r[6], r[7]));
            let (q0, q1) = (_mm256_shuffle_ps::<0x44>(p0, p2), _mm256_shuffle_ps::<0xee>(p0, p2));
            let (q2, q3) = (_mm256_shuffle_ps::<0x44>(p1, p3), _mm256_shuffle_ps::<0xee>(p1, p3));
            let (q4, q5) = (_mm256_shuffle_ps::<0x44>(p4, p6), _mm256_shuffle_ps::<0xee>(p4, p6));
            let (q6, q7) = (_mm256_shuffle_ps::<0x44>(p5, p7), _mm256_shuffle_ps::<0xee>(p5, p7));
            [
                _mm256_permute2f128_ps::<0x20>(q0, q4),
                _mm256_permute2f128_ps::<0x20>(q1, q5),
                _mm256_permute2f128_ps::<0x20>(q2, q6),
                _mm256_permute2f128_ps::<0x20>(q3, q7),
                _mm256_permute2f128_ps::<0x31>(q0, q4),
                _mm256_permute2f128_ps::<0x31>(q1, q5),
                _mm256_permute2f128_ps::<0x31>(q2, q6),
                _mm256_permute2f128_ps::<0x31>(q3, q7),
            ]
        };
        for (i, column) in columns.into_iter().enumerate() {
            let to = &mut to[i * stride..][..SQUARE];
            // SAFETY: as above; the store is of a whole row.
            unsafe { _mm256_storeu_ps(to.as_mut_ptr(), column) }
        }
    }

    /// AVX2 and FMA.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Avx2(());

    impl Avx2 {
        /// # Safety
        /// The machine has avx2 and fma.
        #[inline(always)]
        pub(in super::super) unsafe fn new() -> Self {
            Self(())
        }
    }

    impl Simd<16> for Avx2 {
        type Row = [__m256; 2];

        #[inline(always)]
        fn load(self, from: &[f32; 16]) -> [__m256; 2] {
            // SAFETY: `self` proves the instructions; both halves lie within `from`, and need no alignment.
            unsafe { [_mm256_loadu_ps(from.as_ptr()), _mm256_loadu_ps(from.as_ptr().add(8))] }
        }

        #[inline(always)]
        fn store(self, row: [__m256; 2], to: &mut [f32; 16]) {
            // SAFETY: `self` proves the instructions; both halves lie within `to`, and need no alignment.
            unsafe {
                _mm256_storeu_ps(to.as_mut_ptr(), row[0]);
                _mm256_storeu_ps(to.as_mut_ptr().add(8), row[1]);
            }
        }

        #[inline(always)]
        fn mul_add(self, a: f32, b: [__m256; 2], c: [__m256; 2]) -> [__m256; 2] {
            // SAFETY: `self` proves the instructions.
            unsafe {
                let a = _mm256_set1_ps(a);
                [_mm256_fmadd_ps(a, b[0], c[0]), _mm256_fmadd_ps(a, b[1], c[1])]
            }
        }

        #[inline(always)]
        fn transpose(self, rows: [&[f32; SQUARE]; SQUARE], to: &mut [f32], stride: usize) {
            // SAFETY: `self` proves the instructions.
            unsafe { transpose(rows, to, stride) }
        }

        #[inline(always)]
        fn prefetch(self, value: &f32) {
            // SAFETY: every x86-64 processor has the instruction, which changes nothing that a program could see.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(std::ptr::from_ref(value).cast()) }
        }

        type Pairs = [__m256i; 2];
        type Sums = [__m256i; 2];

        #[inline(always)]
        fn load_pairs(self, from: &[[i16; 2]; 16]) -> [__m256i; 2] {
            let from = from.as_ptr().cast::<__m256i>();
            // SAFETY: `self` proves the instructions; both halves lie within `from`, and need no alignment.
            unsafe { [_mm256_loadu_si256(from), _mm256_loadu_si256(from.add(1))] }
        }

        #[inline(always)]
        fn no_sums(self) -> [__m256i; 2] {
            // SAFETY: `self` proves the instructions.
            unsafe { [_mm256_setzero_si256(); 2] }
        }

        #[inline(always)]
        fn store_sums(self, sums: [__m256i; 2], to: &mut [i32; 16]) {
            let to = to.as_mut_ptr().cast::<__m256i>();
            // SAFETY: `self` proves the instructions; both halves lie within `to`, and need no alignment.
            unsafe {
                _mm256_storeu_si256(to, sums[0]);
                _mm256_storeu_si256(to.add(1), sums[1]);
            }
        }

        #[inline(always)]
        fn add_products(self, a: i32, b: [__m256i; 2], c: [__m256i; 2]) -> [__m256i; 2] {
            // SAFETY: `self` proves the instructions.
            unsafe {
                let a = _mm256_set1_epi32(a);
                [_mm256_add_epi32(c[0], _mm256_madd_epi16(a, b[0])), _mm256_add_epi32(c[1], _mm256_madd_epi16(a, b[1]))]
            }
        }
    }

    /// AVX-512 as every processor with it has had since Skylake, and its products of small integers, which came later.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Avx512<const VNNI: bool>(());

    impl<const VNNI: bool> Avx512<VNNI> {
        /// # Safety
        /// The machine has avx512f and avx512bw, and with `VNNI` avx512vnni.
        #[inline(always)]
        pub(in super::super) unsafe fn new() -> Self {
            Self(())
        }
    }

    impl<const VNNI: bool> Simd<32> for Avx512<VNNI> {
        type Row = [__m512; 2];

        #[inline(always)]
        fn load(self, from: &[f32; 32]) -> [__m512; 2] {
            // SAFETY: `self` proves the instructions; both halves lie within `from`, and need no alignment.
            unsafe { [_mm512_loadu_ps(from.as_ptr()), _mm512_loadu_ps(from.as_ptr().add(16))] }
        }

        #[inline(always)]
        fn store(self, row: [__m512; 2], to: &mut [f32; 32]) {
            // SAFETY: `self` proves the instructions; both halves lie within `to`, and need no alignment.
            unsafe {
                _mm512_storeu_ps(to.as_mut_ptr(), row[0]);
                _mm512_storeu_ps(to.as_mut_ptr().add(16), row[1]);
            }
        }

        #[inline(always)]
        fn mul_add(self, a: f32, b: [__m512; 2], c: [__m512; 2]) -> [__m512; 2] {
            // SAFETY: `self` proves the instructions.
            unsafe {
                let a = _mm512_set1_ps(a);
                [_mm512_fmadd_ps(a, b[0], c[0]), _mm512_fmadd_ps(a, b[1], c[1])]
            }
        }

        #[inline(always)]
        fn transpose(self, rows: [&[f32; SQUARE]; SQUARE], to: &mut [f32], stride: usize) {
            // SAFETY: `self` proves the instructions, for they come with avx512f.
            unsafe { transpose(rows, to, stride) }
        }

        #[inline(always)]
        fn prefetch(self, value: &f32) {
            // SAFETY: every x86-64 processor has the instruction, which changes nothing that a program could see.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(std::ptr::from_ref(value).cast()) }
        }

        type Pairs = [__m512i; 2];
        type Sums = [__m512i; 2];

        #[inline(always)]
        fn load_pairs(self, from: &[[i16; 2]; 32]) -> [__m512i; 2] {
            let from = from.as_ptr().cast::<__m512i>();
            // SAFETY: `self` proves the instructions; both halves lie within `from`, and need no alignment.
            unsafe { [_mm512_loadu_si512(from), _mm512_loadu_si512(from.add(1))] }
        }

        #[inline(always)]
        fn no_sums(self) -> [__m512i; 2] {
            // SAFETY: `self` proves the instructions.
            unsafe { [_mm512_setzero_si512(); 2] }
        }

        #[inline(always)]
        fn store_sums(self, sums: [__m512i; 2], to: &mut [i32; 32]) {
            let to = to.as_mut_ptr().cast::<__m512i>();
            // SAFETY: `self` proves the instructions; both halves lie within `to`, and need no alignment.
            unsafe {
                _mm512_storeu_si512(to, sums[0]);
                _mm512_storeu_si512(to.add(1), sums[1]);
            }
        }

        #[inline(always)]
        fn add_products(self, a: i32, b: [__m512i; 2], c: [__m512i; 2]) -> [__m512i; 2] {
            // SAFETY: `self` proves the instructions.
            unsafe {
                let a = _mm512_set1_epi32(a);
                if VNNI {
                    return [_mm512_dpwssd_epi32(c[0], a, b[0]), _mm512_dpwssd_epi32(c[1], a, b[1])];
                }
                [_mm512_add_epi32(c[0], _mm512_madd_epi16(a, b[0])), _mm512_add_epi32(c[1], _mm512_madd_epi16(a, b[1]))]
            }
        }
    }
}
