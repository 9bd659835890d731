//! Attention against its definition, and against itself: alone and shared, whole and cut short, on every instruction
//! set and any number of threads.

use proptest::prelude::*;

use super::*;
use crate::batch::MicroBatch;
use crate::model::compute::kernels::testing::{assert_same_bits, floats, in_pool};
use crate::model::shapes::HeadLayout;

const LAYOUTS: [HeadLayout; 7] = [
    HeadLayout { heads: 9, kv_heads: 3, head_dim: 64 },
    HeadLayout { heads: 4, kv_heads: 4, head_dim: 16 },
    HeadLayout { heads: 6, kv_heads: 1, head_dim: 24 },
    HeadLayout { heads: 2, kv_heads: 1, head_dim: 128 },
    HeadLayout { heads: 14, kv_heads: 2, head_dim: 33 },
    HeadLayout { heads: 3, kv_heads: 1, head_dim: 5 },
    HeadLayout { heads: 1, kv_heads: 1, head_dim: 8 },
];

fn options(layout: HeadLayout) -> AttentionOptions {
    AttentionOptions { scale: 1.0 / (layout.head_dim as f32).sqrt(), window: None, soft_cap: None }
}

/// Every kind of mask: none, windows within a block, of a block and of several, and capped scores.
fn all_options(layout: HeadLayout) -> Vec<AttentionOptions> {
    let plain = options(layout);
    let windows = [1, 7, 64, 100].map(|window| AttentionOptions { window: Some(window), ..plain });
    [plain, AttentionOptions { scale: 3.0, soft_cap: Some(0.7), ..plain }].into_iter().chain(windows).collect()
}

fn run(isa: Isa, batch: &MicroBatch, layout: HeadLayout, options: AttentionOptions, qkv: &[f32]) -> Vec<f32> {
    let mut out = vec![f32::NAN; batch.tokens.len() * layout.heads * layout.head_dim];
    attention_on(isa, qkv, Kept::default(), &AttentionPlan::new(batch, layout), options, None, &mut out);
    out
}

/// Rows from the root to `row`, inclusive.
fn path_rows(batch: &MicroBatch, row: usize) -> Vec<usize> {
    let mut segment = batch.segment_of(row as u32) as usize;
    let mut rows: Vec<usize> = (batch.segments[segment].tokens.start as usize..=row).rev().collect();
    while let Some(parent) = batch.segments[segment].parent {
        segment = parent as usize;
        rows.extend(batch.segments[segment].tokens.clone().rev().map(|r| r as usize));
    }
    rows.reverse();
    rows
}

/// Checks one row against the definition in double precision.
fn check_row(batch: &MicroBatch, layout: HeadLayout, options: AttentionOptions, qkv: &[f32], row: usize, out: &[f32]) {
    let HeadLayout { heads, kv_heads, head_dim } = layout;
    let head_of = |row: usize, head: usize| &qkv[row * layout.row() + head * head_dim..][..head_dim];
    let path = path_rows(batch, row);
    let path = &path[path.len() - path.len().min(options.window.unwrap_or(usize::MAX))..];
    let scale = f64::from(options.scale);
    for head in 0..heads {
        let query = head_of(row, head);
        let kv = head / (heads / kv_heads);
        let products = |key: usize| {
            query.iter().zip(head_of(key, heads + kv)).map(move |(&q, &k)| f64::from(q) * f64::from(k) * scale)
        };
        let scores: Vec<f64> = path
            .iter()
            .map(|&key| {
                let score: f64 = products(key).sum();
                options.soft_cap.map_or(score, |cap| f64::from(cap) * libm::tanh(score / f64::from(cap)))
            })
            .collect();
        let weights: Vec<f64> = scores.iter().map(|s| libm::exp(*s)).collect();
        let total: f64 = weights.iter().sum();
        // An error of d in a score is one of d in its weight and, through the total, one of d in the others. A dot
        // product of n terms is off by at most n half epsilons of its absolute terms; the scale, the cap and the
        // exponential add a few epsilons. All values are below 1, so the mix of n of them adds n half epsilons, and the
        // total as many.
        let magnitude = path.iter().map(|&key| products(key).map(f64::abs).sum::<f64>()).fold(0.0, f64::max);
        let bound = f64::from(f32::EPSILON) * ((head_dim as f64 + 8.0) * magnitude + path.len() as f64 + 16.0);
        for d in 0..head_dim {
            let exact = path
                .iter()
                .zip(&weights)
                .map(|(&v, w)| w * f64::from(head_of(v, heads + kv_heads + kv)[d]))
                .sum::<f64>()
                / total;
            let found = f64::from(out[row * heads * head_dim + head * head_dim + d]);
            assert!(
                (found - exact).abs() <= bound,
                "row {row} head {head} {layout:?} {options:?}: {found} for {exact}"
            );
        }
    }
}

