//! Tests of integer weights, against sums in integers that nothing overflows.

use super::*;
use crate::model::compute::kernels::addends::Addends;
use crate::model::compute::kernels::isa::Isa;
use crate::model::compute::kernels::linear::{linear, linear_continue};
use crate::model::compute::kernels::matrix::PackedMatrix;
use crate::model::compute::kernels::testing::{assert_same_bits, floats, in_pool};
use crate::model::compute::kernels::weight_type::WeightType;

/// Groups whole and broken, of several runs, and odd numbers of inputs.
const SHAPES: [(usize, usize, usize); 8] =
    [(1, 1, 1), (2, 17, 3), (7, 33, 64), (13, 16, 577), (97, 65, 40), (5, 100, 1536), (205, 130, 7), (4, 20, 3333)];

/// A type's name, its group, and the limits of weights and activations.
const TYPES: [(&str, usize, i32, i32); 2] = [("int8", 256, 127, 32_767), ("int16", 64, 4095, 8194)];

fn weight_type(name: &str) -> WeightType {
    WeightType::named(name).unwrap()
}

/// The definition, in integers that nothing overflows, from `y` on.
fn reference((_, group, weight_limit, limit): (&str, usize, i32, i32), x: &[f32], w: &[f32], k: usize, y: &mut [f32]) {
    let whole = |values: &[f32], limit: i32| {
        let (inverse, scale) = group_scales(values, limit);
        let whole: Vec<i64> = values.iter().map(|v| (v * inverse).round_ties_even() as i64).collect();
        assert!(whole.iter().all(|v| v.abs() <= i64::from(limit)));
        (whole, scale)
    };
    let n = w.len() / k;
    for (i, y) in y.iter_mut().enumerate() {
        let (x, w) = (&x[i / n * k..][..k], &w[i % n * k..][..k]);
        for (x, w) in x.chunks(group).zip(w.chunks(group)) {
            let ((x, scale_x), (w, scale_w)) = (whole(x, limit), whole(w, weight_limit));
            let sum: i32 = x.iter().zip(&w).map(|(x, w)| x * w).sum::<i64>().try_into().unwrap();
            *y = (sum as f32).mul_add(scale_x * scale_w, *y);
        }
    }
}

#[test]
fn every_instruction_set_gives_the_bits_of_the_definition() {
    for (of_type, (t, n, k)) in TYPES.into_iter().flat_map(|of_type| SHAPES.map(|shape| (of_type, shape))) {
        let (x, w, b, r) = (floats(t * k, 1), floats(n * k, 2), floats(n, 3), floats(t * n, 4));
        let mut expected = vec![0.0; t * n];
        reference(of_type, &x, &w, k, &mut expected);
        let addends = Addends { bias: Some(&b), residual: Some(&r) };
        for (i, y) in expected.iter_mut().enumerate() {
            *y = *y + b[i % n] + r[i];
        }
        for isa in Isa::available() {
            let packed = PackedMatrix::pack_for(isa, weight_type(of_type.0), &[&w], k);
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
    for ((name, group, weight_limit, limit), (t, n, k)) in
        TYPES.into_iter().flat_map(|of_type| SHAPES.map(|shape| (of_type, shape)))
    {
        let (x, w) = (floats(t * k, 5), floats(n * k, 6));
        let packed = PackedMatrix::pack_rows(weight_type(name), &[&w], k);
        let mut y = vec![0.0; t * n];
        linear(&x, &packed, Addends::NONE, &mut y);
        let largest = |v: &[f32]| v.iter().fold(0.0f64, |m, v| m.max(f64::from(v.abs())));
        for (i, y) in y.iter().enumerate() {
            let (x, w) = (&x[i / n * k..][..k], &w[i % n * k..][..k]);
            let (mut exact, mut sizes, mut bound) = (0.0, 0.0, 0.0);
            for (x, w) in x.chunks(group).zip(w.chunks(group)) {
                let (half_x, half_w) =
                    (largest(x) / f64::from(limit) / 2.0, largest(w) / f64::from(weight_limit) / 2.0);
                for (x, w) in x.iter().zip(w).map(|(x, w)| (f64::from(*x), f64::from(*w))) {
                    exact += x * w;
                    sizes += (x * w).abs();
                    bound += w.abs() * half_x + x.abs() * half_w + half_x * half_w;
                }
            }
            // And the float32 operations on the way: four roundings of a group's part, one of each sum.
            let bound = bound * (1.0 + 1e-6) + sizes * (4 + k.div_ceil(group)) as f64 * f64::from(f32::EPSILON);
            assert!((f64::from(*y) - exact).abs() <= bound, "{name}: {y} instead of {exact}, within {bound}");
        }
    }
}

/// Every product of a group is the largest that there is, of either sign.
#[test]
fn the_largest_values_of_all_do_not_overflow() {
    let k = 9001;
    for (name, group, weight_limit, limit) in TYPES {
        assert!(group as i64 * i64::from(weight_limit) * i64::from(limit) <= i64::from(i32::MAX));
        for (isa, sign) in Isa::available().into_iter().flat_map(|isa| [(isa, 1.0f32), (isa, -1.0)]) {
            let packed = PackedMatrix::pack_for(isa, weight_type(name), &[&vec![sign * 3e38; k]], k);
            let mut y = [0.0];
            linear(&vec![1e-5; k], &packed, Addends::NONE, &mut y);
            let exact = f64::from(sign) * 3e33 * k as f64;
            assert!((f64::from(y[0]) / exact - 1.0).abs() < 2e-5, "{name}: {} instead of {exact}", y[0]);
        }
    }
}

#[test]
fn what_is_not_finite_spoils_its_own_row_alone() {
    let (k, n) = (20, 18);
    for (name, ..) in TYPES {
        let packed = PackedMatrix::pack_rows(weight_type(name), &[&floats(n * k, 7)], k);
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
}

/// Where the runs end at the border of a group, in the bits of one call.
#[test]
fn a_later_run_of_columns_is_added() {
    let (t, n, k) = (3, 20, 287);
    for of_type in TYPES {
        let (x, w, start) = (floats(t * k, 1), floats(n * k, 2), floats(t * n, 3));
        let mut expected = start.clone();
        reference(of_type, &x, &w, k, &mut expected);
        let mut y = start;
        for columns in [0..256, 256..k] {
            let part = |matrix: &[f32]| -> Vec<f32> {
                matrix.chunks_exact(k).flat_map(|row| &row[columns.clone()]).copied().collect()
            };
            let packed = PackedMatrix::pack_rows(weight_type(of_type.0), &[&part(&w)], columns.len());
            linear_continue(&part(&x), &packed, Addends::NONE, &mut y);
        }
        assert_same_bits(&y, &expected, "continued");
    }
}
