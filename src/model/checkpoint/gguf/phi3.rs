//! What a GGUF file says of Phi 3 and 4, in the terms of transformers' `config.json`: a part of each head that turns, a window, and
//! the two lists of divisors of LongRoPE.
//!
//! Invariant: LongRoPE's magnitude is the one that follows from its contexts, as transformers has it; another is refused.
//! Source: `Phi3MiniModel` of `convert_hf_to_gguf.py`; `rope_factors` of llama.cpp; `modeling_rope_utils.py` of transformers.

use serde_json::{Value, json};

use super::GgufFile;
use crate::model::error::ModelError;

/// Keys that are read here and of no other architecture.
pub const KEYS: [&str; 2] = ["rope.scaling.attn_factor", "attention.sliding_window"];

/// LongRoPE's divisors beyond the first context, and within it.
pub const DIVISORS: [&str; 2] = ["rope_factors_long.weight", "rope_factors_short.weight"];

/// How far a magnitude that was computed and stored in float32 may be from the one that its contexts give.
const ROUNDED: f64 = 1e-5;

impl GgufFile {
    /// Puts what such a model has beyond others into its configuration.
    pub(super) fn add_phi3(&self, config: &mut Value) -> Result<(), ModelError> {
        let [magnitude, window] = KEYS.map(|name| self.key(name));
        config["sliding_window"] = json!(self.integer(&window)?.filter(|tokens| *tokens > 0));
        let head_dim = config["head_dim"].as_u64().unwrap_or_default() as usize;
        let turned = self.integer(&self.key("rope.dimension_count"))?.unwrap_or(head_dim);
        if turned == 0 || turned > head_dim || !turned.is_multiple_of(2) {
            let expected = format!("an even number up to {head_dim}");
            return Err(self.unsupported(&self.key("rope.dimension_count"), &turned.to_string(), &expected));
        }
        config["partial_rotary_factor"] = json!(turned as f64 / head_dim as f64);
        // One divisor for each pair of dimensions that turns.
        let [long, short] = DIVISORS.map(|name| self.list(name, turned / 2));
        let (long, short) = match (long?, short?) {
            (Some(long), Some(short)) => (long, short),
            (None, None) => {
                return match self.float(&magnitude)?.filter(|found| *found != 1.0) {
                    Some(found) => {
                        Err(self.unsupported(&magnitude, &found.to_string(), "1, without LongRoPE's divisors"))
                    }
                    None => Ok(()),
                };
            }
            (Some(_), None) | (None, Some(_)) => {
                return Err(self.unsupported("LongRoPE's divisors", "one list", &DIVISORS.join(" and ")));
            }
        };
        let first = self.key("rope.scaling.original_context_length");
        let original: usize = self.required(&first)?;
        let context = config["max_position_embeddings"].as_u64().unwrap_or_default() as f64;
        let stretch = context / original.max(1) as f64;
        let follows =
            if stretch > 1.0 { libm::sqrt(1.0 + libm::log(stretch) / libm::log(original as f64)) } else { 1.0 };
        if let Some(found) = self.float(&magnitude)?.filter(|found| (found - follows).abs() > ROUNDED * follows) {
            return Err(self.unsupported(&magnitude, &found.to_string(), &follows.to_string()));
        }
        config["original_max_position_embeddings"] = original.into();
        config["rope_scaling"] = json!({"rope_type": "longrope", "long_factor": long, "short_factor": short});
        Ok(())
    }
}
