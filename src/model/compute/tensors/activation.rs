//! Activations of the feed-forward layer, in float32 whatever the type of its input.

use candle_core::{DType, Result, Tensor};

use crate::model::shapes::Activation;

/// `act(gate) * up`: each row of `gate_up` is `[gate | up]`, `[rows, 2 * features]`; the result is `[rows, features]`.
pub fn gate(activation: Activation, gate_up: &Tensor) -> Result<Tensor> {
    let features = gate_up.dim(1)? / 2;
    let half = |first: usize| gate_up.narrow(1, first, features)?.to_dtype(DType::F32);
    (apply(activation, &half(0)?)? * half(features)?)?.to_dtype(gate_up.dtype())
}

/// `act(x)`, value by value.
pub fn activate(activation: Activation, x: &Tensor) -> Result<Tensor> {
    apply(activation, &x.to_dtype(DType::F32)?)?.to_dtype(x.dtype())
}

fn apply(activation: Activation, x: &Tensor) -> Result<Tensor> {
    match activation {
        Activation::Silu => x.silu(),
        // candle's `gelu` is the approximation.
        Activation::GeluTanh => x.gelu(),
        Activation::Gelu => x.gelu_erf(),
        Activation::Tanh => x.tanh(),
        Activation::Sigmoid => (x.neg()?.exp()? + 1.0)?.recip(),
        Activation::Relu => relu(x),
        Activation::SquaredRelu => relu(x)?.sqr(),
    }
}

/// `max(x, 0)`. candle's own makes zeros of what is no number.
fn relu(x: &Tensor) -> Result<Tensor> {
    x.lt(0f32)?.where_cond(&x.zeros_like()?, x)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::super::testing::assert_agrees;
    use super::*;
    use crate::model::compute::kernels;

    /// The kernels' own tests hold them to five roundings of the value and, where `1 + tanh` cancels, two of the argument,
    /// and a gate to one more of each; so are these held, whose exponential and tanh are libm's. Arguments are below 20.
    fn bound(value: f32, times: f32) -> f32 {
        2.0 * f32::EPSILON * (6.0 * value.abs() + 2.0 * 20.0 * times)
    }

    #[test]
    fn agree_with_the_kernels() {
        let (t, features) = (5, 37);
        for activation in Activation::ALL {
            let kernel = |x: &[f32]| {
                let mut out = x.to_vec();
                kernels::activate(activation, &mut out);
                out
            };
            let what = format!("{activation:?}");
            assert_agrees(&what, (t, features), 20.0, kernel, |x| activate(activation, x), |y| bound(y, 1.0));
            let kernel = |x: &[f32]| {
                let mut out = vec![0.0; x.len() / 2];
                kernels::gate(activation, x, features, &mut out);
                out
            };
            assert_agrees(&what, (t, 2 * features), 20.0, kernel, |x| gate(activation, x), |y| bound(y, 20.0));
        }
    }

    #[test]
    fn what_is_no_number_stays_none() {
        for activation in Activation::ALL {
            let x = Tensor::new(&[f32::NAN, -1e4], &Device::Cpu).unwrap();
            let found: Vec<f32> = activate(activation, &x).unwrap().to_vec1().unwrap();
            let least = if activation == Activation::Tanh { -1.0 } else { 0.0 };
            assert!(found[0].is_nan() && found[1] == least, "{activation:?}: {found:?}");
        }
    }
}
