//! The head: attributes out of the hidden state at the reads. Float32, whatever the backbone's precision.

use candle_core::{Result, Tensor};

use super::ModelError;
use super::checkpoint::{HEAD, WeightSource};
use super::layers::Linear;

/// A linear head without bias.
pub struct Head {
    linear: Linear,
    attributes: usize,
}

impl Head {
    /// Loads `score.weight`, `[attributes, hidden]`. Without `names` there are as many attributes as rows.
    pub fn load(
        weights: &dyn WeightSource,
        names: Option<usize>,
        hidden: usize,
    ) -> std::result::Result<Self, ModelError> {
        let Some(info) = weights.info(HEAD) else {
            let hint = "; a base without a head becomes a reward model by a reward-model.toml that names one";
            return Err(match weights.missing(HEAD) {
                ModelError::MissingTensor { path, tensor, .. } => {
                    ModelError::MissingTensor { path, tensor, hint: hint.into() }
                }
                other => other,
            });
        };
        let attributes = names.or(info.shape.first().copied()).unwrap_or(0);
        if attributes == 0 {
            weights.expect(HEAD, &[1, hidden])?;
        }
        if weights.info("score.bias").is_some() {
            return Err(ModelError::Unsupported {
                path: weights.origin("score.bias"),
                field: "tensor \"score.bias\"".into(),
                found: "present".into(),
                expected: "a head without bias".into(),
            });
        }
        Ok(Self { linear: Linear::load(weights, HEAD, attributes, hidden)?, attributes })
    }

    /// Number of attributes.
    pub fn attributes(&self) -> usize {
        self.attributes
    }

    /// `[reads, hidden]` to `[reads, attributes]`.
    pub fn forward(&self, hidden: &Tensor) -> Result<Tensor> {
        self.linear.forward(hidden)
    }

    /// Bytes of the weights in memory.
    pub fn bytes(&self) -> usize {
        self.linear.bytes()
    }
}
