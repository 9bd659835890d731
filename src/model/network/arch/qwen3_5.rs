//! Qwen 3.5, text: Qwen 3 with Gemma's norms, a gate of each query head, a quarter of each head turned, and on three layers of four
//! the gated delta rule in place of attention. Reference: `models/qwen3_5/modeling_qwen3_5.py` of transformers.

use super::architecture::Architecture;
use super::common::{DEFAULTS, Defaults, check_sizes, flag, read};
use super::qwen3::HEAD_NORMS;
use crate::model::error::ModelError;
use crate::model::network::decoder::{DecoderSpec, DeltaNames, DeltaSpec, Names};
use crate::model::network::layers::NormKind;
use crate::model::settings::Settings;
use crate::model::shapes::{Activation, DeltaLayout};

/// The text models of the Qwen 3.5 family.
pub struct Qwen3_5;

const DELTA_NAMES: DeltaNames = DeltaNames {
    projections: ["linear_attn.in_proj_qkv", "linear_attn.in_proj_z", "linear_attn.in_proj_b", "linear_attn.in_proj_a"],
    convolution: "linear_attn.conv1d.weight",
    rate_bias: "linear_attn.dt_bias",
    rate: "linear_attn.A_log",
    norm: "linear_attn.norm",
    output: "linear_attn.out_proj",
};

impl Architecture for Qwen3_5 {
    fn names(&self) -> &'static [&'static str] {
        &["Qwen3_5TextForSequenceClassification", "Qwen3_5ForCausalLM", "Qwen3_5TextModel"]
    }

    fn spec(&self, settings: &Settings) -> Result<DecoderSpec, ModelError> {
        let defaults = Defaults {
            context: 32_768,
            head_dim: Some(256),
            kv_heads: Some(4),
            partial_rotary: Some(0.25),
            ..DEFAULTS
        };
        let spec = read(settings, &defaults)?;
        // The convolution and the norm of the delta rule have SiLU whatever is said; the feed-forward layers have what is said.
        if spec.activation != Activation::Silu {
            return Err(settings.unsupported("hidden_act", "\"silu\""));
        }
        // Positions of images have three parts; those of text are all the same, so how they are interleaved says nothing.
        let delta = delta(settings, spec.layers)?;
        let bias = flag(settings, "attention_bias")?;
        Ok(DecoderSpec {
            norm: NormKind::RmsPlusOne,
            qkv_bias: bias,
            output_bias: bias,
            output_gate: true,
            delta: Some(Box::new(delta)),
            names: Names { head_norms: HEAD_NORMS, ..spec.names },
            ..spec
        })
    }
}

fn delta(settings: &Settings, layers: usize) -> Result<DeltaSpec, ModelError> {
    let size = |field: &str, default| Ok::<_, ModelError>(settings.size(field)?.unwrap_or(default));
    let layout = DeltaLayout {
        key_heads: size("linear_num_key_heads", 16)?,
        value_heads: size("linear_num_value_heads", 32)?,
        key_dim: size("linear_key_head_dim", 128)?,
        value_dim: size("linear_value_head_dim", 128)?,
        kernel: size("linear_conv_kernel_dim", 4)?,
    };
    for heads in [[layout.key_heads, layout.key_dim], [layout.value_heads, layout.value_dim]] {
        check_sizes(settings, [1, 1, heads[0], heads[1], 1, 1])?;
    }
    if layout.kernel > 64 {
        return Err(settings.unsupported("linear_conv_kernel_dim", "at most 64"));
    }
    if !layout.value_heads.is_multiple_of(layout.key_heads) {
        return Err(settings.unsupported("linear_num_value_heads", "a multiple of linear_num_key_heads"));
    }
    Ok(DeltaSpec { layout, layers: delta_layers(settings, layers)?, names: &DELTA_NAMES })
}

/// For each layer whether it has the delta rule: `layer_types`, or all but each fourth.
fn delta_layers(settings: &Settings, layers: usize) -> Result<Vec<bool>, ModelError> {
    let Some(types) = settings.get("layer_types") else {
        let interval = settings.size("full_attention_interval")?.unwrap_or(4);
        return Ok((1..=layers).map(|layer| !layer.is_multiple_of(interval)).collect());
    };
    let expected = "linear_attention or full_attention for each layer";
    let types = types.as_array().filter(|types| types.len() >= layers);
    let types = types.ok_or_else(|| settings.unsupported("layer_types", expected))?;
    let is_delta = |kind: &serde_json::Value| match kind.as_str() {
        Some("linear_attention") => Ok(true),
        Some("full_attention") => Ok(false),
        _ => Err(settings.unsupported("layer_types", expected)),
    };
    types.iter().take(layers).map(is_delta).collect()
}
