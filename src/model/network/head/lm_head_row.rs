//! The logit of one token, read as the reward: a row of the LM head, of which nothing else is read.
//!
//! Source: the model card of nvidia/Llama-3.1-Nemotron-70B-Reward-HF.

use super::logits::Logits;
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
        Ok(Box::new(Loaded(Logits::load(context, &[row])?)))
    }
}

struct Loaded(Logits);

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
