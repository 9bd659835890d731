//! Attention both ways and of relative positions against its definition, and against itself: alone and together, on every
//! instruction set and any number of threads.

use super::*;
use crate::batch::MicroBatch;
use crate::model::compute::kernels::matrix::PackedMatrix;
use crate::model::compute::kernels::testing::{assert_same_bits, floats, in_pool};
use crate::model::compute::kernels::weight_type::WeightType;
use crate::model::shapes::HeadLayout;

const LAYOUT: HeadLayout = HeadLayout { heads: 3, kv_heads: 3, head_dim: 20 };
const SHAPES: [RelativeShape; 3] = [
    RelativeShape { span: 8, buckets: 8, furthest: 40 },
    RelativeShape { span: 30, buckets: 0, furthest: 30 },
    RelativeShape { span: 16, buckets: 16, furthest: 512 },
];

/// Keys and queries of buckets, for each head.
fn matrices(shape: RelativeShape, seed: u64) -> Vec<Vec<f32>> {
    let len = 2 * shape.span * LAYOUT.head_dim;
    (0..LAYOUT.heads as u64).map(|head| floats(len, seed + head)).collect()
}

fn relative(isa: Isa, shape: RelativeShape, of_queries: bool, of_keys: bool) -> Relative {
    let pack = |wanted: bool, seed: u64| {
        let all = if wanted { matrices(shape, seed) } else { Vec::new() };
        all.iter().map(|m| PackedMatrix::pack_for(isa, WeightType::F32, &[m], LAYOUT.head_dim)).collect()
    };
    Relative::new(shape, pack(of_queries, 100), pack(of_keys, 200))
}

fn options(window: Option<usize>) -> AttentionOptions {
    AttentionOptions { scale: 0.3, window, soft_cap: None }
}

/// Sequences over one block of keys and several, and over several bundles of rows.
fn sequences() -> Vec<Vec<u32>> {
    [1, 64, 65, 3, 450, 130].map(|len| vec![len as u32; len]).to_vec()
}

/// One value of the definition, in double precision, and what it may be off by.
fn exact(
    qkv: &[f32],
    rows: std::ops::Range<usize>,
    row: usize,
    head: usize,
    d: usize,
    window: Option<usize>,
    relative: Option<RelativeShape>,
) -> (f64, f64) {
    let head_of = |row: usize, head: usize| &qkv[row * LAYOUT.row() + head * LAYOUT.head_dim..][..LAYOUT.head_dim];
    let dot = |a: &[f32], b: &[f32]| -> (f64, f64) {
        let products = a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b));
        (products.clone().sum(), products.map(f64::abs).sum())
    };
    let seen: Vec<usize> = rows.filter(|key| window.is_none_or(|window| key.abs_diff(row) < window)).collect();
    let (mut weights, mut magnitude) = (Vec::new(), 0.0f64);
    for &key in &seen {
        let (query, own) = (head_of(row, head), head_of(key, LAYOUT.heads + head));
        let mut terms = vec![dot(query, own)];
        if let Some(shape) = relative {
            let at = shape.bucket(row as isize - key as isize) as usize * LAYOUT.head_dim;
            let [keys, queries] = [100, 200].map(|seed| matrices(shape, seed)[head][at..][..LAYOUT.head_dim].to_vec());
            terms.extend([dot(query, &keys), dot(own, &queries)]);
        }
        weights.push(libm::exp(0.3 * terms.iter().map(|term| term.0).sum::<f64>()));
        magnitude = magnitude.max(0.3 * terms.iter().map(|term| term.1).sum::<f64>());
    }
    let total: f64 = weights.iter().sum();
    let value = |key: usize| f64::from(head_of(key, 2 * LAYOUT.heads + head)[d]);
    // As for causal attention: dot products of `head_dim` terms, three of them, and a mix of as many values as are seen.
    let bound = f64::from(f32::EPSILON) * ((LAYOUT.head_dim as f64 + 12.0) * magnitude + seen.len() as f64 + 16.0);
    (seen.iter().zip(&weights).map(|(key, weight)| weight * value(*key)).sum::<f64>() / total, bound)
}

fn attend(isa: Isa, batch: &MicroBatch, qkv: &[f32], window: Option<usize>, relative: Option<&Relative>) -> Vec<f32> {
    let mut out = vec![f32::NAN; batch.tokens.len() * LAYOUT.heads * LAYOUT.head_dim];
    let plan = AttentionPlan::both_ways(batch, LAYOUT, 0..batch.tokens.len() as u32);
    attention_on(isa, qkv, Kept::default(), &plan, options(window), relative, &mut out);
    out
}

