//! Activations of gated feed-forward layers: `act(gate) * up`.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

use super::{Loaded, output, values};
use crate::model::kernels::silu_mul;
use crate::model::settings::Settings;

/// An activation, by the names that configurations use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x / (1 + exp(-x))`.
    Silu,
}

/// A name in a configuration, and the activation that it means.
const ACTIVATIONS: &[(&str, Activation)] = &[("silu", Activation::Silu), ("swish", Activation::Silu)];

impl Activation {
    /// The activation that `field` names; the default where there is none.
    pub fn read(settings: &Settings, field: &str, default: Self) -> Loaded<Self> {
        let Some(name) = settings.text(field)? else { return Ok(default) };
        match ACTIVATIONS.iter().find(|(known, _)| *known == name) {
            Some((_, activation)) => Ok(*activation),
            None => {
                let known: Vec<_> = ACTIVATIONS.iter().map(|(name, _)| *name).collect();
                Err(settings.unsupported(field, format!("one of {}", known.join(", "))))
            }
        }
    }

    /// `act(gate) * up` of `gate_up: [tokens, 2 * features]`, gates first in every row.
    pub fn gated(self, gate_up: &Tensor) -> Result<Tensor> {
        gate_up.apply_op1_no_bwd(&self)
    }
}

impl CustomOp1 for Activation {
    fn name(&self) -> &'static str {
        "gated activation"
    }

    fn cpu_fwd(&self, gate_up: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (tokens, both) = layout.shape().dims2()?;
        if both % 2 != 0 {
            bail!("a gate without its partner: {both} columns");
        }
        let features = both / 2;
        let mut y = vec![0.0; tokens * features];
        match self {
            Self::Silu => silu_mul(values(gate_up, layout)?, features, &mut y),
        }
        Ok(output(y, tokens, features))
    }
}
