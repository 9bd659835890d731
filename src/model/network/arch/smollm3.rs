//! SmolLM 3: Llama whose every fourth layer is not told positions. Reference: `models/smollm3/modeling_smollm3.py` of
//! transformers.

use super::architecture::Architecture;
use super::common::{DEFAULTS, Defaults, flag, read, rope_from, windows};
use crate::model::error::ModelError;
use crate::model::network::decoder::DecoderSpec;
use crate::model::settings::Settings;

/// The SmolLM 3 family.
pub struct SmolLm3;

impl Architecture for SmolLm3 {
    fn names(&self) -> &'static [&'static str] {
        &["SmolLM3ForSequenceClassification", "SmolLM3ForCausalLM", "SmolLM3Model"]
    }

    fn spec(&self, settings: &Settings) -> Result<DecoderSpec, ModelError> {
        let defaults = Defaults {
            context: 32_768,
            kv_heads: Some(4),
            rope: |settings, head_dim, context, partial| rope_from(settings, head_dim, context, partial, 2e6),
            ..DEFAULTS
        };
        let spec = read(settings, &defaults)?;
        let interval = settings.size("no_rope_layer_interval")?.unwrap_or(4);
        // In spite of its name it says which layers have positions.
        let told = match settings.numbers("no_rope_layers")? {
            Some(layers) if layers.len() < spec.layers => {
                return Err(
                    settings.unsupported("no_rope_layers", format!("a number for each of {} layers", spec.layers))
                );
            }
            Some(layers) => layers[..spec.layers].iter().map(|told| *told != 0.0).collect(),
            None => (1..=spec.layers).map(|layer| !layer.is_multiple_of(interval)).collect::<Vec<_>>(),
        };
        let slides = flag(settings, "use_sliding_window")?;
        let window = settings.size("sliding_window")?;
        let stated = windows(settings, spec.layers, window, |layer| !told[layer])?;
        let bias = flag(settings, "attention_bias")?;
        Ok(DecoderSpec {
            windows: stated.into_iter().map(|window| window.filter(|_| slides)).collect(),
            layer_ropes: told.iter().map(|told| told.then_some(0)).collect(),
            qkv_bias: bias,
            output_bias: bias,
            feed_forward_bias: flag(settings, "mlp_bias")?,
            ..spec
        })
    }
}
