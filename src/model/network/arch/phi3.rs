//! Phi 3 and 4: Llama with queries, keys and values in one matrix, gate and way in in another, and LongRoPE. Reference:
//! `models/phi3/modeling_phi3.py` of transformers.

use super::architecture::Architecture;
use super::common::{DEFAULTS, Defaults, read, windows};
use crate::model::error::ModelError;
use crate::model::network::decoder::{DecoderSpec, Names, QkvNames, UpNames};
use crate::model::network::layers::{LongRope, Rotary};
use crate::model::settings::Settings;

/// The Phi 3 family, Phi 4 and Phi 4 mini included.
pub struct Phi3;

/// `original_max_position_embeddings` where the configuration leaves it out.
const FIRST_CONTEXT: usize = 4096;

impl Architecture for Phi3 {
    fn names(&self) -> &'static [&'static str] {
        &["Phi3ForSequenceClassification", "Phi3ForCausalLM", "Phi3Model"]
    }

    fn spec(&self, settings: &Settings) -> Result<DecoderSpec, ModelError> {
        let defaults = Defaults {
            context: 4096,
            eps_value: 1e-5,
            partial_rotary: Some(1.0),
            rope: |settings, head_dim, context, partial| match LongRope::read(
                settings,
                head_dim,
                context,
                FIRST_CONTEXT,
            )? {
                Some(long) => Ok(long.rotary),
                None => Rotary::read(settings, head_dim, context, partial),
            },
            ..DEFAULTS
        };
        let spec = read(settings, &defaults)?;
        let long = LongRope::read(settings, spec.heads.head_dim, spec.context, FIRST_CONTEXT)?;
        // It matters to LongRoPE alone.
        let _ = settings.get("original_max_position_embeddings");
        Ok(DecoderSpec {
            context: long.map_or(spec.context, |long| long.context),
            windows: windows(settings, spec.layers, settings.size("sliding_window")?, |_| true)?,
            names: Names {
                qkv: QkvNames::Stacked("self_attn.qkv_proj"),
                up: UpNames::Stacked("mlp.gate_up_proj"),
                ..spec.names
            },
            ..spec
        })
    }
}
