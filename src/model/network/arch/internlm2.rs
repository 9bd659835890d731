//! InternLM 2: Llama with names of its own and queries, keys and values in one matrix, group by group. Reference:
//! `modeling_internlm2.py` of the model repositories internlm/internlm2-*.

use super::architecture::Architecture;
use super::common::{DEFAULTS, Defaults, flag, read};
use crate::model::error::ModelError;
use crate::model::network::decoder::{DecoderSpec, Names, QkvNames, UpNames};
use crate::model::settings::Settings;

/// The InternLM 2 family.
pub struct InternLm2;

impl Architecture for InternLm2 {
    fn names(&self) -> &'static [&'static str] {
        &["InternLM2ForRewardModel", "InternLM2ForSequenceClassification", "InternLM2ForCausalLM", "InternLM2Model"]
    }

    fn spec(&self, settings: &Settings) -> Result<DecoderSpec, ModelError> {
        if settings.size("pretraining_tp")?.is_some_and(|ranks| ranks != 1) {
            return Err(settings.unsupported("pretraining_tp", "1"));
        }
        let spec = read(settings, &Defaults { eps: &["rms_norm_eps", "layer_norm_eps"], ..DEFAULTS })?;
        // One switch for the matrices of attention; the feed-forward layers have none.
        let bias = flag(settings, "bias")?;
        Ok(DecoderSpec {
            qkv_bias: bias,
            output_bias: bias,
            names: Names {
                embedding: "model.tok_embeddings",
                attention_norm: Some("attention_norm"),
                qkv: QkvNames::ByGroup("attention.wqkv"),
                output: "attention.wo",
                feed_forward_norm: Some("ffn_norm"),
                up: UpNames::Gated(["feed_forward.w1", "feed_forward.w3"]),
                down: "feed_forward.w2",
                ..spec.names
            },
            ..spec
        })
    }
}
