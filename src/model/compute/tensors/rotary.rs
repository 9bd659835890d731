//! Rotary position embedding, halves paired, in float32 whatever the activations are.

use candle_core::{DType, Result, Tensor};

use crate::model::shapes::HeadLayout;

/// The query and key heads of `qkv: [tokens, layout.row()]` turned, beside the values as they are. Within the first `2 r`
/// values of a head, value `i < r` is paired with value `i + r`: `(a, b)` becomes `(a cos - b sin, b cos + a sin)`. `cos`
/// and `sin` are float32, `[tokens, r]`; `2 r` may be less than the head.
pub fn rotary(qkv: &Tensor, layout: HeadLayout, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let HeadLayout { heads, kv_heads, head_dim } = layout;
    let (tokens, pairs) = cos.dims2()?;
    let packed = qkv.reshape((tokens, heads + 2 * kv_heads, head_dim))?;
    let turned = packed.narrow(1, 0, heads + kv_heads)?;
    let half = |first: usize| turned.narrow(2, first, pairs)?.to_dtype(DType::F32);
    let (a, b) = (half(0)?, half(pairs)?);
    let (cos, sin) = (cos.unsqueeze(1)?, sin.unsqueeze(1)?);
    let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?.to_dtype(qkv.dtype())?;
    let second = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?.to_dtype(qkv.dtype())?;
    let rest = turned.narrow(2, 2 * pairs, head_dim - 2 * pairs)?;
    let turned = match rest.elem_count() {
        0 => Tensor::cat(&[first, second], 2)?,
        _ => Tensor::cat(&[first, second, rest], 2)?,
    };
    let values = packed.narrow(1, heads + kv_heads, kv_heads)?;
    Tensor::cat(&[turned, values], 1)?.reshape((tokens, layout.row()))
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::super::testing::assert_agrees;
    use super::*;
    use crate::model::compute::kernels;
    use crate::model::compute::kernels::testing::floats;

    #[test]
    fn agrees_with_the_kernel_on_whole_heads_and_parts() {
        let (t, layout) = (9, HeadLayout { heads: 4, kv_heads: 2, head_dim: 10 });
        for pairs in [1, 3, 5] {
            let (cos, sin) = (floats(t * pairs, 2), floats(t * pairs, 3));
            let table = |values: &[f32]| Tensor::from_slice(values, (t, pairs), &Device::Cpu).unwrap();
            let kernel = |qkv: &[f32]| {
                let mut out = qkv.to_vec();
                kernels::rotary(&mut out, layout, &cos, &sin);
                out
            };
            let operation = |qkv: &Tensor| rotary(qkv, layout, &table(&cos), &table(&sin));
            // Products below 1 are off by half an epsilon each, their sum, below 2, by one; on either side.
            assert_agrees("rotary", (t, layout.row()), 1.0, kernel, operation, |_| 4.0 * f32::EPSILON);
        }
    }
}
