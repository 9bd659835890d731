//! Rotary position embedding, halves paired as in Hugging Face checkpoints.

use rayon::prelude::*;

use super::isa::{Isa, Task};
use super::simd::Simd;
use crate::model::shapes::HeadLayout;

/// Rows per piece of parallel work.
const ROWS: usize = 32;

/// Rotates the query and key heads of `qkv` in place. Within the first `2 r` values of a head, value `i < r` is paired
/// with value `i + r`: `(a, b)` becomes `(a cos - b sin, b cos + a sin)`. `cos` and `sin` are `[t, r]`, one row per row
/// of `qkv`; `2 r` may be less than the head.
///
/// # Panics
/// If the lengths do not agree or `2 r` is more than the head.
pub fn rotary(qkv: &mut [f32], layout: HeadLayout, cos: &[f32], sin: &[f32]) {
    rotary_on(Isa::current(), qkv, layout, cos, sin);
}

fn rotary_on(isa: Isa, qkv: &mut [f32], layout: HeadLayout, cos: &[f32], sin: &[f32]) {
    let t = qkv.len() / layout.row();
    if t == 0 {
        return;
    }
    let r = cos.len() / t;
    assert_eq!(qkv.len(), t * layout.row(), "the rows hold queries, keys and values");
    assert!(cos.len() == t * r && sin.len() == t * r, "cosines and sines have one row per row");
    assert!(2 * r <= layout.head_dim, "{r} pairs are more than a head of {} has", layout.head_dim);
    if r == 0 {
        return;
    }
    qkv.par_chunks_mut(ROWS * layout.row())
        .zip(cos.par_chunks(ROWS * r).zip(sin.par_chunks(ROWS * r)))
        .for_each(|(qkv, (cos, sin))| isa.run(Rotary { qkv, layout, cos, sin, r }));
}

struct Rotary<'a> {
    qkv: &'a mut [f32],
    layout: HeadLayout,
    cos: &'a [f32],
    sin: &'a [f32],
    r: usize,
}

impl Task for Rotary<'_> {
    #[inline(always)]
    fn run<const WIDTH: usize, S: Simd<WIDTH>>(self, _: S) {
        let HeadLayout { heads, kv_heads, head_dim } = self.layout;
        let tables = self.cos.chunks_exact(self.r).zip(self.sin.chunks_exact(self.r));
        for (row, (cos, sin)) in self.qkv.chunks_exact_mut(self.layout.row()).zip(tables) {
            for head in row.chunks_exact_mut(head_dim).take(heads + kv_heads) {
                let (first, second) = head[..2 * self.r].split_at_mut(self.r);
                for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
                    (*a, *b) = (a.mul_add(*cos, -(*b * sin)), b.mul_add(*cos, *a * sin));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_same_bits, floats, in_pool};
    use super::*;

    const LAYOUT: HeadLayout = HeadLayout { heads: 3, kv_heads: 1, head_dim: 10 };

    #[test]
    fn rotates_pairs_of_queries_and_keys_only() {
        // An angle of 90 degrees sends (a, b) to (-b, a).
        let before: Vec<f32> = (0..LAYOUT.row()).map(|i| i as f32).collect();
        let mut qkv = before.clone();
        rotary(&mut qkv, LAYOUT, &[0.0; 3], &[1.0; 3]);
        for (head, (before, after)) in before.chunks_exact(10).zip(qkv.chunks_exact(10)).enumerate() {
            let turned: Vec<f32> = before[3..6].iter().map(|b| -b).chain(before[..3].iter().copied()).collect();
            let expected = if head < 4 { turned } else { before[..6].to_vec() };
            assert_eq!(after[..6], expected);
            assert_eq!(after[6..], before[6..]);
        }
    }

    #[test]
    fn a_row_does_not_depend_on_batch_threads_or_instructions() {
        let (t, r) = (75, 5);
        let (qkv, cos, sin) = (floats(t * LAYOUT.row(), 1), floats(t * r, 2), floats(t * r, 3));
        let mut rows = qkv.clone();
        for (i, row) in rows.chunks_exact_mut(LAYOUT.row()).enumerate() {
            rotary(row, LAYOUT, &cos[i * r..(i + 1) * r], &sin[i * r..(i + 1) * r]);
        }
        for isa in Isa::available() {
            for threads in 1..=3 {
                let mut out = qkv.clone();
                in_pool(threads, || rotary_on(isa, &mut out, LAYOUT, &cos, &sin));
                assert_same_bits(&out, &rows, isa.name());
            }
        }
    }
}
