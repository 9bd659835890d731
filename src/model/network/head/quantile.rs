//! QRM: quantiles of each objective's reward, of which the mean counts, and a gated score as ArmoRM has it.
//!
//! Attributes are the objectives' mean rewards after the transform, as the published class gives them, then the score.
//! Source: `rewardbench/models/qrm.py` of allenai/reward-bench.

use super::affine::{Affine, Bias};
use super::gate::{Gate, Normed};
use super::gated::{transform, with_score};
use super::{Head, HeadContext, HeadKind, Hidden, NoOptions};
use crate::batch::MicroBatch;
use crate::model::error::ModelError;

/// See the module.
pub struct Quantile;

impl HeadKind for Quantile {
    fn name(&self) -> &'static str {
        "quantile"
    }

    fn load(&self, context: &HeadContext) -> Result<Box<dyn Head>, ModelError> {
        let NoOptions {} = context.options()?;
        let HeadContext { settings, weights, hidden, .. } = *context;
        let objectives = settings.size("num_objectives")?.unwrap_or(19);
        let quantiles = settings.required_size("num_quantiles")?;
        let Some(rows) = objectives.checked_mul(quantiles) else {
            return Err(settings.unsupported("num_quantiles", "far fewer"));
        };
        Ok(Box::new(Loaded {
            regression: Affine::load(weights, "regression_layer", rows, hidden, Bias::IfThere)?,
            quantiles,
            transform: transform(weights, objectives)?,
            gate: Gate::load(context, objectives, Normed::Yes)?,
        }))
    }
}

struct Loaded {
    /// All quantiles of the first objective, then those of the next.
    regression: Affine,
    quantiles: usize,
    transform: Affine,
    gate: Gate,
}

impl Head for Loaded {
    fn outputs(&self) -> usize {
        self.transform.outputs() + 1
    }

    fn parameters(&self) -> usize {
        self.regression.parameters() + self.transform.parameters() + self.gate.parameters()
    }

    fn bytes(&self) -> usize {
        self.regression.bytes() + self.transform.bytes() + self.gate.bytes()
    }

    fn companions(&self, batch: &MicroBatch) -> Vec<Option<u32>> {
        self.gate.rows(batch)
    }

    fn forward(&self, hidden: Hidden) -> Vec<f32> {
        let quantiles = self.regression.forward(hidden.reads);
        let count = self.quantiles as f32;
        let means: Vec<f32> =
            quantiles.chunks_exact(self.quantiles).map(|row| row.iter().sum::<f32>() / count).collect();
        let rewards = self.transform.forward(&means);
        let weights = self.gate.forward(hidden.companions);
        with_score(&rewards, &rewards, &weights, self.transform.outputs())
    }
}
