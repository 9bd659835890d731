//! Normalisation of rows, in float32 whatever the activations are.

use candle_core::{D, DType, Result, Tensor};

use crate::model::shapes::HeadLayout;

/// `x / sqrt(mean(x²) + eps) * weight` over the last dimension; `weight` is float32.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
    let wide = x.to_dtype(DType::F32)?;
    normalised(&wide, eps)?.broadcast_mul(weight)?.to_dtype(x.dtype())
}

/// `(x - mean) / sqrt(variance + eps) * weight + bias` over the last dimension, the variance that of the population;
/// `weight` and `bias` are float32.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f32) -> Result<Tensor> {
    let wide = x.to_dtype(DType::F32)?;
    let centred = wide.broadcast_sub(&wide.mean_keepdim(D::Minus1)?)?;
    normalised(&centred, eps)?.broadcast_mul(weight)?.broadcast_add(bias)?.to_dtype(x.dtype())
}

/// [`rms_norm`] of every query and key head of `qkv: [tokens, layout.row()]`; both weights are `[head_dim]`.
pub fn rms_norm_heads(qkv: &Tensor, layout: HeadLayout, query: &Tensor, key: &Tensor, eps: f32) -> Result<Tensor> {
    let HeadLayout { heads, kv_heads, head_dim } = layout;
    let tokens = qkv.dim(0)?;
    let packed = qkv.reshape((tokens, heads + 2 * kv_heads, head_dim))?;
    let queries = rms_norm(&packed.narrow(1, 0, heads)?, query, eps)?;
    let keys = rms_norm(&packed.narrow(1, heads, kv_heads)?, key, eps)?;
    let values = packed.narrow(1, heads + kv_heads, kv_heads)?;
    Tensor::cat(&[queries, keys, values], 1)?.reshape((tokens, layout.row()))
}

/// `x / sqrt(mean(x²) + eps)` over the last dimension.
fn normalised(x: &Tensor, eps: f32) -> Result<Tensor> {
    let root = x.sqr()?.mean_keepdim(D::Minus1)?.affine(1.0, f64::from(eps))?.sqrt()?;
    x.broadcast_div(&root)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::super::testing::assert_agrees;
    use super::*;
    use crate::model::compute::kernels;
    use crate::model::compute::kernels::testing::floats;

    const EPS: f32 = 1e-5;

    /// How far apart two norms of `n` values below 1, with weights and biases below 1, may be.
    ///
    /// A sum of n terms of one sign is off by at most n half epsilons of itself, in whatever order, and so is its mean;
    /// the mean of values below 1 is off by n half epsilons. The root halves the error of the square. The values here
    /// have a deviation of 0.5 at least, so a normalised one is below 2 and moves by at most 2 (n / 2) epsilons with the
    /// mean and 2 (n / 4) with the root; a few more are for what is done to each. Twice, for neither is exact.
    fn bound(n: usize) -> f32 {
        2.0 * f32::EPSILON * (1.5 * n as f32 + 8.0)
    }

    fn tensor(values: &[f32]) -> Tensor {
        Tensor::from_slice(values, values.len(), &Device::Cpu).unwrap()
    }

    #[test]
    fn rows_agree_with_the_kernels() {
        let (t, n) = (7, 85);
        let (weight, bias) = (floats(n, 2), floats(n, 3));
        let kernel = |x: &[f32]| {
            let mut out = vec![0.0; x.len()];
            kernels::rms_norm(x, &weight, EPS, &mut out);
            out
        };
        assert_agrees("rms", (t, n), 1.0, kernel, |x| rms_norm(x, &tensor(&weight), EPS), |_| bound(n));
        let kernel = |x: &[f32]| {
            let mut out = vec![0.0; x.len()];
            kernels::layer_norm(x, &weight, &bias, EPS, &mut out);
            out
        };
        let operation = |x: &Tensor| layer_norm(x, &tensor(&weight), &tensor(&bias), EPS);
        assert_agrees("layer norm", (t, n), 1.0, kernel, operation, |_| bound(n));
    }

    #[test]
    fn heads_agree_with_the_kernel() {
        let layout = HeadLayout { heads: 4, kv_heads: 2, head_dim: 26 };
        let (query, key) = (floats(layout.head_dim, 2), floats(layout.head_dim, 3));
        let kernel = |x: &[f32]| {
            let mut out = x.to_vec();
            kernels::rms_norm_heads(&mut out, layout, &query, &key, EPS);
            out
        };
        let operation = |x: &Tensor| rms_norm_heads(x, layout, &tensor(&query), &tensor(&key), EPS);
        assert_agrees("heads", (9, layout.row()), 1.0, kernel, operation, |_| bound(layout.head_dim));
    }
}
