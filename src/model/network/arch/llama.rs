//! Llama: the plain form. Reference: `models/llama/modeling_llama.py` of transformers.

use super::architecture::Architecture;
use super::common::{DEFAULTS, flag, read};
use crate::model::error::ModelError;
use crate::model::network::decoder::DecoderSpec;
use crate::model::settings::Settings;

/// The Llama family.
pub struct Llama;

impl Architecture for Llama {
    fn names(&self) -> &'static [&'static str] {
        &[
            "LlamaForSequenceClassification",
            "LlamaForCausalLM",
            "LlamaModel",
            // Its reward models with heads of their own.
            "LlamaForRewardModelWithGating",
            "LlamaForRewardModelWithGating3",
            "LlamaForRewardModelWithGating31",
            "INFORMForSequenceClassification",
        ]
    }

    fn spec(&self, settings: &Settings) -> Result<DecoderSpec, ModelError> {
        if settings.size("pretraining_tp")?.is_some_and(|ranks| ranks != 1) {
            return Err(settings.unsupported("pretraining_tp", "1"));
        }
        let bias = flag(settings, "attention_bias")?;
        Ok(DecoderSpec {
            qkv_bias: bias,
            output_bias: bias,
            feed_forward_bias: flag(settings, "mlp_bias")?,
            ..read(settings, &DEFAULTS)?
        })
    }
}
