//! Tests of rounded activations, against float32's chain over numbers that half's bfloat16 has rounded.

use crate::model::compute::kernels::addends::Addends;
use crate::model::compute::kernels::bf16_rounding::tests::nearest;
use crate::model::compute::kernels::isa::Isa;
use crate::model::compute::kernels::linear::{linear, linear_continue};
use crate::model::compute::kernels::matrix::PackedMatrix;
use crate::model::compute::kernels::testing::{assert_same_bits, floats, in_pool};
use crate::model::compute::kernels::weight_type::WeightType;

/// Odd numbers of inputs, several runs, broken panels and tiles.
const SHAPES: [(usize, usize, usize); 7] =
    [(1, 1, 1), (2, 17, 3), (7, 33, 64), (13, 16, 577), (97, 65, 40), (5, 70, 3333), (205, 130, 70)];

fn weight_type() -> WeightType {
    WeightType::named("bf16-activations").unwrap()
}

fn reference(x: &[f32], w: &[f32], k: usize) -> Vec<f32> {
    let dot = |x: &[f32], w: &[f32]| x.iter().zip(w).fold(0.0f32, |sum, (x, w)| nearest(*x).mul_add(nearest(*w), sum));
    x.chunks_exact(k).flat_map(|x| w.chunks_exact(k).map(move |w| dot(x, w))).collect()
}

/// Values of magnitudes from far below the least one to far above 1.
fn scaled(len: usize, seed: u64) -> Vec<f32> {
    let exponents = floats(len, seed + 100);
    floats(len, seed).iter().zip(exponents).map(|(x, e)| x * libm::exp2f(e * 62.0)).collect()
}

#[test]
fn every_instruction_set_gives_the_bits_of_the_definition() {
    for (t, n, k) in SHAPES {
        for values in [floats, scaled] {
            let (x, w) = (values(t * k, 1), values(n * k, 2));
            let expected = reference(&x, &w, k);
            for isa in Isa::available() {
                let packed = PackedMatrix::pack_for(isa, weight_type(), &[&w], k);
                assert_eq!(packed.bytes(), n.next_multiple_of(isa.width()) * k.next_multiple_of(2) * 2);
                for threads in 1..=2 {
                    let mut y = vec![f32::NAN; t * n];
                    in_pool(threads, || linear(&x, &packed, Addends::NONE, &mut y));
                    assert_same_bits(&y, &expected, isa.name());
                }
            }
        }
    }
}

/// Also where the cut leaves an odd number of inputs on either side.
#[test]
fn a_dot_product_goes_on_where_it_was_left() {
    let (t, n, k) = (7, 33, 577);
    let (x, w) = (scaled(t * k, 3), scaled(n * k, 4));
    for isa in Isa::available() {
        let mut y = vec![0.0; t * n];
        for cut in [0..101, 101..340, 340..k] {
            let columns = |matrix: &[f32]| -> Vec<f32> {
                matrix.chunks_exact(k).flat_map(|row| &row[cut.clone()]).copied().collect()
            };
            let packed = PackedMatrix::pack_for(isa, weight_type(), &[&columns(&w)], cut.len());
            linear_continue(&columns(&x), &packed, Addends::NONE, &mut y);
        }
        assert_same_bits(&y, &reference(&x, &w, k), isa.name());
    }
}

#[test]
fn what_is_not_finite_stays_in_its_row() {
    let (t, n, k) = (13, 33, 70);
    let (mut x, w) = (floats(t * k, 5), floats(n * k, 6));
    let expected = reference(&x, &w, k);
    x[4 * k + 7] = f32::NAN;
    x[9 * k + 8] = f32::INFINITY;
    for isa in Isa::available() {
        let packed = PackedMatrix::pack_for(isa, weight_type(), &[&w], k);
        let mut y = vec![0.0; t * n];
        linear(&x, &packed, Addends::NONE, &mut y);
        for (row, (y, expected)) in y.chunks_exact(n).zip(expected.chunks_exact(n)).enumerate() {
            match row {
                4 | 9 => assert!(y.iter().all(|y| !y.is_finite()), "{}", isa.name()),
                _ => assert_same_bits(y, expected, isa.name()),
            }
        }
    }
}
