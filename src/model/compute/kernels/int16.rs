//! Weights of 12 bits and a sign in two bytes: of each 64 weights of an output the largest becomes 4,095, and of each 64
//! activations 8,194. As fast as one byte, since products are of 16 bits there too, and sixteen times finer or more.

use super::integer::{IntegerWeight, Integers};
use super::panel::Properties;
use super::simd::Simd;

/// What is to be known of it.
pub(super) const PROPERTIES: Properties = Properties {
    name: "int16",
    version: "int16",
    bytes: 2,
    bits: 12,
    rounds_by_rank: true,
    pack: |rows, width| Ok(Box::new(Integers::<i16>::pack(rows, width)?)),
    unpack: |parts, n, k, width| Some(Box::new(Integers::<i16>::unpack(parts, n, k, width)?)),
};

impl IntegerWeight for i16 {
    const LIMIT: i32 = (1 << 12) - 1;
    const GROUP: usize = 64;

    #[inline(always)]
    fn narrow(whole: i32) -> i16 {
        whole as i16
    }

    #[inline(always)]
    fn load<const WIDTH: usize, S: Simd<WIDTH>>(simd: S, from: &[[i16; 2]; WIDTH]) -> S::Pairs {
        simd.load_pairs(from)
    }
}
