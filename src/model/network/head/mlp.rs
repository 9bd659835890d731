//! Two layers: `W2 relu(W1 h + b1) + b2`, and the probability of one of its labels where that is the reward.
//!
//! Sources: the class on the model card of infly/INF-ORM-Llama3.1-70B; `modeling_qwen2_rm.py` of
//! Qwen/Qwen2.5-Math-RM-72B and Qwen/Qwen2.5-Math-PRM-7B, whose card takes the softmax.

use super::affine::{Affine, Bias, rows_of};
use super::{Head, HeadContext, HeadKind, Hidden, softmax};
use crate::model::compute::kernels::activate;
use crate::model::error::ModelError;
use crate::model::shapes::Activation;

/// See the module.
pub struct Mlp;

/// Its options.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Options {
    /// What the layers' names begin with: `NAME.0` and `NAME.2`; `score` if unset.
    tensor: Option<String>,
    /// The label whose probability among all labels is the one attribute; without it the outputs are the attributes.
    positive: Option<usize>,
}

impl HeadKind for Mlp {
    fn name(&self) -> &'static str {
        "mlp"
    }

    fn load(&self, context: &HeadContext) -> Result<Box<dyn Head>, ModelError> {
        let Options { tensor, positive } = context.options()?;
        let tensor = tensor.as_deref().unwrap_or("score");
        let (first, second) = (format!("{tensor}.0"), format!("{tensor}.2"));
        let size = |name: &str| rows_of(context.weights, name).ok_or_else(|| context.absent(&format!("{name}.weight")));
        let (inner, outputs) = (size(&first)?, size(&second)?);
        if let Some(label) = positive.filter(|label| *label >= outputs) {
            return Err(context.bad_option(format!("positive is {label}, but there are {outputs} labels, from 0")));
        }
        Ok(Box::new(Loaded {
            first: Affine::load(context.weights, &first, inner, context.hidden, Bias::Required)?,
            second: Affine::load(context.weights, &second, outputs, inner, Bias::Required)?,
            positive,
        }))
    }
}

struct Loaded {
    first: Affine,
    second: Affine,
    positive: Option<usize>,
}

impl Head for Loaded {
    fn outputs(&self) -> usize {
        if self.positive.is_some() { 1 } else { self.second.outputs() }
    }

    fn parameters(&self) -> usize {
        self.first.parameters() + self.second.parameters()
    }

    fn bytes(&self) -> usize {
        self.first.bytes() + self.second.bytes()
    }

    fn forward(&self, hidden: Hidden) -> Vec<f32> {
        let mut inner = self.first.forward(hidden.reads);
        activate(Activation::Relu, &mut inner);
        let mut outputs = self.second.forward(&inner);
        match self.positive {
            None => outputs,
            Some(label) => {
                let labels = outputs.chunks_exact_mut(self.second.outputs());
                labels
                    .map(|row| {
                        softmax(row);
                        row[label]
                    })
                    .collect()
            }
        }
    }
}
