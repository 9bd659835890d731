//! Mixtral: Mistral with a mixture of experts in every layer. Reference: `models/mixtral/modeling_mixtral.py` of
//! transformers.

use super::architecture::Architecture;
use super::common::{DEFAULTS, Defaults, read, rope_from, windows};
use super::experts::{Sizes, experts};
use crate::model::error::ModelError;
use crate::model::network::decoder::{DecoderSpec, ExpertNames};
use crate::model::settings::Settings;

/// The Mixtral family.
pub struct Mixtral;

impl Architecture for Mixtral {
    fn names(&self) -> &'static [&'static str] {
        &["MixtralForSequenceClassification", "MixtralForCausalLM", "MixtralModel"]
    }

    fn spec(&self, settings: &Settings) -> Result<DecoderSpec, ModelError> {
        let defaults = Defaults {
            context: 4096 * 32,
            kv_heads: Some(8),
            eps_value: 1e-5,
            rope: |settings, head_dim, context, partial| rope_from(settings, head_dim, context, partial, 1e6),
            ..DEFAULTS
        };
        let spec = read(settings, &defaults)?;
        let count = [("num_local_experts", 8), ("num_experts", 8)];
        let sizes = Sizes { count: &count, features: spec.feed_forward, top_k: 2, normalised: true };
        let names = ExpertNames {
            router: "block_sparse_moe.gate",
            up: ["block_sparse_moe.experts.*.w1", "block_sparse_moe.experts.*.w3"],
            down: "block_sparse_moe.experts.*.w2",
        };
        let experts = experts(settings, &spec, &sizes, names, |_| true)?;
        let windows = windows(settings, spec.layers, settings.size("sliding_window")?, |_| true)?;
        Ok(DecoderSpec { windows, experts: Some(experts), ..spec })
    }
}
