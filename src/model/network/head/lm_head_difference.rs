//! The logit of one token less that of another, such as yes and no: how much rather the model would answer the first.
//!
//! Its sigmoid is the softmax over the two: `activation = "sigmoid"` gives the probability of the first, at every step of
//! Math-Shepherd's kind of process model too.
//!
//! Source: the model card of nvidia/Llama-3.3-Nemotron-70B-Reward-Principle.

use super::logits::Logits;
use super::{Head, HeadContext, HeadKind, Hidden};
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
        Ok(Box::new(Loaded(Logits::load(context, &[yes, no])?)))
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
        self.0.forward(hidden.reads).chunks_exact(2).map(|logits| logits[0] - logits[1]).collect()
    }
}
