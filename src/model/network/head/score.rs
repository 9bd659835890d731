//! The score head of Beaver's reward and cost models: a linear head of `score_dim` outputs, normalised by the mean and the
//! variance of each output where the configuration says so.
//!
//! Source: `ScoreModelMixin` and `Normalizer` of PKU-Alignment/safe-rlhf, as `rewardbench/models/beaver.py` of
//! allenai/reward-bench has them.

use super::affine::{Affine, Bias};
use super::normalised::Normalised;
use super::{Head, HeadContext, HeadKind, NoOptions};
use crate::model::error::ModelError;
use crate::model::settings::Settings;

/// See the module.
pub struct Score;

/// What the class adds to a deviation before it divides by it.
const EPSILON: f64 = 1e-8;

impl HeadKind for Score {
    fn name(&self) -> &'static str {
        "score"
    }

    fn load(&self, context: &HeadContext) -> Result<Box<dyn Head>, ModelError> {
        let NoOptions {} = context.options()?;
        let HeadContext { settings, weights, hidden, .. } = *context;
        let outputs = settings.size("score_dim")?.unwrap_or(1);
        // Whether there is a bias is in the weights as well.
        settings.flag("bias")?;
        Ok(Box::new(Normalised {
            affine: Affine::load(weights, "score_head", outputs, hidden, Bias::IfThere)?,
            normal: normal(settings, outputs)?,
        }))
    }
}

/// For each output, what is taken from it and what it is then divided by; empty if it is left as it is.
fn normal(settings: &Settings, outputs: usize) -> Result<Vec<(f32, f32)>, ModelError> {
    // By a class's training alone they are changed, by its rewards only as follows.
    for field in ["normalizer_type", "momentum"] {
        settings.get(field);
    }
    let list = |field: &str, default: f64| -> Result<Vec<f64>, ModelError> {
        let found = match settings.get(field) {
            Some(value) if value.is_number() => settings.number(field)?.map(|number| vec![number]),
            _ => settings.numbers(field)?,
        };
        let found = found.unwrap_or_else(|| vec![default; outputs]);
        if found.len() == outputs {
            Ok(found)
        } else {
            Err(settings.unsupported(field, format!("a number for each of {outputs} outputs")))
        }
    };
    let (means, variances) = (list("mean", 0.0)?, list("var", 1.0)?);
    if variances.iter().any(|variance| *variance < 0.0) {
        return Err(settings.unsupported("var", "no variance below 0"));
    }
    let (moves, scales) = match settings.text("score_type")?.unwrap_or("reward") {
        "reward" => (true, true),
        "cost" => (false, true),
        "critic" => (false, false),
        _ => return Err(settings.unsupported("score_type", "one of reward, cost, critic")),
    };
    if settings.flag("do_normalize")? != Some(true) {
        return Ok(Vec::new());
    }
    let normal = means.iter().zip(&variances).map(|(mean, variance)| {
        let mean = if moves { *mean } else { 0.0 };
        let deviation = if scales { variance.sqrt() + EPSILON } else { 1.0 };
        (mean as f32, deviation as f32)
    });
    Ok(normal.collect())
}
