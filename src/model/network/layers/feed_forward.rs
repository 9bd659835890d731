//! Feed-forward layers, a block of rows at a time: `down(act(gate) * up)`, or `down(act(up))` where there is no gate.
//!
//! The inner activations are several times as wide as the hidden state. In blocks they stay in the CPU's cache, and a
//! large micro-batch needs no more memory for them than a small one.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor};

use super::dense::Dense;
use super::packed::Packed;
use super::{Loaded, Matrix};
use crate::model::collective::Collective;
use crate::model::compute::backend::Backend;
use crate::model::compute::buffers;
use crate::model::compute::kernels::{Addends, FeedForwardWeights, activate, feed_forward, gate};
use crate::model::compute::storage::{output, values};
use crate::model::compute::tensors;
use crate::model::network::backbone::RankContext;
use crate::model::shapes::Activation;

/// Values of inner activations in a block of tensor operations: enough work for a GPU. While they go through the
/// activation in float32, a few times 256 MiB.
const BLOCK_VALUES: usize = 1 << 26;

/// Rows that go through a layer with an adapter at a time, so that few inner activations are in memory.
const ADAPTED_ROWS: usize = 384;

/// A feed-forward layer, cut by its inner features.
pub struct FeedForward {
    weights: Weights,
    gated: bool,
    activation: Activation,
}

/// `up` is the gate, if there is one, and up.
enum Weights {
    Packed { up: Packed, down: Packed },
    Dense { up: Dense, down: Dense },
}

impl FeedForward {
    /// Loads this rank's share of the matrices: `up` is the gate, where there is one, and the way in, `[features, hidden]`
    /// each or the one on top of the other; `down` leads back. The gate goes through the activation and multiplies the
    /// other; without one, the way in goes through it.
    pub fn load(
        context: &RankContext,
        up: &[Matrix],
        down: Matrix,
        gated: bool,
        activation: Activation,
        bias: bool,
    ) -> Loaded<Self> {
        let down = [down];
        let weights = match context.backend {
            Backend::Kernels(weights) => Weights::Packed {
                up: Packed::load(context, weights, up, bias)?,
                down: Packed::load(context, weights, &down, bias)?,
            },
            Backend::Tensors(_) => {
                Weights::Dense { up: Dense::load(context, up, bias)?, down: Dense::load(context, &down, bias)? }
            }
        };
        Ok(Self { weights, gated, activation })
    }

    /// The layer with what the context's weights change in it; see [`super::Linear::adapted`].
    pub fn adapted(&self, context: &RankContext, up: &[Matrix], down: Matrix, bias: bool) -> Loaded<Self> {
        match (&self.weights, context.backend) {
            (Weights::Packed { up: shared_up, down: shared_down }, Backend::Kernels(weights)) => {
                let up = shared_up.adapted(context, weights, up, bias)?;
                let down = shared_down.adapted(context, weights, &[down], bias)?;
                Ok(Self { weights: Weights::Packed { up, down }, ..*self })
            }
            _ => Self::load(context, up, down, self.gated, self.activation, bias),
        }
    }

    /// The layer of `x: [tokens, hidden]`, plus `residual`.
    pub fn forward(&self, x: &Tensor, residual: Option<&Tensor>, ranks: &dyn Collective) -> Result<Tensor> {
        match &self.weights {
            Weights::Packed { up, down } if up.is_adapted() || down.is_adapted() => {
                let (tokens, _) = x.dims2()?;
                let block = |first: usize| {
                    let rows = ADAPTED_ROWS.min(tokens - first);
                    let inner = self.inner(up, &x.narrow(0, first, rows)?)?;
                    let residual = residual.map(|residual| residual.narrow(0, first, rows)).transpose()?;
                    let block = down.forward_reduce(&inner, residual.as_ref(), ranks)?;
                    buffers::recycle(inner)?;
                    Ok(block)
                };
                let blocks = (0..tokens).step_by(ADAPTED_ROWS).map(block).collect::<Result<Vec<_>>>()?;
                Tensor::cat(&blocks, 0)
            }
            Weights::Packed { up, down } => {
                let blocks = Blocks { layer: self, up, down };
                match (ranks.world(), residual) {
                    (1, None) => x.apply_op1_no_bwd(&blocks),
                    (1, Some(residual)) => x.apply_op2_no_bwd(residual, &blocks),
                    _ => {
                        let mut wide = Vec::new();
                        let weights = blocks.weights();
                        down.reduce(x, |x, inner| weights.inner(x, &mut wide, inner), residual, ranks)
                    }
                }
            }
            Weights::Dense { up, down } => {
                let partial = self.partial(x, up, down, BLOCK_VALUES)?;
                down.reduce(partial, residual, ranks)
            }
        }
    }

    /// The weights as the kernels take them and the bias of the way back, where kernels compute and no adapter adds to them.
    pub(super) fn kernel_weights(&self) -> Option<(FeedForwardWeights<'_>, Option<&[f32]>)> {
        match &self.weights {
            Weights::Packed { up, down } if !up.is_adapted() && !down.is_adapted() => {
                Some((Blocks { layer: self, up, down }.weights(), down.bias()))
            }
            _ => None,
        }
    }

    /// The inner activations of some rows, by the kernels.
    fn inner(&self, up: &Packed, x: &Tensor) -> Result<Tensor> {
        let wide = up.forward(x)?;
        let inner = wide.apply_op1_no_bwd(&Inner(self))?;
        buffers::recycle(wide)?;
        Ok(inner)
    }

