//! The head of encoders: a layer over what is seen of the rollout, an activation, a norm where there is one, and a last matrix.
//!
//! Sources: `BertPooler`, `RobertaClassificationHead`, `ElectraClassificationHead`, `ContextPooler` of DeBERTa v2 and
//! `ModernBertPredictionHead` of transformers, each with the classifier of its `*ForSequenceClassification`.

use super::affine::{Affine, Bias, rows_of};
use super::{Head, HeadContext, HeadKind, Hidden};
use crate::model::compute::kernels::{activate, layer_norm};
use crate::model::error::ModelError;
use crate::model::network::layers::activation_named;
use crate::model::shapes::Activation;

/// See the module.
pub struct Pooled;

/// Its options.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    /// Name of the layer, without `.weight`.
    dense: String,
    /// The activation behind it, as configurations call it.
    dense_activation: String,
    /// Name of the norm behind that; none if unset.
    norm: Option<String>,
    /// What the norm adds to the variance.
    eps: Option<f64>,
    /// Name of the last matrix, without `.weight`.
    tensor: String,
}

impl HeadKind for Pooled {
    fn name(&self) -> &'static str {
        "pooled"
    }

    fn load(&self, context: &HeadContext) -> Result<Box<dyn Head>, ModelError> {
        let Options { dense, dense_activation, norm, eps, tensor } = context.options()?;
        let HeadContext { weights, hidden, .. } = *context;
        let activation = activation_named(&dense_activation).ok_or_else(|| {
            context.bad_option(format!("dense_activation is {dense_activation:?}, which is not known"))
        })?;
        for name in [&dense, &tensor] {
            if rows_of(weights, name).is_none() {
                return Err(context.absent(&format!("{name}.weight")));
            }
        }
        let norm = norm.map(|name| {
            let bias = format!("{name}.bias");
            Ok::<_, ModelError>(Norm {
                weight: weights.read_shape(&format!("{name}.weight"), &[hidden])?,
                bias: match weights.info(&bias) {
                    Some(_) => weights.read_shape(&bias, &[hidden])?,
                    None => vec![0.0; hidden],
                },
                eps: eps.unwrap_or(1e-5) as f32,
            })
        });
        let outputs = context.names.or(rows_of(weights, &tensor)).unwrap_or_default();
        Ok(Box::new(Loaded {
            dense: Affine::load(weights, &dense, hidden, hidden, Bias::IfThere)?,
            activation,
            norm: norm.transpose()?,
            last: Affine::load(weights, &tensor, outputs, hidden, Bias::Required)?,
        }))
    }
}

struct Norm {
    weight: Vec<f32>,
    bias: Vec<f32>,
    eps: f32,
}

struct Loaded {
    dense: Affine,
    activation: Activation,
    norm: Option<Norm>,
    last: Affine,
}

impl Head for Loaded {
    fn outputs(&self) -> usize {
        self.last.outputs()
    }

    fn parameters(&self) -> usize {
        let norm = self.norm.as_ref().map_or(0, |norm| norm.weight.len() + norm.bias.len());
        self.dense.parameters() + norm + self.last.parameters()
    }

    fn bytes(&self) -> usize {
        let norm = self.norm.as_ref().map_or(0, |norm| size_of_val(&*norm.weight) + size_of_val(&*norm.bias));
        self.dense.bytes() + norm + self.last.bytes()
    }

    fn forward(&self, hidden: Hidden) -> Vec<f32> {
        let mut x = self.dense.forward(hidden.reads);
        activate(self.activation, &mut x);
        if let Some(norm) = &self.norm {
            let mut normed = vec![0.0; x.len()];
            layer_norm(&x, &norm.weight, &norm.bias, norm.eps, &mut normed);
            x = normed;
        }
        self.last.forward(&x)
    }
}
