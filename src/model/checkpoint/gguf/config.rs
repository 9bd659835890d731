//! A GGUF file's metadata in the terms of transformers' `config.json`.

use std::f64::consts::PI;

use serde_json::{Value, json};

use super::{GgufFile, Slice};
use crate::model::error::ModelError;

/// What each frequency of the rotary embedding is divided by, where the model scales them.
pub const ROPE_DIVISORS: &str = "rope_freqs.weight";

/// Parts of names of keys that change the numbers and that nothing here reads.
const SUSPICIOUS: &[&str] =
    &["alibi", "clamp", "expert", "parallel", "residual", "scal", "sections", "sliding_window", "softcap", "swa"];

impl GgufFile {
    /// The configuration as `config.json` would say it.
    pub fn config(&self) -> Result<Value, ModelError> {
        let key = |name: &str| self.key(name);
        let hidden: usize = self.required(&key("embedding_length"))?;
        let head_dim = self.integer(&key("attention.key_length"))?.unwrap_or(hidden / self.heads.max(1));
        for (name, expected) in [("attention.value_length", head_dim), ("rope.dimension_count", head_dim)] {
            if let Some(found) = self.integer(&key(name))?.filter(|&found| found != expected) {
                return Err(self.unsupported(&key(name), &found.to_string(), &expected.to_string()));
            }
        }
        if let Some(scaling) = self.string(&key("rope.scaling.type"))?.filter(|s| *s != "none") {
            return Err(self.unsupported(&key("rope.scaling.type"), scaling, "none"));
        }
        self.refuse_unread()?;
        let vocabulary = match self.integer(&key("vocab_size"))? {
            Some(size) => size,
            None => self.strings("tokenizer.ggml.tokens")?.unwrap_or_default().len(),
        };
        let theta = self.float(&key("rope.freq_base"))?.unwrap_or(10_000.0);
        Ok(json!({
            "architectures": [self.family.architecture],
            "hidden_act": "silu",
            "hidden_size": hidden,
            "intermediate_size": self.required(&key("feed_forward_length"))?,
            "num_hidden_layers": self.required(&key("block_count"))?,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": head_dim,
            "max_position_embeddings": self.required(&key("context_length"))?,
            "rms_norm_eps": self.float(&key("attention.layer_norm_rms_epsilon"))?,
            "rope_theta": theta,
            "rope_scaling": self.rope_scaling(theta, head_dim)?,
            "vocab_size": vocabulary,
        }))
    }

    /// Refuses a key of the architecture that nothing reads, is not off, and by its name may change the numbers.
    fn refuse_unread(&self) -> Result<(), ModelError> {
        let prefix = self.key("");
        let mut keys: Vec<&String> = self.header.metadata.keys().filter(|key| key.starts_with(&prefix)).collect();
        keys.sort();
        for key in keys {
            if !SUSPICIOUS.iter().any(|part| key[prefix.len()..].contains(part)) {
                continue;
            }
            let found = match (self.integer(key), self.boolean(key), self.float(key), self.string(key)) {
                (Ok(Some(0)), ..) | (_, Ok(Some(false)), ..) | (.., Ok(Some(0.0)), _) | (.., Ok(Some("none"))) => {
                    continue;
                }
                (Ok(Some(number)), ..) => number.to_string(),
                (.., Ok(Some(number)), _) => number.to_string(),
                (.., Ok(Some(text))) => format!("{text:?}"),
                _ => format!("of type {:?}", self.header.metadata[key].kind),
            };
            return Err(self.unsupported(key, &found, "no such key: it is not known here, and may change the numbers"));
        }
        Ok(())
    }

