//! Activations of gated feed-forward layers: `act(gate) * up`.

use super::Loaded;
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

    /// `act(gate) * up` of `gate_up: [tokens, 2 * features]`, gates first in every row, into `y: [tokens, features]`.
    pub(super) fn gated(self, gate_up: &[f32], features: usize, y: &mut [f32]) {
        match self {
            Self::Silu => silu_mul(gate_up, features, y),
        }
    }
}
