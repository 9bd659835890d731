//! The head of PairRM: by how much the first of two answers is better than the second, as the mean over tasks of
//! `f(prompt, first) - f(prompt, second)`, where `f(p, a) = W2 tanh(W1 [p; a] + b1) + b2`.
//!
//! Source: `DebertaV2PairRM` in `llm_blender/pair_ranker/pairrm.py` of yuchenlin/LLM-Blender.

use super::affine::{Affine, Bias, rows_of};
use super::{Head, HeadContext, HeadKind, Hidden, NoOptions};
use crate::model::compute::kernels::activate;
use crate::model::error::ModelError;
use crate::model::shapes::Activation;

/// See the module.
pub struct Comparison;

/// The hidden states of the prompt, the first answer and the second, each at the token before it.
const ROWS: usize = 3;

impl HeadKind for Comparison {
    fn name(&self) -> &'static str {
        "comparison"
    }

    fn rows_seen(&self) -> usize {
        ROWS
    }

    fn load(&self, context: &HeadContext) -> Result<Box<dyn Head>, ModelError> {
        let NoOptions {} = context.options()?;
        let HeadContext { settings, weights, hidden, .. } = *context;
        // The modules between them have no weights: dropout before each, and the activation.
        let (inner, last) = ("head_layer.1", "head_layer.4");
        if let Some(name) = [inner, last].into_iter().find(|name| rows_of(weights, name).is_none()) {
            return Err(context.absent(&format!("{name}.weight")));
        }
        let tasks = settings.required_size("n_tasks")?;
        Ok(Box::new(Loaded {
            inner: Affine::load(weights, inner, hidden, 2 * hidden, Bias::Required)?,
            last: Affine::load(weights, last, tasks, hidden, Bias::Required)?,
        }))
    }
}

struct Loaded {
    inner: Affine,
    last: Affine,
}

impl Loaded {
    /// Scores of the answer whose hidden state is the one of this number, a row of tasks for each read.
    fn scores(&self, reads: &[f32], answer: usize) -> Vec<f32> {
        let hidden = self.inner.outputs();
        let mut beside = Vec::with_capacity(reads.len() / ROWS * 2);
        for read in reads.chunks_exact(ROWS * hidden) {
            beside.extend_from_slice(&read[..hidden]);
            beside.extend_from_slice(&read[answer * hidden..][..hidden]);
        }
        let mut x = self.inner.forward(&beside);
        activate(Activation::Tanh, &mut x);
        self.last.forward(&x)
    }
}

impl Head for Loaded {
    fn outputs(&self) -> usize {
        1
    }

    fn parameters(&self) -> usize {
        self.inner.parameters() + self.last.parameters()
    }

    fn bytes(&self) -> usize {
        self.inner.bytes() + self.last.bytes()
    }

    fn forward(&self, hidden: Hidden) -> Vec<f32> {
        let (first, second) = (self.scores(hidden.reads, 1), self.scores(hidden.reads, 2));
        let tasks = self.last.outputs();
        let rows = first.chunks_exact(tasks).zip(second.chunks_exact(tasks));
        let difference = |(first, second): (&[f32], &[f32])| {
            first.iter().zip(second).fold(0.0f32, |sum, (first, second)| sum + (first - second)) / tasks as f32
        };
        rows.map(difference).collect()
    }
}
