//! Mistral: Llama with a sliding window on every layer, if it has one. Reference: `models/mistral/modeling_mistral.py` of
//! transformers.

use super::architecture::Architecture;
use super::common::{DEFAULTS, Defaults, read, windows};
use crate::model::error::ModelError;
use crate::model::network::decoder::DecoderSpec;
use crate::model::settings::Settings;

/// The Mistral family.
pub struct Mistral;

impl Architecture for Mistral {
    fn names(&self) -> &'static [&'static str] {
        &[
            "MistralForSequenceClassification",
            "MistralForCausalLM",
            "MistralModel",
            // The same, with windows on those layers that `layer_types` names.
            "MinistralForSequenceClassification",
            "MinistralForCausalLM",
            "MinistralModel",
        ]
    }

    fn spec(&self, settings: &Settings) -> Result<DecoderSpec, ModelError> {
        let defaults = Defaults { context: 4096 * 32, kv_heads: Some(8), ..DEFAULTS };
        let spec = read(settings, &defaults)?;
        // Null means none; a field that is not there means the default.
        let window = if settings.has("sliding_window") { settings.size("sliding_window")? } else { Some(4096) };
        Ok(DecoderSpec { windows: windows(settings, spec.layers, window, |_| true)?, ..spec })
    }
}
