//! Nemotron-4: norms that take out the mean and have a bias, a squared rectifier without a gate, rotary positions on half
//! of each head. Reference: `models/nemotron/modeling_nemotron.py` of transformers.

use super::architecture::Architecture;
use super::common::{DEFAULTS, Defaults, flag, read};
use crate::model::error::ModelError;
use crate::model::network::decoder::{DecoderSpec, Names, UpNames};
use crate::model::network::layers::NormKind;
use crate::model::settings::Settings;
use crate::model::shapes::Activation;

/// The Nemotron-4 family, Minitron included.
pub struct Nemotron;

impl Architecture for Nemotron {
    fn names(&self) -> &'static [&'static str] {
        &["NemotronForSequenceClassification", "NemotronForCausalLM", "NemotronModel"]
    }

    fn spec(&self, settings: &Settings) -> Result<DecoderSpec, ModelError> {
        let defaults = Defaults {
            context: 4096,
            // What converters of different age wrote.
            eps: &["norm_eps", "layer_norm_eps", "layernorm_epsilon"],
            eps_value: 1e-5,
            activation: ("hidden_act", Activation::SquaredRelu),
            partial_rotary: Some(0.5),
            ..DEFAULTS
        };
        let spec = read(settings, &defaults)?;
        let bias = flag(settings, "attention_bias")?;
        Ok(DecoderSpec {
            norm: NormKind::LayerPlusOne,
            qkv_bias: bias,
            output_bias: bias,
            feed_forward_bias: flag(settings, "mlp_bias")?,
            names: Names { up: UpNames::Plain("mlp.up_proj"), ..spec.names },
            ..spec
        })
    }
}
