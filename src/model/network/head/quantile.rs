//! QRM: quantiles of each objective's reward, of which the mean counts, and a gated score as ArmoRM has it.
//!
//! Attributes are the objectives' mean rewards after the transform, as the published class gives them, then the score.
//! The models of 5 objectives have no transform. The gate's modules stand as the weights say: with or without dropout.
//! Sources: `rewardbench/models/qrm.py` of allenai/reward-bench; `modeling_custom.py` of nicolinho/QRM-Llama3.1-8B.

use super::affine::{Affine, Bias};
use super::gate::{Gate, Normed, TEMPERATURE};
use super::gated::{transform, with_score};
use super::{Head, HeadContext, HeadKind, Hidden};
use crate::batch::MicroBatch;
use crate::model::error::ModelError;

/// See the module.
pub struct Quantile;

/// Its options.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Options {
    /// The gate's temperature where the configuration does not say it.
    temperature: Option<f64>,
}

impl HeadKind for Quantile {
    fn name(&self) -> &'static str {
        "quantile"
    }

    fn load(&self, context: &HeadContext) -> Result<Box<dyn Head>, ModelError> {
        let Options { temperature } = context.options()?;
        let HeadContext { settings, weights, hidden, .. } = *context;
        let objectives = settings.size("num_objectives")?.unwrap_or(19);
        let quantiles = settings.required_size("num_quantiles")?;
        let Some(rows) = objectives.checked_mul(quantiles) else {
            return Err(settings.unsupported("num_quantiles", "far fewer"));
        };
        // The published configurations spell it so.
        if settings.flag("gating_newtork")? == Some(false) {
            return Err(
                settings.unsupported("gating_newtork", "true: the score is what the gate makes of the objectives")
            );
        }
        let transform = match weights.info("reward_transform_matrix") {
            Some(_) => Some(transform(weights, objectives)?),
            None => None,
        };
        Ok(Box::new(Loaded {
            regression: Affine::load(weights, "regression_layer", rows, hidden, Bias::IfThere)?,
            quantiles,
            transform,
            objectives,
            gate: Gate::load(context, objectives, Normed::Yes, temperature.unwrap_or(TEMPERATURE))?,
        }))
    }
}

struct Loaded {
    /// All quantiles of the first objective, then those of the next.
    regression: Affine,
    quantiles: usize,
    transform: Option<Affine>,
    objectives: usize,
    gate: Gate,
}

impl Head for Loaded {
    fn outputs(&self) -> usize {
        self.objectives + 1
    }

    fn parameters(&self) -> usize {
        self.regression.parameters() + self.transform.as_ref().map_or(0, Affine::parameters) + self.gate.parameters()
    }

    fn bytes(&self) -> usize {
        self.regression.bytes() + self.transform.as_ref().map_or(0, Affine::bytes) + self.gate.bytes()
    }

    fn companions(&self, batch: &MicroBatch) -> Vec<Option<u32>> {
        self.gate.rows(batch)
    }

    fn forward(&self, hidden: Hidden) -> Vec<f32> {
        let quantiles = self.regression.forward(hidden.reads);
        let count = self.quantiles as f32;
        let means: Vec<f32> =
            quantiles.chunks_exact(self.quantiles).map(|row| row.iter().sum::<f32>() / count).collect();
        let rewards = self.transform.as_ref().map_or_else(|| means.clone(), |transform| transform.forward(&means));
        let weights = self.gate.forward(hidden.companions);
        with_score(&rewards, &rewards, &weights, self.objectives)
    }
}