/// A prompt with answers that branch at every kind of place, one of them twice, and a rollout that shares nothing.
fn forest() -> Vec<Vec<u32>> {
    let prompt = vec![1; 70];
    let turn = [&prompt[..], &[2; 60]].concat();
    vec![
        [&prompt[..], &[3; 5]].concat(),
        [&prompt[..], &[3; 9]].concat(),
        [&turn[..], &[4]].concat(),
        [&turn[..], &[5]].concat(),
        [&turn[..], &[6; 100]].concat(),
        turn,
        vec![7; 3],
    ]
}

#[test]
fn agrees_with_the_definition() {
    let batch = MicroBatch::pack(&forest(), true);
    for layout in LAYOUTS {
        let qkv = floats(batch.tokens.len() * layout.row(), 1);
        for options in all_options(layout) {
            let out = run(Isa::detect(), &batch, layout, options, &qkv);
            for row in (0..batch.tokens.len()).step_by(13) {
                check_row(&batch, layout, options, &qkv, row, &out);
            }
        }
    }
}

#[test]
fn every_instruction_set_and_any_number_of_threads_give_the_same_bits() {
    let batch = MicroBatch::pack(&forest(), true);
    for layout in LAYOUTS {
        let qkv = floats(batch.tokens.len() * layout.row(), 2);
        for options in all_options(layout) {
            let expected = in_pool(1, || run(Isa::detect(), &batch, layout, options, &qkv));
            for threads in 2..=3 {
                let found = in_pool(threads, || run(Isa::detect(), &batch, layout, options, &qkv));
                assert_same_bits(&found, &expected, &format!("{threads} threads, {layout:?} {options:?}"));
            }
            for isa in Isa::available() {
                let found = run(isa, &batch, layout, options, &qkv);
                assert_same_bits(&found, &expected, &format!("{} {layout:?} {options:?}", isa.name()));
            }
        }
    }
}

/// Gives each row of `to` the values of the row of `from` that holds the same position of the same rollout. Returns
/// them and the pairs of rows.
fn transplant(from: &MicroBatch, to: &MicroBatch, row: usize, qkv: &[f32]) -> (Vec<f32>, Vec<(usize, usize)>) {
    let mut moved = vec![f32::NAN; to.tokens.len() * row];
    let mut pairs = Vec::new();
    for (read, other) in from.reads.iter().zip(&to.reads) {
        let rows = path_rows(from, read.row as usize).into_iter().zip(path_rows(to, other.row as usize));
        for (source, target) in rows {
            moved[target * row..][..row].copy_from_slice(&qkv[source * row..][..row]);
            pairs.push((source, target));
        }
    }
    (moved, pairs)
}

/// Fails unless the paired rows have the same bits.
fn assert_same_rows(a: &[f32], b: &[f32], width: usize, pairs: &[(usize, usize)]) {
    for &(i, j) in pairs {
        assert_same_bits(&a[i * width..][..width], &b[j * width..][..width], &format!("rows {i} and {j}"));
    }
}

