//! One matrix, with or without bias: `W h + b`.

use super::{Head, HeadContext, HeadKind, Hidden};
use crate::model::ModelError;
use crate::model::checkpoint::HEAD;
use crate::model::kernels::{Addends, PackedMatrix, linear};

/// See the module.
pub struct Linear;

impl HeadKind for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    /// `score.weight`, `[attributes, hidden]`, and `score.bias` if it is there. Without names there are as many
    /// attributes as rows.
    fn load(&self, context: &HeadContext) -> Result<Box<dyn Head>, ModelError> {
        let HeadContext { weights, hidden, names, .. } = *context;
        let Some(info) = weights.info(HEAD) else {
            let hint = "; a base without a head becomes a reward model by a preset, or by a reward-model.toml that names \
                        one";
            return Err(match weights.missing(HEAD) {
                ModelError::MissingTensor { path, tensor, .. } => {
                    ModelError::MissingTensor { path, tensor, hint: hint.into() }
                }
                other => other,
            });
        };
        let outputs = names.or(info.shape.first().copied()).unwrap_or(0).max(1);
        let weight = weights.read_shape(HEAD, &[outputs, hidden])?;
        let bias = match weights.info("score.bias") {
            Some(_) => Some(weights.read_shape("score.bias", &[outputs])?),
            None => None,
        };
        Ok(Box::new(Loaded { weight: PackedMatrix::pack(outputs, hidden, &weight), bias }))
    }
}

struct Loaded {
    weight: PackedMatrix,
    bias: Option<Vec<f32>>,
}

impl Head for Loaded {
    fn outputs(&self) -> usize {
        self.weight.n()
    }

    fn parameters(&self) -> usize {
        self.weight.n() * self.weight.k() + self.bias.as_deref().map_or(0, <[f32]>::len)
    }

    fn bytes(&self) -> usize {
        self.weight.bytes() + self.bias.as_deref().map_or(0, size_of_val)
    }

    fn forward(&self, hidden: Hidden) -> Vec<f32> {
        let mut scores = vec![0.0; hidden.reads.len() / self.weight.k() * self.weight.n()];
        let addends = Addends { bias: self.bias.as_deref(), residual: None };
        linear(hidden.reads, &self.weight, addends, &mut scores);
        scores
    }
}