#[test]
fn agrees_with_the_definition() {
    let batch = MicroBatch::pack(&sequences(), false);
    let qkv = floats(batch.tokens.len() * LAYOUT.row(), 1);
    let forms = [(None, None), (Some(1), None), (Some(9), None), (Some(70), None)];
    let forms = forms.into_iter().chain(SHAPES.map(|shape| (None, Some(shape))));
    for (window, shape) in forms {
        let isa = Isa::detect();
        let relative = shape.map(|shape| relative(isa, shape, true, true));
        let out = attend(isa, &batch, &qkv, window, relative.as_ref());
        for segment in &batch.segments {
            let rows = segment.tokens.start as usize..segment.tokens.end as usize;
            for row in rows.clone().step_by(37).chain([rows.end - 1]) {
                for (head, d) in [(0, 0), (2, 19)] {
                    let (expected, bound) = exact(&qkv, rows.clone(), row, head, d, window, shape);
                    let found = f64::from(out[(row * LAYOUT.heads + head) * LAYOUT.head_dim + d]);
                    assert!(
                        (found - expected).abs() <= bound,
                        "row {row}, {window:?} {shape:?}: {found} for {expected}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_sequence_does_not_depend_on_batch_threads_or_instructions() {
    let sequences = sequences();
    let batch = MicroBatch::pack(&sequences, false);
    let qkv = floats(batch.tokens.len() * LAYOUT.row(), 1);
    for (window, shape) in [(None, None), (Some(20), None), (None, Some(SHAPES[0]))] {
        let with = |isa: Isa| shape.map(|shape| relative(isa, shape, true, true));
        let portable = Isa::available()[0];
        let alone = |segment: &crate::batch::Segment| {
            let rows = segment.tokens.start as usize..segment.tokens.end as usize;
            let own = MicroBatch::pack(&[vec![0; rows.len()]], false);
            let qkv = &qkv[rows.start * LAYOUT.row()..rows.end * LAYOUT.row()];
            attend(portable, &own, qkv, window, with(portable).as_ref())
        };
        let expected = batch.segments.iter().flat_map(alone).collect::<Vec<_>>();
        for isa in Isa::available() {
            let relative = with(isa);
            for threads in 1..=2 {
                let found = in_pool(threads, || attend(isa, &batch, &qkv, window, relative.as_ref()));
                assert_same_bits(&found, &expected, isa.name());
            }
        }
    }
}

/// Queries alone, keys alone, and neither.
#[test]
fn terms_are_added_as_they_are_wanted() {
    let (isa, shape) = (Isa::detect(), SHAPES[0]);
    let batch = MicroBatch::pack(&[vec![0; 80]], false);
    let qkv = floats(80 * LAYOUT.row(), 1);
    let with = |queries, keys| attend(isa, &batch, &qkv, None, Some(&relative(isa, shape, queries, keys)));
    let plain = attend(isa, &batch, &qkv, None, None);
    assert_same_bits(&with(false, false), &plain, "neither");
    let forms = [with(true, true), with(true, false), with(false, true), plain];
    for (i, one) in forms.iter().enumerate() {
        assert!(forms[i + 1..].iter().all(|other| one != other), "form {i} is another's");
    }
}

/// `make_log_bucket_position` of transformers 5.23: of distances up to 40 in 8 buckets, and sums over those up to 2000 in 256, each
/// times its place.
#[test]
fn distances_fall_into_the_buckets_of_transformers() {
    let shape = RelativeShape { span: 16, buckets: 8, furthest: 40 };
    let few: Vec<u32> = (0..=40).map(|distance| shape.bucket(distance) - 16).collect();
    let runs = [(0, 1), (1, 1), (2, 1), (3, 1), (4, 1), (5, 4), (6, 10), (7, 21), (8, 1)];
    let expected: Vec<u32> = runs.iter().flat_map(|(bucket, times)| vec![*bucket; *times]).collect();
    assert_eq!(few, expected);
    let shape = RelativeShape { span: 256, buckets: 256, furthest: 512 };
    let sum = |sign: isize| -> u64 {
        (0..2000).map(|distance| u64::from(shape.bucket(sign * distance)) * (distance as u64 + 1)).sum()
    };
    assert_eq!((sum(1), sum(-1)), (1016566870, 6075458));
}
