//! Gemma 2: a scaled embedding, norms before and after each part, soft-capped scores, a window on every other layer.
//! Reference: `models/gemma2/modeling_gemma2.py` of transformers.

use super::architecture::Architecture;
use super::common::{DEFAULTS, Defaults, flag, read, windows};
use crate::model::error::ModelError;
use crate::model::network::decoder::{DecoderSpec, Names};
use crate::model::network::layers::NormKind;
use crate::model::settings::Settings;
use crate::model::shapes::Activation;

/// The Gemma 2 family.
pub struct Gemma2;

impl Architecture for Gemma2 {
    fn names(&self) -> &'static [&'static str] {
        &["Gemma2ForSequenceClassification", "Gemma2ForCausalLM", "Gemma2Model"]
    }

    fn spec(&self, settings: &Settings) -> Result<DecoderSpec, ModelError> {
        let defaults = Defaults {
            context: 8192,
            head_dim: Some(256),
            kv_heads: Some(4),
            activation: ("hidden_activation", Activation::GeluTanh),
            ..DEFAULTS
        };
        let spec = read(settings, &defaults)?;
        if flag(settings, "use_bidirectional_attention")? {
            return Err(settings.unsupported("use_bidirectional_attention", "false"));
        }
        // An older field that transformers ignores in favour of `hidden_activation`, as does everybody.
        let _ = settings.get("hidden_act");
        let bias = flag(settings, "attention_bias")?;
        let soft_cap = number_or(settings, "attn_logit_softcapping", 50.0)?;
        if soft_cap.is_some_and(|cap| cap <= 0.0) {
            return Err(settings.unsupported("attn_logit_softcapping", "a number above 0, or null"));
        }
        let window = if settings.has("sliding_window") { settings.size("sliding_window")? } else { Some(4096) };
        // Older files say it twice.
        if settings.size("sliding_window_size")?.is_some_and(|size| Some(size) != window) {
            return Err(settings.unsupported("sliding_window_size", "what sliding_window says"));
        }
        Ok(DecoderSpec {
            embedding_scale: Some((spec.hidden as f64).sqrt() as f32),
            norm: NormKind::RmsPlusOne,
            attention_scale: attention_scale(settings)?,
            soft_cap: soft_cap.map(|cap| cap as f32),
            windows: windows(settings, spec.layers, window, |layer| layer.is_multiple_of(2))?,
            qkv_bias: bias,
            output_bias: bias,
            names: gemma_names(spec.names),
            ..spec
        })
    }
}

/// A number; `None` where it is null, the default where it is not there.
fn number_or(settings: &Settings, field: &str, default: f64) -> Result<Option<f64>, ModelError> {
    if settings.has(field) { settings.number(field) } else { Ok(Some(default)) }
}

/// The factor of attention scores in Gemma 2 and 3.
pub(super) fn attention_scale(settings: &Settings) -> Result<f32, ModelError> {
    let field = "query_pre_attn_scalar";
    let scalar = number_or(settings, field, 256.0)?.filter(|scalar| *scalar > 0.0);
    let scalar = scalar.ok_or_else(|| settings.unsupported(field, "a number above 0"))?;
    Ok((1.0 / scalar.sqrt()) as f32)
}

/// Norms before and after each part.
pub(super) fn gemma_names(names: Names) -> Names {
    Names {
        attention_post_norm: Some("post_attention_layernorm"),
        feed_forward_norm: Some("pre_feedforward_layernorm"),
        feed_forward_post_norm: Some("post_feedforward_layernorm"),
        ..names
    }
}
