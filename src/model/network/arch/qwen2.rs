//! Qwen 2 and 2.5: Llama with a bias on queries, keys and values, and a window on the upper layers if it is switched on.
//! Reference: `models/qwen2/modeling_qwen2.py` of transformers.

use super::architecture::Architecture;
use super::common::{DEFAULTS, Defaults, flag, read, windows};
use crate::model::error::ModelError;
use crate::model::network::decoder::DecoderSpec;
use crate::model::settings::Settings;

/// The Qwen 2 family.
pub struct Qwen2;

/// Defaults of Qwen 2 and 3.
pub(super) const QWEN: Defaults = Defaults { context: 32_768, kv_heads: Some(32), ..DEFAULTS };

impl Architecture for Qwen2 {
    fn names(&self) -> &'static [&'static str] {
        &[
            "Qwen2ForSequenceClassification",
            "Qwen2ForCausalLM",
            "Qwen2Model",
            // Its reward models with heads of their own.
            "Qwen2ForRewardModel",
            "Qwen2ForProcessRewardModel",
        ]
    }

    fn spec(&self, settings: &Settings) -> Result<DecoderSpec, ModelError> {
        let spec = read(settings, &QWEN)?;
        Ok(DecoderSpec { qkv_bias: true, windows: upper_windows(settings, spec.layers)?, ..spec })
    }
}

/// `use_sliding_window` switches windows on, from layer `max_window_layers` upwards.
pub(super) fn upper_windows(settings: &Settings, layers: usize) -> Result<Vec<Option<usize>>, ModelError> {
    let window = if settings.has("sliding_window") { settings.size("sliding_window")? } else { Some(4096) };
    let switched_on = flag(settings, "use_sliding_window")?;
    // Zero means all layers, so it is no size.
    let first = match settings.get("max_window_layers").map(|v| v.as_u64()) {
        None => 28,
        Some(Some(first)) => first as usize,
        Some(None) => return Err(settings.unsupported("max_window_layers", "a whole number")),
    };
    windows(settings, layers, window.filter(|_| switched_on), |layer| layer >= first)
}