    /// Llama 3.1's scaling out of the divisors that llama.cpp makes of it.
    fn rope_scaling(&self, theta: f64, head_dim: usize) -> Result<Value, ModelError> {
        let Some(tensor) = self.header.tensors.get(ROPE_DIVISORS) else { return Ok(Value::Null) };
        if tensor.shape != [head_dim / 2] {
            let shape = tensor.shape.to_vec();
            let (path, tensor) = (self.path().to_path_buf(), ROPE_DIVISORS.to_owned());
            return Err(ModelError::Shape { path, tensor, expected: vec![head_dim / 2], found: shape });
        }
        let whole = Slice { rows: 0..head_dim / 2, columns: 0..1 };
        let divisors = self.read_tensor(ROPE_DIVISORS, tensor, &whole)?;
        llama3(&divisors, theta).ok_or_else(|| {
            self.unsupported(&format!("tensor {ROPE_DIVISORS:?}"), "present", "the divisors of Llama 3.1's scaling")
        })
    }
}

/// The scaling, with the bounds of 1 and 4 turns that all published models have, which gives these divisors; `None` if none
/// does. A frequency that turns less than once in the original context is divided by the factor, one that turns four times
/// is kept, and between them the share of what is kept grows with the turns.
fn llama3(divisors: &[f32], theta: f64) -> Option<Value> {
    const LOW: f64 = 1.0;
    const HIGH: f64 = 4.0;
    let factor = divisors.iter().copied().map(f64::from).fold(1.0, f64::max);
    if factor == 1.0 {
        return divisors.iter().all(|&d| d == 1.0).then_some(Value::Null);
    }
    let wavelength = |i: usize| 2.0 * PI * libm::pow(theta, i as f64 / divisors.len() as f64);
    // The least context at which those that are kept turn four times; one on the ramp says exactly which it is.
    let mut context = 0.0_f64;
    for (i, divisor) in divisors.iter().copied().map(f64::from).enumerate() {
        if divisor == 1.0 {
            context = context.max(HIGH * wavelength(i));
        } else if divisor < factor * (1.0 - 1e-5) {
            let kept = (1.0 / divisor - 1.0 / factor) / (1.0 - 1.0 / factor);
            context = wavelength(i) * (LOW + kept * (HIGH - LOW));
            break;
        }
    }
    let context = context.round();
    for (i, divisor) in divisors.iter().copied().map(f64::from).enumerate() {
        let kept = ((context / wavelength(i) - LOW) / (HIGH - LOW)).clamp(0.0, 1.0);
        let expected = 1.0 / ((1.0 - kept) / factor + kept);
        // They are stored as float32, of numbers that were computed in float32 at least.
        let close = (divisor - expected).abs() <= 1e-4 * expected;
        if !close {
            return None;
        }
    }
    Some(json!({
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": LOW,
        "high_freq_factor": HIGH,
        "original_max_position_embeddings": context,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What llama.cpp makes of a scaling.
    fn divisors(theta: f64, pairs: usize, factor: f64, context: f64) -> Vec<f32> {
        let divisor = |i: usize| {
            let turns = context / (2.0 * PI * libm::pow(theta, i as f64 / pairs as f64));
            let kept = ((turns - 1.0) / 3.0).clamp(0.0, 1.0);
            (1.0 / ((1.0 - kept) / factor + kept)) as f32
        };
        (0..pairs).map(divisor).collect()
    }

    #[test]
    fn the_scaling_is_found_again() {
        for (theta, pairs, factor, context) in
            [(500_000.0, 64, 8.0, 8192.0), (500_000.0, 32, 32.0, 8192.0), (10_000.0, 48, 4.0, 2048.0)]
        {
            let found = llama3(&divisors(theta, pairs, factor, context), theta).unwrap();
            assert_eq!(found["factor"], factor);
            assert_eq!(found["original_max_position_embeddings"], context);
        }
        assert_eq!(llama3(&[1.0; 32], 10_000.0), Some(Value::Null));
    }

    #[test]
    fn other_divisors_are_none() {
        let mut odd = divisors(500_000.0, 64, 8.0, 8192.0);
        odd[3] = 1.5;
        assert_eq!(llama3(&odd, 500_000.0), None);
        assert_eq!(llama3(&[1.0, f32::NAN, 8.0], 10_000.0), None);
        assert_eq!(llama3(&[8.0, 4.0, 1.0], 10_000.0), None);
        assert_eq!(llama3(&[0.5, 0.5], 10_000.0), None);
    }
}
