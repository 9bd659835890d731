//! Tests of one-byte weights, against sums in integers that nothing overflows.

use super::*;
use crate::model::compute::kernels::isa::Isa;
use crate::model::compute::kernels::linear::{linear, linear_continue};
use crate::model::compute::kernels::matrix::PackedMatrix;
use crate::model::compute::kernels::testing::{assert_same_bits, floats, in_pool};
use crate::model::compute::kernels::weight_type::WeightType;

const SHAPES: [(usize, usize, usize); 7] =
    [(1, 1, 1), (2, 17, 3), (7, 33, 64), (13, 16, 577), (97, 65, 40), (5, 100, 1536), (205, 130, 7)];

fn int8() -> WeightType {
    WeightType::named("int8").unwrap()
}

/// The definition, in integers that nothing overflows.
fn reference(x: &[f32], w: &[f32], k: usize) -> Vec<f32> {
    let whole = |values: &[f32], limit: f32| {
        let (inverse, scale) = row_scales(values, limit);
        let whole: Vec<i64> = values.iter().map(|v| (v * inverse).round_ties_even() as i64).collect();
        assert!(whole.iter().all(|v| v.unsigned_abs() <= limit as u64));
        (whole, scale)
    };
    let w: Vec<_> = w.chunks_exact(k).map(|w| whole(w, 127.0)).collect();
    let x = x.chunks_exact(k).map(|x| whole(x, activation_limit(k)));
    x.flat_map(|(x, scale_x)| {
        let dot = |w: &[i64]| -> i32 { x.iter().zip(w).map(|(x, w)| x * w).sum::<i64>().try_into().unwrap() };
        w.iter().map(|(w, scale_w)| dot(w) as f32 * (scale_x * scale_w)).collect::<Vec<_>>()
    })
    .collect()
}

#[test]
fn every_instruction_set_gives_the_bits_of_the_definition() {
    for (t, n, k) in SHAPES {
        let (x, w, b, r) = (floats(t * k, 1), floats(n * k, 2), floats(n, 3), floats(t * n, 4));
        let mut expected = reference(&x, &w, k);
        let addends = Addends { bias: Some(&b), residual: Some(&r) };
        for (i, y) in expected.iter_mut().enumerate() {
            *y = 0.0 + *y + b[i % n] + r[i];
        }
        for isa in Isa::available() {
            let packed = PackedMatrix::pack_for(isa, int8(), &[&w], k);
            for threads in 1..=2 {
                let mut y = vec![f32::NAN; t * n];
                in_pool(threads, || linear(&x, &packed, addends, &mut y));
                assert_same_bits(&y, &expected, isa.name());
            }
        }
    }
}

/// Each factor is off by half a step of its scale at most.
#[test]
fn sums_are_as_close_as_their_roundings() {
    for (t, n, k) in SHAPES {
        let (x, w) = (floats(t * k, 5), floats(n * k, 6));
        let packed = PackedMatrix::pack_rows(int8(), &[&w], k);
        let mut y = vec![0.0; t * n];
        linear(&x, &packed, Addends::NONE, &mut y);
        let largest = |v: &[f32]| v.iter().fold(0.0f64, |m, v| m.max(f64::from(v.abs())));
        for (i, y) in y.iter().enumerate() {
            let (x, w) = (&x[i / n * k..][..k], &w[i % n * k..][..k]);
            let exact: f64 = x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
            let (step_x, step_w) = (largest(x) / f64::from(activation_limit(k)), largest(w) / 127.0);
            let off = |x: &f32, w: &f32| f64::from(w.abs()) * step_x / 2.0 + f64::from(x.abs()) * step_w / 2.0;
            let bound: f64 = x.iter().zip(w).map(|(x, w)| off(x, w) + step_x * step_w / 4.0).sum();
            // And the float32 operations on the way.
            let bound = bound * (1.0 + 1e-4) + exact.abs() * 1e-6;
            assert!((f64::from(*y) - exact).abs() <= bound, "{y} instead of {exact}, within {bound}");
        }
    }
}

#[test]
fn the_largest_values_of_all_do_not_overflow() {
    let k = 9001;
    for sign in [1.0f32, -1.0] {
        let packed = PackedMatrix::pack_rows(int8(), &[&vec![sign * 3e38; k]], k);
        let mut y = [0.0];
        linear(&vec![1e-5; k], &packed, Addends::NONE, &mut y);
        let exact = f64::from(sign) * 3e33 * k as f64;
        assert!((f64::from(y[0]) / exact - 1.0).abs() < 1e-6, "{} instead of {exact}", y[0]);
    }
}

#[test]
fn what_is_not_finite_spoils_its_own_row_alone() {
    let (k, n) = (20, 18);
    let packed = PackedMatrix::pack_rows(int8(), &[&floats(n * k, 7)], k);
    let clean = floats(3 * k, 8);
    let mut expected = vec![0.0; 3 * n];
    linear(&clean, &packed, Addends::NONE, &mut expected);
    for poison in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut x = clean.clone();
        x[k + 3] = poison;
        let mut y = vec![0.0; 3 * n];
        linear(&x, &packed, Addends::NONE, &mut y);
        assert!(y[n..2 * n].iter().all(|y| y.is_nan()));
        assert_same_bits(&y[..n], &expected[..n], "the row before");
        assert_same_bits(&y[2 * n..], &expected[2 * n..], "the row after");
    }
    linear(&[0.0; 20], &packed, Addends::NONE, &mut expected[..n]);
    assert!(expected[..n].iter().all(|y| *y == 0.0));
}

#[test]
fn a_later_run_of_columns_is_added() {
    let (t, n, k) = (3, 20, 31);
    let (x, w, start) = (floats(t * k, 1), floats(n * k, 2), floats(t * n, 3));
    let packed = PackedMatrix::pack_rows(int8(), &[&w], k);
    let mut y = start.clone();
    linear_continue(&x, &packed, Addends::NONE, &mut y);
    let expected: Vec<f32> = reference(&x, &w, k).iter().zip(&start).map(|(y, start)| start + y).collect();
    assert_same_bits(&y, &expected, "continued");
}
