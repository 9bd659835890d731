//! LDL: for each objective a distribution over ten grades, a gate that mixes the distributions, and the mean grade of the
//! mixture from 0 to 1 as the one attribute.
//!
//! Source: `LDLRewardModel27B` in `rewardbench/models/ldlreward.py` of allenai/reward-bench.

use super::affine::{Affine, Bias, rows_of};
use super::{Head, HeadContext, HeadKind, Hidden, NoOptions, softmax};
use crate::model::error::ModelError;

/// See the module.
pub struct Ldl;

/// Grades that each objective's distribution is over.
const GRADES: usize = 10;

/// PyTorch's default slope of a leaky ReLU below 0.
const SLOPE: f32 = 0.01;

impl HeadKind for Ldl {
    fn name(&self) -> &'static str {
        "ldl"
    }

    fn load(&self, context: &HeadContext) -> Result<Box<dyn Head>, ModelError> {
        let NoOptions {} = context.options()?;
        let settings = context.settings;
        // As the class calls it, all grades of all objectives.
        let grades = settings.size("num_objectives")?.unwrap_or(22 * GRADES);
        if !grades.is_multiple_of(GRADES) {
            return Err(settings.unsupported("num_objectives", "a multiple of 10, a distribution for each objective"));
        }
        let temperature = settings.number("temperature")?.unwrap_or(1.0);
        if temperature <= 0.0 {
            return Err(settings.unsupported("temperature", "a number above 0"));
        }
        // The gate has a dropout module behind each of its ReLUs.
        Ok(Box::new(Loaded {
            regression: Network::load(context, "regression_layer.network", 2, grades)?,
            gate: Network::load(context, "gating_layer.network", 3, grades / GRADES)?,
            temperature: settings.flag("softmax")?.unwrap_or(false).then_some(temperature as f32),
        }))
    }
}

/// Layers with a leaky ReLU between them.
struct Network(Vec<Affine>);

impl Network {
    /// Two inner layers and the last, `step` modules apart.
    fn load(context: &HeadContext, name: &str, step: usize, outputs: usize) -> Result<Self, ModelError> {
        let mut inputs = context.hidden;
        let mut layers = Vec::new();
        for layer in 0..3 {
            let name = format!("{name}.{}", layer * step);
            let Some(width) = rows_of(context.weights, &name) else {
                return Err(context.absent(&format!("{name}.weight")));
            };
            let width = if layer == 2 { outputs } else { width };
            layers.push(Affine::load(context.weights, &name, width, inputs, Bias::Required)?);
            inputs = width;
        }
        Ok(Self(layers))
    }

    fn forward(&self, hidden: &[f32]) -> Vec<f32> {
        let mut x = self.0[0].forward(hidden);
        for layer in &self.0[1..] {
            for value in x.iter_mut().filter(|value| **value < 0.0) {
                *value *= SLOPE;
            }
            x = layer.forward(&x);
        }
        x
    }

    fn outputs(&self) -> usize {
        self.0.last().map_or(0, Affine::outputs)
    }
}

struct Loaded {
    regression: Network,
    gate: Network,
    /// Of the gate's softmax, where it has one.
    temperature: Option<f32>,
}

impl Head for Loaded {
    fn outputs(&self) -> usize {
        1
    }

    fn parameters(&self) -> usize {
        self.regression.0.iter().chain(&self.gate.0).map(Affine::parameters).sum()
    }

    fn bytes(&self) -> usize {
        self.regression.0.iter().chain(&self.gate.0).map(Affine::bytes).sum()
    }

    fn forward(&self, hidden: Hidden) -> Vec<f32> {
        let mut distributions = self.regression.forward(hidden.reads);
        distributions.chunks_exact_mut(GRADES).for_each(softmax);
        let mut weights = self.gate.forward(hidden.reads);
        let objectives = self.gate.outputs();
        if let Some(temperature) = self.temperature {
            for row in weights.chunks_exact_mut(objectives) {
                row.iter_mut().for_each(|logit| *logit /= temperature);
                softmax(row);
            }
        }
        let rows = distributions.chunks_exact(objectives * GRADES).zip(weights.chunks_exact(objectives));
        rows.map(|(distributions, weights)| {
            let each = distributions.chunks_exact(GRADES).zip(weights);
            each.map(|(distribution, weight)| weight * mean_grade(distribution)).sum()
        })
        .collect()
    }
}

/// The mean of a distribution over grades that are evenly spread from 0 to 1.
fn mean_grade(distribution: &[f32]) -> f32 {
    let step = 1.0 / (GRADES - 1) as f32;
    distribution.iter().enumerate().map(|(grade, probability)| probability * (grade as f32 * step)).sum()
}
