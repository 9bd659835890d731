//! Granite: Llama with a factor on the embedding, on attention scores and on what each part adds. Reference:
//! `models/granite/modeling_granite.py` of transformers, which has no class with a reward head: the name is that of its
//! generic one.

use super::architecture::Architecture;
use super::common::{DEFAULTS, flag, read};
use crate::model::error::ModelError;
use crate::model::network::decoder::DecoderSpec;
use crate::model::settings::Settings;

/// The Granite family without experts.
pub struct Granite;

impl Architecture for Granite {
    fn names(&self) -> &'static [&'static str] {
        &["GraniteForSequenceClassification", "GraniteForCausalLM", "GraniteModel"]
    }

    fn spec(&self, settings: &Settings) -> Result<DecoderSpec, ModelError> {
        let spec = read(settings, &DEFAULTS)?;
        let bias = flag(settings, "attention_bias")?;
        let factor = |field: &str| Ok::<_, ModelError>(settings.number(field)?.unwrap_or(1.0) as f32);
        // It divides the logits of a language model; a reward head has none.
        settings.number("logits_scaling")?;
        Ok(DecoderSpec {
            embedding_scale: Some(factor("embedding_multiplier")?),
            attention_scale: factor("attention_multiplier")?,
            residual_scale: Some(factor("residual_multiplier")?),
            qkv_bias: bias,
            output_bias: bias,
            feed_forward_bias: flag(settings, "mlp_bias")?,
            ..spec
        })
    }
}
