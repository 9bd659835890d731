//! Gemma 3, text: Gemma 2 without soft caps, with norms of each query and key head, a window on five layers of six, and
//! frequencies of their own for those. Reference: `models/gemma3/modeling_gemma3.py` of transformers.

use serde_json::{Map, Value, json};

use super::architecture::Architecture;
use super::common::{DEFAULTS, Defaults, flag, read, windows};
use super::gemma2::{attention_scale, gemma_names};
use super::qwen3::HEAD_NORMS;
use crate::model::error::ModelError;
use crate::model::network::decoder::{DecoderSpec, Names};
use crate::model::network::layers::{NormKind, Rotary};
use crate::model::settings::Settings;
use crate::model::shapes::Activation;

/// The text models of the Gemma 3 family.
pub struct Gemma3;

impl Architecture for Gemma3 {
    fn names(&self) -> &'static [&'static str] {
        &["Gemma3TextForSequenceClassification", "Gemma3ForCausalLM", "Gemma3TextModel"]
    }

    fn spec(&self, settings: &Settings) -> Result<DecoderSpec, ModelError> {
        let defaults = Defaults {
            context: 131_072,
            head_dim: Some(256),
            kv_heads: Some(4),
            activation: ("hidden_activation", Activation::GeluTanh),
            rope: |settings, head_dim, context, _| {
                rope(settings, "full_attention", ("rope_theta", 1e6), head_dim, context)
            },
            ..DEFAULTS
        };
        let spec = read(settings, &defaults)?;
        if flag(settings, "use_bidirectional_attention")? {
            return Err(settings.unsupported("use_bidirectional_attention", "false"));
        }
        // transformers reads it and applies it nowhere.
        if settings.number("attn_logit_softcapping")?.is_some() {
            return Err(settings.unsupported("attn_logit_softcapping", "null"));
        }
        let pattern = match settings.size("sliding_window_pattern")? {
            Some(pattern) => pattern,
            None => settings.size("_sliding_window_pattern")?.unwrap_or(6),
        };
        let window = if settings.has("sliding_window") { settings.size("sliding_window")? } else { Some(4096) };
        let windows = windows(settings, spec.layers, window, |layer| !(layer + 1).is_multiple_of(pattern))?;
        let near = ("rope_local_base_freq", 10_000.0);
        let near = rope(settings, "sliding_attention", near, spec.heads.head_dim, spec.context)?;
        let bias = flag(settings, "attention_bias")?;
        Ok(DecoderSpec {
            embedding_scale: Some((spec.hidden as f64).sqrt() as f32),
            norm: NormKind::RmsPlusOne,
            attention_scale: attention_scale(settings)?,
            ropes: spec.ropes.into_iter().chain([near]).collect(),
            layer_ropes: windows.iter().map(|window| Some(usize::from(window.is_some()))).collect(),
            windows,
            qkv_bias: bias,
            output_bias: bias,
            names: Names { head_norms: HEAD_NORMS, ..gemma_names(spec.names) },
            ..spec
        })
    }
}

/// The frequencies of a kind of layer. Configurations before transformers 5 have their base in a field of its own, and a
/// scaling of those of full attention.
pub(super) fn rope(
    settings: &Settings,
    kind: &str,
    (field, theta): (&str, f64),
    head_dim: usize,
    context: usize,
) -> Result<Rotary, ModelError> {
    let object = |name: &str| settings.get(name).and_then(Value::as_object);
    let mut parameters: Map<String, Value> = object(&format!("rope_parameters.{kind}")).cloned().unwrap_or_default();
    let kinds = ["full_attention", "sliding_attention"];
    if object("rope_parameters").is_some_and(|of| of.keys().any(|key| !kinds.contains(&key.as_str()))) {
        return Err(settings.unsupported("rope_parameters", format!("an object of {}", kinds.join(" and "))));
    }
    if kind == "full_attention" {
        parameters.extend(object("rope_scaling").cloned().unwrap_or_default());
    }
    let theta = settings.number(field)?.unwrap_or(theta);
    parameters.entry("rope_theta").or_insert(json!(theta));
    Rotary::read(&Settings::new(settings.path(), json!({"rope_parameters": parameters}))?, head_dim, context, 1.0)
}
