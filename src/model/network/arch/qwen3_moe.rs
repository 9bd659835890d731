//! Qwen 3 with a mixture of experts. Reference: `models/qwen3_moe/modeling_qwen3_moe.py` of transformers.

use super::architecture::Architecture;
use super::common::{Defaults, flag, read, windows};
use super::experts::{Sizes, experts};
use super::qwen2::QWEN;
use super::qwen3::HEAD_NORMS;
use crate::model::error::ModelError;
use crate::model::network::decoder::{DecoderSpec, ExpertNames, Names};
use crate::model::settings::Settings;

/// The Qwen 3 family with experts.
pub struct Qwen3Moe;

impl Architecture for Qwen3Moe {
    fn names(&self) -> &'static [&'static str] {
        &["Qwen3MoeForSequenceClassification", "Qwen3MoeForCausalLM", "Qwen3MoeModel"]
    }

    fn spec(&self, settings: &Settings) -> Result<DecoderSpec, ModelError> {
        let spec = read(settings, &Defaults { kv_heads: Some(4), ..QWEN })?;
        let step = settings.size("decoder_sparse_step")?.unwrap_or(1);
        let dense = settings.numbers("mlp_only_layers")?.unwrap_or_default();
        let sizes = Sizes {
            count: &[("num_experts", 128), ("num_local_experts", 128)],
            features: settings.size("moe_intermediate_size")?.unwrap_or(768),
            top_k: 8,
            normalised: flag(settings, "norm_topk_prob")?,
        };
        let names = ExpertNames {
            router: "mlp.gate",
            up: ["mlp.experts.*.gate_proj", "mlp.experts.*.up_proj"],
            down: "mlp.experts.*.down_proj",
        };
        let experts = experts(settings, &spec, &sizes, names, |layer| {
            (layer + 1).is_multiple_of(step) && !dense.contains(&(layer as f64))
        })?;
        // Unlike in Qwen 3 without experts, all layers have the window.
        let window = if settings.has("sliding_window") { settings.size("sliding_window")? } else { Some(4096) };
        let slides = flag(settings, "use_sliding_window")?;
        let window = window.filter(|_| slides);
        let bias = flag(settings, "attention_bias")?;
        Ok(DecoderSpec {
            qkv_bias: bias,
            output_bias: bias,
            windows: windows(settings, spec.layers, window, |_| true)?,
            experts: Some(experts),
            names: Names { head_norms: HEAD_NORMS, ..spec.names },
            ..spec
        })
    }
}
