//! ArmoRM: many objectives, and a score in which a gate weighs them.
//!
//! `score = gate . (rewards @ T)` with the transform `T`. Attributes are the objectives' rewards before the transform,
//! in the published order, then the score. Source: `modeling_custom.py` of RLHFlow/ArmoRM-Llama3-8B-v0.1.

use super::affine::{Affine, Bias};
use super::gate::{Gate, Normed, TEMPERATURE};
use super::{Head, HeadContext, HeadKind, Hidden, NoOptions};
use crate::batch::MicroBatch;
use crate::model::checkpoint::WeightSource;
use crate::model::error::ModelError;

/// See the module.
pub struct Gated;

impl HeadKind for Gated {
    fn name(&self) -> &'static str {
        "gated"
    }

    fn load(&self, context: &HeadContext) -> Result<Box<dyn Head>, ModelError> {
        let NoOptions {} = context.options()?;
        let HeadContext { settings, weights, hidden, .. } = *context;
        let objectives = settings.size("num_objectives")?.unwrap_or(19);
        Ok(Box::new(Loaded {
            regression: Affine::load(weights, "regression_layer", objectives, hidden, Bias::IfThere)?,
            transform: transform(weights, objectives)?,
            gate: Gate::load(context, objectives, Normed::No, TEMPERATURE)?,
        }))
    }
}

/// `reward_transform_matrix`, `[objectives, objectives]`, as a matrix that is multiplied from the left.
pub(super) fn transform(weights: &dyn WeightSource, objectives: usize) -> Result<Affine, ModelError> {
    let matrix = weights.read_shape("reward_transform_matrix", &[objectives, objectives])?;
    let transposed: Vec<f32> =
        (0..objectives).flat_map(|row| matrix.iter().skip(row).step_by(objectives).copied()).collect();
    Ok(Affine::new(objectives, objectives, &transposed))
}

/// Rows of `rewards` with the score behind each: the gate's weights times the transformed rewards.
pub(super) fn with_score(rewards: &[f32], transformed: &[f32], weights: &[f32], objectives: usize) -> Vec<f32> {
    let rows = rewards.chunks_exact(objectives).zip(transformed.chunks_exact(objectives));
    rows.zip(weights.chunks_exact(objectives))
        .flat_map(|((rewards, transformed), weights)| {
            let score = weights.iter().zip(transformed).fold(0.0f32, |sum, (w, r)| w.mul_add(*r, sum));
            rewards.iter().copied().chain([score])
        })
        .collect()
}

struct Loaded {
    regression: Affine,
    transform: Affine,
    gate: Gate,
}

impl Head for Loaded {
    fn outputs(&self) -> usize {
        self.regression.outputs() + 1
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
        let rewards = self.regression.forward(hidden.reads);
        let transformed = self.transform.forward(&rewards);
        let weights = self.gate.forward(hidden.companions);
        with_score(&rewards, &transformed, &weights, self.regression.outputs())
    }
}
