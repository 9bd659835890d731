//! Weights of one byte: of each 256 weights of an output the largest becomes 127, and of each 256 activations 32,767.

use super::integer::{IntegerWeight, Integers};
use super::panel::Properties;
use super::simd::Simd;

/// What is to be known of it.
pub(super) const PROPERTIES: Properties = Properties {
    name: "int8",
    version: "int8",
    bytes: 1,
    bits: 7,
    rounds_by_rank: true,
    pack: |rows, width| Ok(Box::new(Integers::<i8>::pack(rows, width)?)),
    unpack: |parts, n, k, width| Some(Box::new(Integers::<i8>::unpack(parts, n, k, width)?)),
};

impl IntegerWeight for i8 {
    const LIMIT: i32 = i8::MAX as i32;
    const GROUP: usize = 256;

    #[inline(always)]
    fn narrow(whole: i32) -> i8 {
        whole as i8
    }

    #[inline(always)]
    fn load<const WIDTH: usize, S: Simd<WIDTH>>(simd: S, from: &[[i8; 2]; WIDTH]) -> S::Pairs {
        simd.load_byte_pairs(from)
    }
}
