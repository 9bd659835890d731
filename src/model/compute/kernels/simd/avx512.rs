//! Registers of 512 bits.
#![allow(unsafe_code)]

use std::arch::x86_64::*;
use std::mem::transmute;

use half::bf16;

use super::avx2::transpose;
use super::{SQUARE, Simd, UPPER_HALF};

/// AVX-512 as every processor with it has had since Skylake, its products of small integers, which came later, and those of
/// bfloat16 numbers, which came last.
#[derive(Clone, Copy)]
pub(in crate::model::compute::kernels) struct Avx512<const VNNI: bool, const BF16: bool>(());

impl<const VNNI: bool, const BF16: bool> Avx512<VNNI, BF16> {
    /// # Safety
    /// The machine has avx512f and avx512bw, with `VNNI` avx512vnni, and with `BF16` avx512bf16.
    #[inline(always)]
    pub(in crate::model::compute::kernels) unsafe fn new() -> Self {
        Self(())
    }
}

impl<const VNNI: bool, const BF16: bool> Simd<32> for Avx512<VNNI, BF16> {
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
    fn load_bf16(self, from: &[bf16; 32]) -> [__m512; 2] {
        let from = from.as_ptr().cast::<__m256i>();
        // SAFETY: `self` proves the instructions; both halves lie within `from`, and need no alignment.
        let halves = unsafe { [_mm256_loadu_si256(from), _mm256_loadu_si256(from.add(1))] };
        // SAFETY: `self` proves the instructions.
        halves.map(|half| unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(half))) })
    }

    #[inline(always)]
    fn transpose(self, rows: [&[f32; SQUARE]; SQUARE], to: &mut [f32], stride: usize) {
        // SAFETY: `self` proves the instructions, for they come with avx512f.
        unsafe { transpose(rows, to, stride) }
    }

    #[inline(always)]
    fn prefetch<T>(self, value: &T) {
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
    fn load_byte_pairs(self, from: &[[i8; 2]; 32]) -> [__m512i; 2] {
        let from = from.as_ptr().cast::<__m256i>();
        // SAFETY: `self` proves the instructions; both halves lie within `from`, and need no alignment.
        unsafe {
            [_mm512_cvtepi8_epi16(_mm256_loadu_si256(from)), _mm512_cvtepi8_epi16(_mm256_loadu_si256(from.add(1)))]
        }
    }

    #[inline(always)]
    fn no_sums(self) -> [__m512i; 2] {
        // SAFETY: `self` proves the instructions.
        unsafe { [_mm512_setzero_si512(); 2] }
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

    #[inline(always)]
    fn add_bf16_products(self, a: i32, b: [__m512i; 2], c: [__m512; 2]) -> [__m512; 2] {
        // SAFETY: `self` proves the instructions; vectors of pairs are vectors of their bits.
        unsafe {
            let a = _mm512_set1_epi32(a);
            if BF16 {
                let pairs = |bits: __m512i| transmute::<__m512i, __m512bh>(bits);
                return [_mm512_dpbf16_ps(c[0], pairs(a), pairs(b[0])), _mm512_dpbf16_ps(c[1], pairs(a), pairs(b[1]))];
            }
            let upper = |pairs| _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(UPPER_HALF)));
            let lower = |pairs| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs));
            let c = [_mm512_fmadd_ps(upper(a), upper(b[0]), c[0]), _mm512_fmadd_ps(upper(a), upper(b[1]), c[1])];
            [_mm512_fmadd_ps(lower(a), lower(b[0]), c[0]), _mm512_fmadd_ps(lower(a), lower(b[1]), c[1])]
        }
    }

    #[inline(always)]
    fn add_scaled(self, sums: [__m512i; 2], scale: f32, scales: [__m512; 2], c: [__m512; 2]) -> [__m512; 2] {
        // SAFETY: `self` proves the instructions.
        unsafe {
            let scale = _mm512_set1_ps(scale);
            [
                _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[0]), _mm512_mul_ps(scale, scales[0]), c[0]),
                _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[1]), _mm512_mul_ps(scale, scales[1]), c[1]),
            ]
        }
    }
}
