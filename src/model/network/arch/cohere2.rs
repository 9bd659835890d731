//! Cohere's Command R 7B and Command A: Command R with a window on three layers of four; the others are not told positions.
//! Reference: `models/cohere2/modeling_cohere2.py` of transformers, which has no class with a reward head: the name is that
//! of its generic one.

use super::architecture::Architecture;
use super::cohere::block;
use super::common::windows;
use crate::model::error::ModelError;
use crate::model::network::decoder::DecoderSpec;
use crate::model::network::layers::Rotary;
use crate::model::settings::Settings;

/// The Command R 7B family.
pub struct Cohere2;

impl Architecture for Cohere2 {
    fn names(&self) -> &'static [&'static str] {
        &["Cohere2ForSequenceClassification", "Cohere2ForCausalLM", "Cohere2Model"]
    }

    fn spec(&self, settings: &Settings) -> Result<DecoderSpec, ModelError> {
        let spec = block(settings, Rotary::read)?;
        let pattern = settings.size("sliding_window_pattern")?.unwrap_or(4);
        let window = if settings.has("sliding_window") { settings.size("sliding_window")? } else { Some(4096) };
        let windows = windows(settings, spec.layers, window, |layer| !(layer + 1).is_multiple_of(pattern))?;
        let layer_ropes = windows.iter().map(|window| window.map(|_| 0)).collect();
        Ok(DecoderSpec { windows, layer_ropes, ..spec })
    }
}
