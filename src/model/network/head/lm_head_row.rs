//! The logit of one token, read as the reward: a row of the LM head, of which nothing else is read.
//!
//! Source: the model card of nvidia/Llama-3.1-Nemotron-70B-Reward-HF.

use super::affine::Affine;
use super::{Head, HeadContext, HeadKind, Hidden};
use crate::model::error::ModelError;

/// See the module.
pub struct LmHeadRow;

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    /// The token.
    row: usize,
}

impl HeadKind for LmHeadRow {
    fn name(&self) -> &'static str {
        "lm-head-row"
    }

    fn load(&self, context: &HeadContext) -> Result<Box<dyn Head>, ModelError> {
        let Options { row } = context.options()?;
        Ok(Box::new(Loaded(load_rows(context, &[row])?)))
    }
}

/// Names of LM heads, and of the embedding tables that stand for them where the two are tied.
const LM_HEADS: [&str; 2] = ["lm_head", "output"];
const EMBEDDINGS: [&str; 2] = ["model.embed_tokens", "model.tok_embeddings"];

/// Some rows of the LM head.
pub(super) fn load_rows(context: &HeadContext, rows: &[usize]) -> Result<Affine, ModelError> {
    let HeadContext { settings, weights, hidden, .. } = *context;
    // Rewards are read from logits as the model says them, caps and scales included.
    for field in ["final_logit_softcapping", "logit_scale", "logits_scaling"] {
        if settings.get(field).is_some() {
            return Err(settings.unsupported(field, "no such field where a row of the LM head is the reward"));
        }
    }
    // transformers' Gemma 2 caps the logits at 30 where a configuration says nothing, and shares the embedding with the LM head.
    let gemma2 = settings.architecture()?.starts_with("Gemma2");
    if gemma2 && !settings.has("final_logit_softcapping") {
        let expected =
            "null: transformers' Gemma 2 takes 30 where the field is left out, which is not implemented here";
        return Err(settings.unsupported("final_logit_softcapping", expected));
    }
    let vocabulary = settings.required_size("vocab_size")?;
    let tied = settings.flag("tie_word_embeddings")?.unwrap_or(gemma2);
    let is_there = |name: &&&str| weights.info(&format!("{name}.weight")).is_some();
    let embeddings = EMBEDDINGS.iter().filter(|_| tied);
    let name = LM_HEADS.iter().chain(embeddings).find(is_there).ok_or_else(|| context.absent("lm_head.weight"))?;
    Affine::load_rows(weights, name, vocabulary, rows, hidden)
}

struct Loaded(Affine);

impl Head for Loaded {
    fn outputs(&self) -> usize {
        1
    }

    fn parameters(&self) -> usize {
        self.0.parameters()
    }

    fn bytes(&self) -> usize {
        self.0.bytes()
    }

    fn forward(&self, hidden: Hidden) -> Vec<f32> {
        self.0.forward(hidden.reads)
    }
}
