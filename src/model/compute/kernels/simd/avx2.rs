//! Registers of 256 bits.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use half::bf16;

use super::{SQUARE, Simd, UPPER_HALF};

/// See [`Simd::transpose`]: pairs of values, then pairs of pairs, then halves of rows change places.
///
/// # Safety
/// The machine has avx2.
#[inline(always)]
pub(super) unsafe fn transpose(rows: [&[f32; SQUARE]; SQUARE], to: &mut [f32], stride: usize) {
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
pub(in crate::model::compute::kernels) struct Avx2(());

impl Avx2 {
    /// # Safety
    /// The machine has avx2 and fma.
    #[inline(always)]
    pub(in crate::model::compute::kernels) unsafe fn new() -> Self {
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
    fn load_bf16(self, from: &[bf16; 16]) -> [__m256; 2] {
        let from = from.as_ptr().cast::<__m128i>();
        // SAFETY: `self` proves the instructions; both halves lie within `from`, and need no alignment.
        let halves = unsafe { [_mm_loadu_si128(from), _mm_loadu_si128(from.add(1))] };
        // SAFETY: `self` proves the instructions.
        halves.map(|half| unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(half))) })
    }

    #[inline(always)]
    fn transpose(self, rows: [&[f32; SQUARE]; SQUARE], to: &mut [f32], stride: usize) {
        // SAFETY: `self` proves the instructions.
        unsafe { transpose(rows, to, stride) }
    }

    #[inline(always)]
    fn prefetch<T>(self, value: &T) {
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
    fn load_byte_pairs(self, from: &[[i8; 2]; 16]) -> [__m256i; 2] {
        let from = from.as_ptr().cast::<__m128i>();
        // SAFETY: `self` proves the instructions; both halves lie within `from`, and need no alignment.
        unsafe { [_mm256_cvtepi8_epi16(_mm_loadu_si128(from)), _mm256_cvtepi8_epi16(_mm_loadu_si128(from.add(1)))] }
    }

    #[inline(always)]
    fn no_sums(self) -> [__m256i; 2] {
        // SAFETY: `self` proves the instructions.
        unsafe { [_mm256_setzero_si256(); 2] }
    }

    #[inline(always)]
    fn add_products(self, a: i32, b: [__m256i; 2], c: [__m256i; 2]) -> [__m256i; 2] {
        // SAFETY: `self` proves the instructions.
        unsafe {
            let a = _mm256_set1_epi32(a);
            [_mm256_add_epi32(c[0], _mm256_madd_epi16(a, b[0])), _mm256_add_epi32(c[1], _mm256_madd_epi16(a, b[1]))]
        }
    }

    #[inline(always)]
    fn add_bf16_products(self, a: i32, b: [__m256i; 2], c: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: `self` proves the instructions.
        unsafe {
            let upper = |pairs| _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32(UPPER_HALF)));
            let lower = |pairs| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(pairs));
            let a = _mm256_set1_epi32(a);
            let c = [_mm256_fmadd_ps(upper(a), upper(b[0]), c[0]), _mm256_fmadd_ps(upper(a), upper(b[1]), c[1])];
            [_mm256_fmadd_ps(lower(a), lower(b[0]), c[0]), _mm256_fmadd_ps(lower(a), lower(b[1]), c[1])]
        }
    }

    #[inline(always)]
    fn add_scaled(self, sums: [__m256i; 2], scale: f32, scales: [__m256; 2], c: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: `self` proves the instructions.
        unsafe {
            let scale = _mm256_set1_ps(scale);
            [
                _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums[0]), _mm256_mul_ps(scale, scales[0]), c[0]),
                _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums[1]), _mm256_mul_ps(scale, scales[1]), c[1]),
            ]
        }
    }
}
