//! Gated feed-forward layers: `down(act(gate) * up)`, a block of rows at a time.
//!
//! The inner activations are several times as wide as the hidden state. In blocks they stay in the cache, and a large
//! micro-batch needs no more memory for them than a small one.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};

use super::{Activation, Linear, Loaded, output, values};
use crate::model::checkpoint::WeightSource;
use crate::model::kernels::linear;

/// Rows per block: enough work for every thread, few enough for the cache.
const BLOCK_ROWS: usize = 384;

/// A gated feed-forward layer.
pub struct FeedForward {
    gate_up: Linear,
    activation: Activation,
    down: Linear,
}

/// Names of the matrices: gate and up `[features, hidden]`, down `[hidden, features]`.
pub struct FeedForwardNames<'a> {
    /// Goes through the activation.
    pub gate: &'a str,
    /// Is multiplied by it.
    pub up: &'a str,
    /// Leads back.
    pub down: &'a str,
}

impl FeedForward {
    /// Loads the three matrices.
    pub fn load(
        weights: &dyn WeightSource,
        names: &FeedForwardNames,
        hidden: usize,
        features: usize,
        activation: Activation,
    ) -> Loaded<Self> {
        Ok(Self {
            gate_up: Linear::load_fused(weights, &[(names.gate, features), (names.up, features)], hidden)?,
            activation,
            down: Linear::load(weights, names.down, hidden, features)?,
        })
    }

    /// `residual + down(act(gate(x)) * up(x))` of `x: [tokens, hidden]`.
    pub fn forward_add(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        x.apply_op2_no_bwd(residual, &Blocks(self))
    }

    /// Bytes of the weights in memory.
    pub fn bytes(&self) -> usize {
        self.gate_up.bytes() + self.down.bytes()
    }
}

struct Blocks<'a>(&'a FeedForward);

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
        let (x, residual) = (values(x, x_layout)?, values(residual, residual_layout)?);
        let FeedForward { gate_up, activation, down } = self.0;
        let (gate_up, down) = (gate_up.weight(), down.weight());
        let (hidden, features) = (down.n(), down.k());
        let tokens = x.len() / hidden;
        let rows = tokens.min(BLOCK_ROWS);
        let mut wide = vec![0.0; rows * 2 * features];
        let mut gated = vec![0.0; rows * features];
        let mut y = vec![0.0; tokens * hidden];
        let blocks = x.chunks(BLOCK_ROWS * hidden).zip(residual.chunks(BLOCK_ROWS * hidden));
        for ((x, residual), y) in blocks.zip(y.chunks_mut(BLOCK_ROWS * hidden)) {
            let rows = x.len() / hidden;
            let (wide, gated) = (&mut wide[..rows * 2 * features], &mut gated[..rows * features]);
            linear(x, gate_up, None, wide);
            activation.gated(wide, features, gated);
            linear(gated, down, Some(residual), y);
        }
        Ok(output(y, tokens, hidden))
    }
}