    /// This rank's part of the layer of `x`, in blocks of so many values of inner activations.
    fn partial(&self, x: &Tensor, up: &Dense, down: &Dense, values: usize) -> Result<Tensor> {
        let (tokens, _) = x.dims2()?;
        let rows = (values / up.outputs()).clamp(1, tokens.max(1));
        let block = |first: usize| {
            let wide = up.forward(&x.narrow(0, first, rows.min(tokens - first))?)?;
            let inner = if self.gated {
                tensors::gate(self.activation, &wide)?
            } else {
                tensors::activate(self.activation, &wide)?
            };
            down.partial(&inner)
        };
        let mut blocks = (0..tokens).step_by(rows).map(block).collect::<Result<Vec<_>>>()?;
        match blocks.len() {
            1 => Ok(blocks.remove(0)),
            _ => Tensor::cat(&blocks, 0),
        }
    }

    /// Multiplications and additions of the matrix products for so many rows.
    pub fn operations(&self, rows: usize) -> usize {
        2 * rows
            * match &self.weights {
                Weights::Packed { up, down } => up.weights() + down.weights(),
                Weights::Dense { up, down } => up.weights() + down.weights(),
            }
    }

    /// Bytes of the weights in memory.
    pub fn bytes(&self) -> usize {
        match &self.weights {
            Weights::Packed { up, down } => up.bytes() + down.bytes(),
            Weights::Dense { up, down } => up.bytes() + down.bytes(),
        }
    }
}

/// The inner activations of what comes out of `up`.
struct Inner<'a>(&'a FeedForward);

impl CustomOp1 for Inner<'_> {
    fn name(&self) -> &'static str {
        "inner activations"
    }

    fn cpu_fwd(&self, wide: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let Self(FeedForward { gated, activation, .. }) = *self;
        let (rows, columns) = layout.shape().dims2()?;
        let wide = values(wide, layout)?;
        let features = if *gated { columns / 2 } else { columns };
        let mut inner = buffers::take(rows * features);
        if *gated {
            gate(*activation, wide, features, &mut inner);
        } else {
            inner.copy_from_slice(wide);
            activate(*activation, &mut inner);
        }
        Ok(output(inner, rows, features))
    }
}

/// The layer on the kernels' road.
struct Blocks<'a> {
    layer: &'a FeedForward,
    up: &'a Packed,
    down: &'a Packed,
}

impl<'a> Blocks<'a> {
    fn weights(&self) -> FeedForwardWeights<'a> {
        let FeedForward { gated, activation, .. } = *self.layer;
        FeedForwardWeights {
            up: self.up.weight(),
            up_bias: self.up.bias(),
            gated,
            activation,
            down: self.down.weight(),
        }
    }

    fn run(&self, x: &[f32], residual: Option<&[f32]>) -> (CpuStorage, Shape) {
        let hidden = self.down.weight().n();
        let tokens = x.len() / hidden;
        let mut y = buffers::take(tokens * hidden);
        feed_forward(x, self.weights(), Addends { bias: self.down.bias(), residual }, &mut y);
        output(y, tokens, hidden)
    }
}

impl CustomOp1 for Blocks<'_> {
    fn name(&self) -> &'static str {
        "feed forward"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok(self.run(values(x, layout)?, None))
    }
}

impl CustomOp2 for Blocks<'_> {
    fn name(&self) -> &'static str {
        "feed forward with residual"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        residual: &CpuStorage,
        residual_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        Ok(self.run(values(x, x_layout)?, Some(values(residual, residual_layout)?)))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    #[test]
    fn blocks_of_tensors_make_up_the_whole() {
        // Small whole numbers, so that every order of summation gives the same bits.
        let whole_numbers = |rows: usize, columns: usize| {
            let values = Tensor::arange(0u32, (rows * columns) as u32, &Device::Cpu).unwrap();
            let values = values.to_dtype(DType::F32).unwrap().affine(37.0, 5.0).unwrap();
            let sevenths = (&values - ((&values / 7.0).unwrap().floor().unwrap() * 7.0).unwrap()).unwrap();
            sevenths.affine(1.0, -3.0).unwrap().reshape((rows, columns)).unwrap()
        };
        let (tokens, hidden, features) = (11, 6, 10);
        let x = whole_numbers(tokens, hidden);
        for gated in [false, true] {
            let ways_up = if gated { 2 * features } else { features };
            let dense = |outputs, inputs| Dense::new(whole_numbers(outputs, inputs), None);
            let weights = Weights::Dense { up: dense(ways_up, hidden), down: dense(hidden, features) };
            let layer = FeedForward { weights, gated, activation: Activation::SquaredRelu };
            let Weights::Dense { up, down } = &layer.weights else { panic!("made so") };
            let in_blocks = |rows| {
                let partial = layer.partial(&x, up, down, rows * ways_up).unwrap();
                partial.to_vec2::<f32>().unwrap()
            };
            let whole = in_blocks(tokens);
            assert!(whole.iter().flatten().any(|value| *value != 0.0));
            for rows in [0, 1, 3, 10, 100] {
                assert_eq!(in_blocks(rows), whole, "{rows} rows, gated: {gated}");
            }
        }
    }
}
