//! Keys of a block as the scores want them: the same dimension of neighbouring keys side by side.
//!
//! Invariant: every value is copied as it is; nothing is computed.

use super::BLOCK;
use crate::model::compute::kernels::isa::{Isa, Task};
use crate::model::compute::kernels::simd::{SQUARE, Simd};

/// Packs `keys`, the first of a block, as `[panel, head_dim, width]`. Places behind them keep what they held.
pub(super) fn pack_keys(isa: Isa, keys: &[&[f32]], packed: &mut [f32]) {
    debug_assert!(keys.len() <= BLOCK);
    isa.run(PackKeys { keys, packed });
}

struct PackKeys<'a> {
    keys: &'a [&'a [f32]],
    packed: &'a mut [f32],
}

impl Task for PackKeys<'_> {
    #[inline(always)]
    fn run<const WIDTH: usize, S: Simd<WIDTH>>(self, simd: S) {
        let Some(head_dim) = self.keys.first().map(|key| key.len()) else { return };
        let (squares, rest) = self.keys.as_chunks::<SQUARE>();
        for (i, keys) in squares.iter().enumerate() {
            let at = i * SQUARE;
            let panel = &mut self.packed[at / WIDTH * head_dim * WIDTH..][..head_dim * WIDTH];
            let mut d = 0;
            while d + SQUARE <= head_dim {
                let mut rows = [&[0.0; SQUARE]; SQUARE];
                for (row, key) in rows.iter_mut().zip(keys) {
                    *row = key[d..].first_chunk().expect("`d` stops a square before the end");
                }
                simd.transpose(rows, &mut panel[d * WIDTH + at % WIDTH..], WIDTH);
                d += SQUARE;
            }
            for (j, key) in keys.iter().enumerate() {
                one(&key[d..], &mut panel[d * WIDTH..], at % WIDTH + j, WIDTH);
            }
        }
        for (at, key) in (squares.len() * SQUARE..).zip(rest) {
            let panel = &mut self.packed[at / WIDTH * head_dim * WIDTH..][..head_dim * WIDTH];
            one(key, panel, at % WIDTH, WIDTH);
        }
    }
}

/// Puts the values of one key `width` apart, from `at` on.
#[inline(always)]
fn one(key: &[f32], panel: &mut [f32], at: usize, width: usize) {
    for (row, value) in panel.chunks_exact_mut(width).zip(key) {
        row[at] = *value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::compute::kernels::testing::floats;

    #[test]
    fn every_value_is_in_its_place_and_nothing_else_is_touched() {
        for isa in Isa::available() {
            for head_dim in [5, 8, 33, 64] {
                for count in [0, 1, 7, 8, 20, 33, BLOCK] {
                    let values = floats(count * head_dim, 3);
                    let keys: Vec<&[f32]> = values.chunks(head_dim).collect();
                    let mut packed = vec![f32::INFINITY; BLOCK * head_dim];
                    pack_keys(isa, &keys, &mut packed);
                    let width = isa.width();
                    for key in 0..BLOCK {
                        for d in 0..head_dim {
                            let found = packed[(key / width * head_dim + d) * width + key % width];
                            let expected = keys.get(key).map_or(f32::INFINITY, |key| key[d]);
                            assert!(found == expected, "{} {head_dim}, {count} keys: {key} {d}", isa.name());
                        }
                    }
                }
            }
        }
    }
}
