//! The logit of one token less that of another, such as yes and no: how much rather the model would answer the first.
//!
//! Source: the model card of nvidia/Llama-3.3-Nemotron-70B-Reward-Principle.

use super::affine::Affine;
use super::{Head, HeadContext, HeadKind, Hidden, lm_head_row};
use crate::model::error::ModelError;

/// See the module.
pub struct LmHeadDifference;

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    /// The token that is wished for.
    yes: usize,
    /// The other one.
    no: usize,
}

impl HeadKind for LmHeadDifference {
    fn name(&self) -> &'static str {
        "lm-head-difference"
    }

    fn load(&self, context: &HeadContext) -> Result<Box<dyn Head>, ModelError> {
        let Options { yes, no } = context.options()?;
        Ok(Box::new(Loaded(lm_head_row::load_rows(context, &[yes, no])?)))
    }
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
        self.0.forward(hidden.reads).chunks_exact(2).map(|logits| logits[0] - logits[1]).collect()
    }
}
