//! What a GGUF file says of Gemma 2 and 3, in the terms of transformers' `config.json`.
//!
//! Invariant: what llama.cpp has as a constant for these models is the same constant here.
//! Source: `Gemma2Model` and `Gemma3Model` of `convert_hf_to_gguf.py`, and `load_hparams` of llama.cpp for both.

use serde_json::{Value, json};

use super::GgufFile;
use crate::model::checkpoint::WeightSource;
use crate::model::error::ModelError;

/// Keys of Gemma 2 that are read here and of no other architecture.
pub const KEYS_2: [&str; 3] = [WINDOW, FINAL_CAP, "attn_logit_softcapping"];

/// Those of Gemma 3.
pub const KEYS_3: [&str; 4] = [WINDOW, FINAL_CAP, "attention.sliding_window_pattern", "rope.freq_base_swa"];

const WINDOW: &str = "attention.sliding_window";
const FINAL_CAP: &str = "final_logit_softcapping";

impl GgufFile {
    /// Puts what Gemma 2 has beyond other models into its configuration.
    pub(super) fn add_gemma2(&self, config: &mut Value) -> Result<(), ModelError> {
        let [window, final_cap, attention_cap] = KEYS_2.map(|name| self.key(name));
        self.add_gemma(config, 46)?;
        if self.integer(&window)?.is_none() {
            config["sliding_window"] = 4096.into();
        }
        config["attn_logit_softcapping"] = self.float(&attention_cap)?.unwrap_or(50.0).into();
        config["final_logit_softcapping"] = self.float(&final_cap)?.unwrap_or(30.0).into();
        Ok(())
    }

    /// The same of Gemma 3.
    pub(super) fn add_gemma3(&self, config: &mut Value) -> Result<(), ModelError> {
        let [_, final_cap, pattern, near_theta] = KEYS_3.map(|name| self.key(name));
        self.add_gemma(config, 62)?;
        config["sliding_window_pattern"] = self.integer(&pattern)?.unwrap_or(6).into();
        config["rope_local_base_freq"] = self.float(&near_theta)?.unwrap_or(10_000.0).into();
        if let Some(cap) = self.float(&final_cap)?.filter(|cap| *cap != 0.0) {
            config["final_logit_softcapping"] = cap.into();
        }
        Ok(())
    }

    /// What both have. The model of `largest` layers has another scale of its scores; llama.cpp tells it by its layers, as the file
    /// does not say it.
    fn add_gemma(&self, config: &mut Value, largest: u64) -> Result<(), ModelError> {
        let size = |field: &str| config[field].as_u64().unwrap_or_default();
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
        config["sliding_window"] = json!(self.integer(&self.key(WINDOW))?.filter(|tokens| *tokens > 0));
        Ok(())
    }
}
