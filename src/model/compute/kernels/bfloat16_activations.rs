//! Weights in bfloat16, two bytes each, and activations that are rounded to bfloat16 where they meet weights: what processors
//! multiply twice as fast as float32.
//!
//! Invariant: a dot product is one chain of float32 multiply-adds in ascending order of its index, as float32's is, over numbers
//! rounded to bfloat16. AVX-512's `vdpbf16ps` is two links of that chain, first the upper halves' and then the lower halves', but
//! for one thing: it takes subnormal numbers for zero, and makes zeros of them. So there are none: what is below
//! [`LEAST`](super::bf16_rounding::LEAST) in magnitude is rounded to zero. Then every product is a whole multiple of 2^-124,
//! every sum of such multiples is one, too, and none of them is subnormal but zero. Hence the same bits with that instruction and without.

use rayon::prelude::*;

use super::aligned::Aligned;
use super::bf16_rounding::rounded;
use super::float::{self, FloatWeight};
use super::panel::{BlockTask, Dimensions, Panels, Properties, Rows};
use super::simd::Simd;
use super::stored::Stored;
use crate::model::error::ModelError;

/// What is to be known of it.
pub(super) const PROPERTIES: Properties = Properties {
    name: "bf16-activations",
    version: "bf16-activations",
    bytes: 2,
    bits: 8,
    rounds_by_rank: false,
    pack: |rows, width| Ok(Box::new(Pairs::pack(rows, width)?)),
    unpack: |parts, n, k, width| Some(Box::new(Pairs(parts.take(n.next_multiple_of(width) * k.div_ceil(2))?))),
};

/// Pairs whose rounding goes together, in registers.
const STRETCH: usize = 64;

/// `[panel, k / 2, width]`, with a zero past an odd `k`. Of a pair the second weight comes first: so the first one is the upper
/// half of the word that the instruction reads.
#[derive(Debug)]
struct Pairs(Stored<[i16; 2]>);

impl Pairs {
    fn pack(rows: &Rows, width: usize) -> Result<Self, ModelError> {
        let k = rows.k;
        let each = k.div_ceil(2) * width;
        let mut panels = Aligned::zeros(rows.n.div_ceil(width) * each);
        rows.fill(width, panels.par_chunks_mut(each), |panel: &mut [[i16; 2]], rows| {
            for (pairs, i) in panel.chunks_exact_mut(width).zip((0..k).step_by(2)) {
                for (pair, row) in pairs.iter_mut().zip(rows.chunks_exact(k)) {
                    let upper_half = |weight: &f32| (rounded(*weight) >> 16) as i16;
                    *pair = [row.get(i + 1).map_or(0, upper_half), upper_half(&row[i])];
                }
            }
        })?;
        Ok(Self(panels.into()))
    }
}

impl Panels for Pairs {
    fn compute(&self, dimensions: Dimensions, task: BlockTask) {
        float::compute(&self.0, dimensions, task);
    }

    fn parts(&self) -> Vec<&[u8]> {
        vec![self.0.bytes()]
    }
}

impl FloatWeight for [i16; 2] {
    /// The first one in the upper half.
    type Inputs = i32;
    const COUNT: usize = 2;
    type Registers<const WIDTH: usize, S: Simd<WIDTH>> = S::Pairs;

    #[inline(always)]
    fn lay_out<const HEIGHT: usize>(x: &[f32], row: usize, tile: &mut [[i32; HEIGHT]]) {
        let mut packed = [0; STRETCH];
        for (tile, x) in tile.chunks_mut(STRETCH).zip(x.chunks(2 * STRETCH)) {
            let (pairs, last) = x.as_chunks::<2>();
            for (packed, [first, second]) in packed.iter_mut().zip(pairs) {
                *packed = (rounded(*first) | rounded(*second) >> 16) as i32;
            }
            if let [first] = last {
                packed[pairs.len()] = rounded(*first) as i32;
            }
            for (tile, packed) in tile.iter_mut().zip(&packed[..x.len().div_ceil(2)]) {
                tile[row] = *packed;
            }
        }
    }

    #[inline(always)]
    fn load<const WIDTH: usize, S: Simd<WIDTH>>(simd: S, from: &[[i16; 2]; WIDTH]) -> S::Pairs {
        simd.load_pairs(from)
    }

    #[inline(always)]
    fn add_products<const WIDTH: usize, S: Simd<WIDTH>>(
        simd: S,
        inputs: i32,
        weights: S::Pairs,
        sums: S::Row,
    ) -> S::Row {
        simd.add_bf16_products(inputs, weights, sums)
    }
}

#[cfg(test)]
mod tests;
