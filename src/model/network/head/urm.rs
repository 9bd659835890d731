//! URM: for each attribute the mean and the deviation of a normal distribution, and a score in which a gate weighs the means.
//!
//! Attributes are the means, then the score. Source: `LlamaForSequenceClassificationWithNormal_Weights` in
//! `python/sglang/srt/models/llama_reward.py` of sgl-project/sglang, which serves LxzGordon/URM-LLaMa-3.1-8B.

use super::affine::{Affine, Bias, rows_of};
use super::gated::with_score;
use super::{Head, HeadContext, HeadKind, Hidden, NoOptions};
use crate::model::compute::kernels::exp;
use crate::model::error::ModelError;

/// See the module.
pub struct Urm;

impl HeadKind for Urm {
    fn name(&self) -> &'static str {
        "urm"
    }

    fn load(&self, context: &HeadContext) -> Result<Box<dyn Head>, ModelError> {
        let NoOptions {} = context.options()?;
        let HeadContext { weights, hidden, .. } = *context;
        let size = |name: &str| rows_of(weights, name).ok_or_else(|| context.absent(&format!("{name}.weight")));
        let outputs = size("score")?;
        if outputs == 0 || !outputs.is_multiple_of(2) {
            let reason = format!("score.weight has {outputs} rows, expected a mean and a deviation for each attribute");
            return Err(context.bad_option(reason));
        }
        // The means alone are read.
        let means: Vec<usize> = (0..outputs).step_by(2).collect();
        let mut inputs = hidden;
        let mut gate = Vec::new();
        for name in ["weights.fc.0", "weights.fc.2", "weights.fc.4"] {
            let width = if gate.len() == 2 { means.len() } else { size(name)? };
            gate.push(Affine::load(weights, name, width, inputs, Bias::Required)?);
            inputs = width;
        }
        Ok(Box::new(Loaded { means: Affine::load_rows(weights, "score", outputs, &means, hidden)?, gate }))
    }
}

struct Loaded {
    means: Affine,
    /// Layers with a SELU between them.
    gate: Vec<Affine>,
}

impl Head for Loaded {
    fn outputs(&self) -> usize {
        self.means.outputs() + 1
    }

    fn parameters(&self) -> usize {
        self.gate.iter().map(Affine::parameters).sum::<usize>() + self.means.parameters()
    }

    fn bytes(&self) -> usize {
        self.gate.iter().map(Affine::bytes).sum::<usize>() + self.means.bytes()
    }

    fn forward(&self, hidden: Hidden) -> Vec<f32> {
        let means = self.means.forward(hidden.reads);
        let mut weights = self.gate[0].forward(hidden.reads);
        for layer in &self.gate[1..] {
            weights.iter_mut().for_each(|value| *value = selu(*value));
            weights = layer.forward(&weights);
        }
        with_score(&means, &means, &weights, self.means.outputs())
    }
}

/// Klambauer et al., "Self-Normalizing Neural Networks", 2017, with the constants of PyTorch.
fn selu(x: f32) -> f32 {
    const SCALE: f32 = 1.050_701;
    const ALPHA: f32 = 1.673_263_2;
    if x < 0.0 { SCALE * ALPHA * (exp(x) - 1.0) } else { SCALE * x }
}
