//! What the tests of tensor operations share.

use candle_core::{DType, Device, Result, Tensor};
use half::bf16;

use crate::model::compute::kernels::testing::floats;

/// Compares an operation with the kernel that computes the same, in float32 and in bfloat16. Both get `shape` values of
/// magnitude `magnitude` at most; `bound` is how far apart the two may be in float32, given input and result.
#[track_caller]
pub(super) fn assert_agrees(
    what: &str,
    shape: (usize, usize),
    magnitude: f32,
    kernel: impl Fn(&[f32]) -> Vec<f32>,
    operation: impl Fn(&Tensor) -> Result<Tensor>,
    bound: impl Fn(f32) -> f32,
) {
    for dtype in [DType::F32, DType::BF16] {
        let mut values: Vec<f32> = floats(shape.0 * shape.1, 1).into_iter().map(|v| v * magnitude).collect();
        if dtype == DType::BF16 {
            values.iter_mut().for_each(|value| *value = bf16::from_f32(*value).to_f32());
        }
        let expected = kernel(&values);
        let x = Tensor::from_vec(values, shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
        let found = operation(&x).unwrap();
        assert_eq!((found.dtype(), found.elem_count()), (dtype, expected.len()), "{what}");
        let found: Vec<f32> = found.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        for (i, (found, expected)) in found.into_iter().zip(expected).enumerate() {
            let off = bound(expected);
            // Rounding to nearest is off by half an epsilon of the type at most.
            let rounding = if dtype == DType::BF16 { bf16::EPSILON.to_f32() / 2.0 } else { 0.0 };
            let tolerance = off + (expected.abs() + off) * rounding;
            let difference = (found - expected).abs();
            assert!(difference <= tolerance, "{what} in {dtype:?}: value {i} is {found}, expected {expected}");
        }
    }
}
