//! Rows of the LM head: logits of some tokens, scaled and capped as the model says them, of which nothing else is read.
//!
//! Sources: `Gemma2ForCausalLM` (`final_logit_softcapping`), `CohereForCausalLM` (`logit_scale`) and `GraniteForCausalLM`
//! (`logits_scaling`) of transformers.

use super::HeadContext;
use super::affine::Affine;
use crate::model::compute::kernels::exp;
use crate::model::error::ModelError;
use crate::model::settings::Settings;

/// Some rows of an LM head.
pub struct Logits {
    rows: Affine,
    scale: f32,
    cap: Option<f32>,
}

/// Names of LM heads, and of the embedding tables that stand for them where the two are tied.
const LM_HEADS: [&str; 2] = ["lm_head", "output"];
const EMBEDDINGS: [&str; 2] = ["model.embed_tokens", "model.tok_embeddings"];

/// transformers' Gemma 2, where a configuration says nothing of it.
const GEMMA2_CAP: f64 = 30.0;

impl Logits {
    /// The logits of some tokens.
    pub fn load(context: &HeadContext, tokens: &[usize]) -> Result<Self, ModelError> {
        let HeadContext { settings, weights, hidden, .. } = *context;
        let architecture = settings.architecture()?;
        let is = |family: &str| architecture.starts_with(family);
        let vocabulary = settings.required_size("vocab_size")?;
        // Gemma and Cohere share the embedding with the LM head where a configuration says nothing of it.
        let tied = settings.flag("tie_word_embeddings")?.unwrap_or(is("Gemma") || is("Cohere"));
        let is_there = |name: &&&str| weights.info(&format!("{name}.weight")).is_some();
        let embeddings = EMBEDDINGS.iter().filter(|_| tied);
        let name = LM_HEADS.iter().chain(embeddings).find(is_there).ok_or_else(|| context.absent("lm_head.weight"))?;
        Ok(Self {
            rows: Affine::load_rows(weights, name, vocabulary, tokens, hidden)?,
            scale: scale(settings, is("Cohere"), is("Granite"))?,
            cap: cap(settings, is("Gemma2"), is("Gemma"))?,
        })
    }

    /// Number of weights.
    pub fn parameters(&self) -> usize {
        self.rows.parameters()
    }

    /// Bytes of the weights in memory.
    pub fn bytes(&self) -> usize {
        self.rows.bytes()
    }

    /// The logits at each row of `x`, `[rows, tokens]`.
    pub fn forward(&self, x: &[f32]) -> Vec<f32> {
        let mut logits = self.rows.forward(x);
        for logit in &mut logits {
            *logit *= self.scale;
            if let Some(cap) = self.cap {
                *logit = cap * tanh(*logit / cap);
            }
        }
        logits
    }
}

/// What logits are multiplied by.
fn scale(settings: &Settings, cohere: bool, granite: bool) -> Result<f32, ModelError> {
    for (field, is_read) in [("logit_scale", cohere), ("logits_scaling", granite)] {
        if !is_read && settings.get(field).is_some() {
            return Err(settings.unsupported(field, "no such field where a row of the LM head is the reward"));
        }
    }
    // transformers' defaults.
    let multiplied = if cohere { settings.number("logit_scale")?.unwrap_or(0.0625) } else { 1.0 };
    let divided = if granite { settings.number("logits_scaling")?.unwrap_or(1.0) } else { 1.0 };
    if divided > 0.0 {
        Ok((multiplied / divided) as f32)
    } else {
        Err(settings.unsupported("logits_scaling", "a number above 0"))
    }
}

/// The soft cap of logits.
fn cap(settings: &Settings, gemma2: bool, gemma: bool) -> Result<Option<f32>, ModelError> {
    const FIELD: &str = "final_logit_softcapping";
    let cap = if gemma2 && !settings.has(FIELD) { Some(GEMMA2_CAP) } else { settings.number(FIELD)? };
    match cap {
        Some(_) if !gemma => {
            Err(settings
                .unsupported(FIELD, "no such field where a row of the LM head of this architecture is the reward"))
        }
        Some(cap) if cap <= 0.0 => Err(settings.unsupported(FIELD, "a number above 0, or null")),
        cap => Ok(cap.map(|cap| cap as f32)),
    }
}

/// The hyperbolic tangent, by the exponential of the kernels, which has the same bits on every machine.
fn tanh(x: f32) -> f32 {
    let e = exp(-2.0 * x.abs());
    ((1.0 - e) / (1.0 + e)).copysign(x)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::{Value, json};

    use super::*;

    fn cap_of(architecture: &str, fields: Value) -> Result<Option<f32>, String> {
        let settings = Settings::new(Path::new("config.json"), fields).unwrap();
        cap(&settings, architecture == "Gemma2", architecture.starts_with("Gemma")).map_err(|e| e.to_string())
    }

    /// `Gemma2Config` of transformers 5.23 has `final_logit_softcapping = 30.0` where a configuration leaves it out, and none where it
    /// says null; `GemmaConfig` has no such field.
    #[test]
    fn gemma_2_caps_logits_unless_its_configuration_says_otherwise() {
        assert_eq!(cap_of("Gemma2", json!({})), Ok(Some(30.0)));
        assert_eq!(cap_of("Gemma2", json!({"final_logit_softcapping": null})), Ok(None));
        assert_eq!(cap_of("Gemma2", json!({"final_logit_softcapping": 7.5})), Ok(Some(7.5)));
        assert_eq!(cap_of("Gemma", json!({})), Ok(None));
        assert_eq!(cap_of("Llama", json!({})), Ok(None));
        for (architecture, cap) in [("Gemma2", 0.0), ("Llama", 30.0)] {
            let refusal = cap_of(architecture, json!({"final_logit_softcapping": cap})).unwrap_err();
            assert!(refusal.contains("final_logit_softcapping"), "{refusal}");
        }
    }

    /// The cap as `30 * tanh(x / 30)`, which the small logits of a fixture would hardly show. One rounding of the exponential, 6e-8, is
    /// 30 times that in the logit.
    #[test]
    fn large_logits_are_capped() {
        let rows = Affine::new(1, 1, &[1.0]);
        let capped = Logits { rows, scale: 1.0, cap: Some(30.0) };
        for x in [-1e4_f32, -60.0, -1.0, 0.0, 1.0, 29.0, 60.0, 1e4] {
            let expected = 30.0 * libm::tanh(f64::from(x) / 30.0);
            let found = f64::from(capped.forward(&[x])[0]);
            assert!((found - expected).abs() <= 1e-5 * expected.abs().max(1.0), "{x}: {found}, expected {expected}");
        }
    }
}
