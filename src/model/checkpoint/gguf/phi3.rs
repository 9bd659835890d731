//! What a GGUF file says of Phi 3 and 4, in the terms of transformers' `config.json`: a part of each head that turns, a window, and
//! the two lists of divisors of LongRoPE.
//!
//! Invariant: LongRoPE's magnitude is the one that follows from its contexts, as transformers has it; another is refused.
//! Source: `Phi3MiniModel` of `convert_hf_to_gguf.py`; `rope_factors` of llama.cpp; `modeling_rope_utils.py` of transformers.

use serde_json::{Value, json};

use super::{GgufFile, Slice};
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
        let [long, short] = DIVISORS.map(|name| self.long_rope_divisors(name, turned / 2));
        let (Some(long), Some(short)) = (long?, short?) else { return Ok(()) };
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

    /// A list of divisors, one for each pair of dimensions that turns; `None` where the file has no such list.
    fn long_rope_divisors(&self, name: &str, pairs: usize) -> Result<Option<Vec<f32>>, ModelError> {
        let Some(tensor) = self.header.tensors.get(name) else { return Ok(None) };
        if tensor.shape != [pairs] {
            let (path, found) = (self.path().to_path_buf(), tensor.shape.to_vec());
            return Err(ModelError::Shape { path, tensor: name.to_owned(), expected: vec![pairs], found });
        }
        self.read_tensor(name, tensor, &Slice { rows: 0..pairs, columns: 0..1 }).map(Some)
    }
}
