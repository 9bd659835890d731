//! The scaling of the rotary embedding in a GGUF file, in the terms of transformers' `rope_scaling`.
//!
//! A scaling that is said twice, or that only llama.cpp computes, is refused.
//! Source: `llama_model::load_hparams` and `llama_context` of llama.cpp: without a type but with a factor it is linear, and the
//! magnitude of YaRN follows from its factor; `modeling_rope_utils.py` of transformers has the same one.

use std::f64::consts::PI;

use serde_json::{Value, json};

use super::{GgufFile, Slice};
use crate::model::error::ModelError;

/// What each frequency of the rotary embedding is divided by, where the model scales them.
pub const DIVISORS: &str = "rope_freqs.weight";

/// Keys about the scaling that are read here, or say that a model was trained with it.
pub const KEYS: [&str; 7] = [
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scale_linear",
    "rope.scaling.original_context_length",
    "rope.scaling.finetuned",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
];

impl GgufFile {
    /// The scaling, by its type and factor or by the divisors that llama.cpp makes of Llama 3.1's.
    pub(super) fn rope_scaling(&self, theta: f64, head_dim: usize) -> Result<Value, ModelError> {
        let [kind, factor, older_factor, context, _, fast, slow] = KEYS.map(|name| self.key(name));
        let number =
            |key: &str| -> Result<Option<f64>, ModelError> { Ok(self.float(key)?.filter(|number| *number != 0.0)) };
        let found = match number(&factor)? {
            Some(factor) => Some(factor),
            None => number(&older_factor)?,
        };
        let named = self.string(&kind)?.unwrap_or("linear");
        let scaling = match (named, found) {
            ("none", _) | ("linear", None | Some(1.0)) => Value::Null,
            ("linear" | "yarn", Some(number)) if number <= 0.0 => {
                return Err(self.unsupported(&factor, &number.to_string(), "a number above 0"));
            }
            ("linear", Some(factor)) => json!({"rope_type": "linear", "factor": factor}),
            ("yarn", Some(factor)) => {
                let mut scaling = json!({"rope_type": "yarn", "factor": factor});
                if let Some(tokens) = self.integer(&context)?.filter(|tokens| *tokens > 0) {
                    scaling["original_max_position_embeddings"] = tokens.into();
                }
                for (field, key) in [("beta_fast", fast), ("beta_slow", slow)] {
                    if let Some(beta) = number(&key)? {
                        scaling[field] = beta.into();
                    }
                }
                scaling
            }
            _ => return Err(self.unsupported(&kind, &format!("{named:?}"), "none, linear or yarn, with a factor")),
        };
        let by_divisors = self.divisors(theta, head_dim)?;
        if scaling.is_null() || by_divisors.is_null() {
            return Ok(if scaling.is_null() { by_divisors } else { scaling });
        }
        Err(self.unsupported(&format!("tensor {DIVISORS:?}"), "present", &format!("none, as {kind} is {named:?}")))
    }

    /// A list of so many numbers that stands among the tensors; `None` where there is none.
    pub(super) fn list(&self, name: &str, len: usize) -> Result<Option<Vec<f32>>, ModelError> {
        let Some(tensor) = self.header.tensors.get(name) else { return Ok(None) };
        if tensor.shape != [len] {
            let (path, found) = (self.path().to_path_buf(), tensor.shape.to_vec());
            return Err(ModelError::Shape { path, tensor: name.to_owned(), expected: vec![len], found });
        }
        self.read_tensor(name, tensor, &Slice { rows: 0..len, columns: 0..1 }).map(Some)
    }

    /// Llama 3.1's scaling out of the divisors that llama.cpp makes of it.
    fn divisors(&self, theta: f64, head_dim: usize) -> Result<Value, ModelError> {
        let Some(divisors) = self.list(DIVISORS, head_dim / 2)? else { return Ok(Value::Null) };
        llama3(&divisors, theta).ok_or_else(|| {
            self.unsupported(&format!("tensor {DIVISORS:?}"), "present", "the divisors of Llama 3.1's scaling")
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
