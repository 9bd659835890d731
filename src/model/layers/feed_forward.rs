//! Feed-forward layers, a block of rows at a time: `down(act(gate) * up)`, or `down(act(up))` where there is no gate.
//!
//! The inner activations are several times as wide as the hidden state. In blocks they stay in the cache, and a large
//! micro-batch needs no more memory for them than a small one.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor};

use super::{Activation, Linear, Loaded, Matrix, output, values};
use crate::model::backbone::RankContext;
use crate::model::collective::Collective;
use crate::model::kernels::{Addends, activate, gate, linear};

/// Rows per block: enough work for every thread, few enough for the cache.
const BLOCK_ROWS: usize = 384;

/// A feed-forward layer, cut by its inner features.
pub struct FeedForward {
    /// Gate, if there is one, and up.
    up: Linear,
    gated: bool,
    activation: Activation,
    down: Linear,
}

/// What a feed-forward layer is made of.
#[derive(Debug, Clone)]
pub struct FeedForwardNames {
    /// Goes through the activation and multiplies `up`; without one, `up` itself goes through it.
    pub gate: Option<String>,
    /// `[features, hidden]`, as the gate.
    pub up: String,
    /// `[hidden, features]`: leads back.
    pub down: String,
}

impl FeedForward {
    /// Loads this rank's share of the matrices.
    pub fn load(
        context: &RankContext,
        names: &FeedForwardNames,
        hidden: usize,
        features: usize,
        activation: Activation,
        bias: bool,
    ) -> Loaded<Self> {
        let own = context.shard.of(features);
        let up = names.gate.iter().chain([&names.up]);
        let up: Vec<_> = up.map(|name| Matrix::whole(name, features, hidden).rows(vec![own.clone()])).collect();
        Ok(Self {
            up: Linear::load(context, &up, bias)?,
            gated: names.gate.is_some(),
            activation,
            down: Linear::load(context, &[Matrix::whole(&names.down, hidden, features).columns(own)], bias)?,
        })
    }

    /// The layer of `x: [tokens, hidden]`, plus `residual`.
    pub fn forward(&self, x: &Tensor, residual: Option<&Tensor>, ranks: &dyn Collective) -> Result<Tensor> {
        let blocks = Blocks { layer: self };
        match (ranks.world(), residual) {
            (1, None) => x.apply_op1_no_bwd(&blocks),
            (1, Some(residual)) => x.apply_op2_no_bwd(residual, &blocks),
            _ => {
                let mut wide = Vec::new();
                self.down.reduce(x, |x, inner| self.inner(x, &mut wide, inner), residual, ranks)
            }
        }
    }

    /// `act(gate) * up`, or `act(up)`, of some rows; `wide` is scratch.
    fn inner(&self, x: &[f32], wide: &mut Vec<f32>, inner: &mut Vec<f32>) {
        let up = self.up.weight();
        let width = x.len() / up.k() * up.n();
        let buffer = if self.gated { &mut *wide } else { &mut *inner };
        buffer.resize(width, 0.0);
        linear(x, up, Addends { bias: self.up.bias(), residual: None }, buffer);
        if self.gated {
            inner.resize(width / 2, 0.0);
            gate(self.activation, wide, up.n() / 2, inner);
        } else {
            activate(self.activation, inner);
        }
    }

    /// Bytes of the weights in memory.
    pub fn bytes(&self) -> usize {
        self.up.bytes() + self.down.bytes()
    }
}

struct Blocks<'a> {
    layer: &'a FeedForward,
}

impl Blocks<'_> {
    fn run(&self, x: &[f32], residual: Option<&[f32]>) -> (CpuStorage, Shape) {
        let down = &self.layer.down;
        let hidden = down.weight().n();
        let tokens = x.len() / hidden;
        let (mut wide, mut inner) = (Vec::new(), Vec::new());
        let mut y = vec![0.0; tokens * hidden];
        for (i, (x, y)) in x.chunks(BLOCK_ROWS * hidden).zip(y.chunks_mut(BLOCK_ROWS * hidden)).enumerate() {
            let residual = residual.map(|r| &r[i * BLOCK_ROWS * hidden..][..y.len()]);
            self.layer.inner(x, &mut wide, &mut inner);
            linear(&inner, down.weight(), Addends { bias: down.bias(), residual }, y);
        }
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