fn shared_and_alone_agree(rollouts: &[Vec<u32>], layout: HeadLayout, options: AttentionOptions) {
    let (shared, alone) = (MicroBatch::pack(rollouts, true), MicroBatch::pack(rollouts, false));
    let qkv = floats(shared.tokens.len() * layout.row(), 3);
    let (moved, pairs) = transplant(&shared, &alone, layout.row(), &qkv);
    let found = run(Isa::detect(), &shared, layout, options, &qkv);
    let expected = run(Isa::detect(), &alone, layout, options, &moved);
    assert_same_rows(&found, &expected, layout.heads * layout.head_dim, &pairs);
}

#[test]
fn a_shared_prefix_changes_no_bit() {
    for layout in LAYOUTS {
        for options in all_options(layout) {
            shared_and_alone_agree(&forest(), layout, options);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn no_forest_changes_a_bit(
        shapes in prop::collection::vec((0usize..200, 1usize..90, 0u32..3), 1..10),
        layout in 1..LAYOUTS.len(),
        window in prop::option::of(1usize..150),
    ) {
        let rollouts: Vec<_> =
            shapes.into_iter().map(|(prefix, tail, token)| [vec![9; prefix], vec![token; tail]].concat()).collect();
        shared_and_alone_agree(&rollouts, LAYOUTS[layout], AttentionOptions { window, ..options(LAYOUTS[layout]) });
    }
}

#[test]
fn what_comes_later_changes_no_bit_even_if_it_is_not_finite() {
    for layout in LAYOUTS {
        for options in all_options(layout) {
            let (long, width) = (150, layout.heads * layout.head_dim);
            let mut qkv = floats(long * layout.row(), 4);
            let first: Vec<f32> = run(Isa::detect(), &MicroBatch::pack(&[vec![1; long]], true), layout, options, &qkv);
            for short in [1, 2, 63, 64, 65, 130] {
                let cut = run(
                    Isa::detect(),
                    &MicroBatch::pack(&[vec![1; short]], true),
                    layout,
                    options,
                    &qkv[..short * layout.row()],
                );
                assert_same_bits(&cut, &first[..short * width], "cut short");
            }
            qkv[131 * layout.row()..132 * layout.row()].fill(f32::NAN);
            qkv[132 * layout.row()..133 * layout.row()].fill(f32::INFINITY);
            let poisoned = run(Isa::detect(), &MicroBatch::pack(&[vec![1; long]], true), layout, options, &qkv);
            assert_same_bits(&poisoned[..131 * width], &first[..131 * width], "poisoned later");
            assert!(poisoned[131 * width..133 * width].iter().all(|v| v.is_nan()));
        }
    }
}

#[test]
fn rows_that_are_not_read_are_left_out_and_no_bit_changes() {
    let batch = MicroBatch::pack(&forest(), true);
    let every: Vec<u32> = (0..batch.tokens.len() as u32).collect();
    let ends: Vec<u32> = batch.segments.iter().map(|segment| segment.tokens.end - 1).collect();
    for layout in LAYOUTS {
        let (qkv, width) = (floats(batch.tokens.len() * layout.row(), 5), layout.heads * layout.head_dim);
        for options in all_options(layout) {
            let whole = run(Isa::detect(), &batch, layout, options, &qkv);
            for rows in [&[][..], &[0], &[69, 70, 71], &ends, &every] {
                let plan = AttentionPlan::of_rows(&batch, &Past::default(), layout, rows.iter().copied());
                let mut out = vec![f32::NAN; rows.len() * width];
                in_pool(2, || attention_on(Isa::detect(), &qkv, Kept::default(), &plan, options, None, &mut out));
                for (&row, out) in rows.iter().zip(out.chunks_exact(width)) {
                    assert_same_bits(out, &whole[row as usize * width..][..width], &format!("row {row}"));
                }
            }
        }
    }
}

#[test]
fn an_empty_batch_has_no_rows() {
    let batch = MicroBatch::default();
    assert!(run(Isa::detect(), &batch, LAYOUTS[0], options(LAYOUTS[0]), &[]).is_empty());
}
