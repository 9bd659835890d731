//! Activations, by the names that configurations use.

use super::Loaded;
use crate::model::settings::Settings;
use crate::model::shapes::Activation;

/// A name in a configuration, and the activation that it means.
const ACTIVATIONS: &[(&str, Activation)] = &[
    ("silu", Activation::Silu),
    ("swish", Activation::Silu),
    ("gelu_pytorch_tanh", Activation::GeluTanh),
    ("gelu_new", Activation::GeluTanh),
    ("gelu", Activation::Gelu),
    ("tanh", Activation::Tanh),
    ("sigmoid", Activation::Sigmoid),
    ("relu", Activation::Relu),
    ("relu2", Activation::SquaredRelu),
];

/// The activation of a name.
pub fn activation_named(name: &str) -> Option<Activation> {
    ACTIVATIONS.iter().find(|(known, _)| *known == name).map(|(_, activation)| *activation)
}

/// The activation that `field` names; the default where there is none.
pub fn read_activation(settings: &Settings, field: &str, default: Activation) -> Loaded<Activation> {
    let Some(name) = settings.text(field)? else { return Ok(default) };
    match activation_named(name) {
        Some(activation) => Ok(activation),
        None => {
            let known: Vec<_> = ACTIVATIONS.iter().map(|(name, _)| *name).collect();
            Err(settings.unsupported(field, format!("one of {}", known.join(", "))))
        }
    }
}
