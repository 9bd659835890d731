//! Layers with a ReLU between them, each with a bias: `W2 relu(W1 h + b1) + b2` where there are two.
//!
//! Sources: the class on the model card of infly/INF-ORM-Llama3.1-70B; `modeling_qwen2_rm.py` of
//! Qwen/Qwen2.5-Math-RM-72B and Qwen/Qwen2.5-Math-PRM-7B; `ValueHead` in `rewardbench/models/grm.py` of
//! allenai/reward-bench, of as many layers as the model was made with.

use super::affine::{Affine, Bias, rows_of};
use super::{Head, HeadContext, HeadKind, Hidden};
use crate::model::compute::kernels::activate;
use crate::model::error::ModelError;
use crate::model::shapes::Activation;

/// See the module.
pub struct Mlp;

/// Its options.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Options {
    /// What the layers' names begin with: `NAME.0`, `NAME.2` and so on; `score` if unset.
    tensor: Option<String>,
}

impl HeadKind for Mlp {
    fn name(&self) -> &'static str {
        "mlp"
    }

    fn load(&self, context: &HeadContext) -> Result<Box<dyn Head>, ModelError> {
        let Options { tensor } = context.options()?;
        let tensor = tensor.as_deref().unwrap_or("score");
        // Between the layers stand modules without weights.
        let name = |layer: usize| format!("{tensor}.{}", 2 * layer);
        let mut layers = Vec::new();
        let mut inputs = context.hidden;
        for layer in 0.. {
            let Some(outputs) = rows_of(context.weights, &name(layer)).filter(|outputs| *outputs > 0) else { break };
            layers.push(Affine::load(context.weights, &name(layer), outputs, inputs, Bias::Required)?);
            inputs = outputs;
        }
        match layers.pop() {
            Some(last) if !layers.is_empty() => Ok(Box::new(Loaded { inner: layers, last })),
            found => Err(context.absent(&format!("{}.weight", name(usize::from(found.is_some()))))),
        }
    }
}

struct Loaded {
    inner: Vec<Affine>,
    last: Affine,
}

impl Head for Loaded {
    fn outputs(&self) -> usize {
        self.last.outputs()
    }

    fn parameters(&self) -> usize {
        self.inner.iter().map(Affine::parameters).sum::<usize>() + self.last.parameters()
    }

    fn bytes(&self) -> usize {
        self.inner.iter().map(Affine::bytes).sum::<usize>() + self.last.bytes()
    }

    fn forward(&self, hidden: Hidden) -> Vec<f32> {
        let mut x = None;
        for layer in &self.inner {
            let mut y = layer.forward(x.as_deref().unwrap_or(hidden.reads));
            activate(Activation::Relu, &mut y);
            x = Some(y);
        }
        self.last.forward(x.as_deref().unwrap_or(hidden.reads))
    }
}
