//! Qwen 3: Llama with norms of each query and key head. Reference: `models/qwen3/modeling_qwen3.py` of transformers.

use super::architecture::Architecture;
use super::common::{Defaults, flag, read};
use super::qwen2::{QWEN, upper_windows};
use crate::model::error::ModelError;
use crate::model::network::decoder::{DecoderSpec, HeadNormNames, Names};
use crate::model::settings::Settings;

/// The Qwen 3 family.
pub struct Qwen3;

/// Norms of each query and key head.
pub(super) const HEAD_NORMS: Option<HeadNormNames> =
    Some(HeadNormNames::Heads(["self_attn.q_norm", "self_attn.k_norm"]));

impl Architecture for Qwen3 {
    fn names(&self) -> &'static [&'static str] {
        &["Qwen3ForSequenceClassification", "Qwen3ForCausalLM", "Qwen3Model"]
    }

    fn spec(&self, settings: &Settings) -> Result<DecoderSpec, ModelError> {
        let spec = read(settings, &Defaults { head_dim: Some(128), ..QWEN })?;
        let bias = flag(settings, "attention_bias")?;
        Ok(DecoderSpec {
            qkv_bias: bias,
            output_bias: bias,
            windows: upper_windows(settings, spec.layers)?,
            names: Names { head_norms: HEAD_NORMS, ..spec.names },
            ..spec
        })
    }
}
