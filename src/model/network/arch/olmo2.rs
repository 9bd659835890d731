//! OLMo 2: norms after each part and none before, and norms of all queries and all keys of a token at once. Reference:
//! `models/olmo2/modeling_olmo2.py` of transformers.

use super::architecture::Architecture;
use super::common::{DEFAULTS, Defaults, flag, read};
use crate::model::error::ModelError;
use crate::model::network::decoder::{DecoderSpec, HeadNormNames, Names};
use crate::model::settings::Settings;

/// The OLMo 2 family.
pub struct Olmo2;

impl Architecture for Olmo2 {
    fn names(&self) -> &'static [&'static str] {
        &["Olmo2ForSequenceClassification", "Olmo2ForCausalLM", "Olmo2Model"]
    }

    fn spec(&self, settings: &Settings) -> Result<DecoderSpec, ModelError> {
        let spec = read(settings, &Defaults { eps_value: 1e-5, ..DEFAULTS })?;
        let bias = flag(settings, "attention_bias")?;
        Ok(DecoderSpec {
            qkv_bias: bias,
            output_bias: bias,
            names: Names {
                attention_norm: None,
                head_norms: Some(HeadNormNames::Projections(["self_attn.q_norm", "self_attn.k_norm"])),
                attention_post_norm: Some("post_attention_layernorm"),
                feed_forward_norm: None,
                feed_forward_post_norm: Some("post_feedforward_layernorm"),
                ..spec.names
            },
            ..spec
        })
    }
}
