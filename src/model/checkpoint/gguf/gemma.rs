//! What a GGUF file says of Gemma 2 and 3, in the terms of transformers' `config.json`.
//!
//! Invariant: what llama.cpp has as a constant for these models is the same constant here.
//! Source: `Gemma2Model` and `Gemma3Model` of `convert_hf_to_gguf.py`, and `load_hparams` of llama.cpp for both.

use serde_json::{Value, json};

use super::GgufFile;
use super::family::{GEMMA_2, GEMMA_3};
use crate::model::checkpoint::WeightSource;
use crate::model::error::ModelError;

/// Keys that are read here and of no other architecture.
pub const KEYS: [&str; 5] = [
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "attention.sliding_window",
    "attention.sliding_window_pattern",
    "rope.freq_base_swa",
];

impl GgufFile {
    /// Whether it holds such a model.
    pub(super) fn is_gemma(&self) -> bool {
        matches!(self.family.name, GEMMA_2 | GEMMA_3)
    }

    /// Puts what they have beyond other models into their configuration.
    pub(super) fn add_gemma(&self, config: &mut Value) -> Result<(), ModelError> {
        let [attention_cap, final_cap, window, pattern, near_theta] = KEYS.map(|name| self.key(name));
        let size = |field: &str| config[field].as_u64().unwrap_or_default();
        // The largest of each has another scale of its scores; llama.cpp tells it by its layers, as the file does not say it.
        let largest = if self.family.name == GEMMA_2 { 46 } else { 62 };
        let scale = if size("num_hidden_layers") == largest {
            size("hidden_size") / size("num_attention_heads").max(1)
        } else {
            size("head_dim")
        };
        config["query_pre_attn_scalar"] = scale.into();
        if let Some(fields) = config.as_object_mut() {
            fields.remove("hidden_act");
        }
        config["hidden_activation"] = "gelu_pytorch_tanh".into();
        config["tie_word_embeddings"] = self.info("lm_head.weight").is_none().into();
        config["sliding_window"] = json!(self.integer(&window)?.filter(|tokens| *tokens > 0));
        if self.family.name == GEMMA_2 {
            config["attn_logit_softcapping"] = self.float(&attention_cap)?.unwrap_or(50.0).into();
            config["final_logit_softcapping"] = self.float(&final_cap)?.unwrap_or(30.0).into();
        } else {
            config["sliding_window_pattern"] = self.integer(&pattern)?.unwrap_or(6).into();
            config["rope_local_base_freq"] = self.float(&near_theta)?.unwrap_or(10_000.0).into();
            if let Some(cap) = self.float(&final_cap)?.filter(|cap| *cap != 0.0) {
                config["final_logit_softcapping"] = cap.into();
            }
        }
        Ok(())
    }
}
