//! The gate that weighs objectives by what the prompt is about: a small network over the hidden state where the last
//! turn begins.
//!
//! It reads at the first token of the last run of tokens that the read policy asks every rollout to hold, such as
//! `<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n`. Sources: `GatingNetwork` and `find_token_for_gating` in
//! `modeling_custom.py` of RLHFlow/ArmoRM-Llama3-8B-v0.1, and in `rewardbench/models/qrm.py` of allenai/reward-bench,
//! which puts a batch norm behind each ReLU.

use std::collections::VecDeque;

use super::affine::{Affine, Bias};
use super::{HeadContext, softmax};
use crate::batch::MicroBatch;
use crate::model::checkpoint::WeightSource;
use crate::model::compute::kernels::activate;
use crate::model::error::ModelError;
use crate::model::shapes::Activation;

/// A loaded gate.
pub struct Gate {
    pattern: Vec<u32>,
    hidden: Vec<(Affine, Option<BatchNorm>)>,
    output: Affine,
    temperature: f32,
    scale: f32,
}

/// Whether hidden layers are followed by a batch norm, and then have no bias themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Normed {
    /// ArmoRM.
    No,
    /// QRM. Where there is a dropout module between two layers, the modules' numbers leave room for it.
    Yes,
}

impl Normed {
    /// The numbers of the modules of a layer and of the last one, by the names of the weights that are there.
    fn modules(self, weights: &dyn WeightSource, layers: usize) -> (usize, usize) {
        match self {
            Self::No => (1, layers),
            // Matrix, ReLU, norm and dropout are modules of their own. There is no dropout before the last.
            Self::Yes if weights.info("gating.layers.4.weight").is_some() => (4, 4 * layers - 1),
            Self::Yes => (3, 3 * layers),
        }
    }
}

/// The temperature where neither a configuration nor a preset says one.
pub const TEMPERATURE: f64 = 10.0;

impl Gate {
    /// `gating.layers.*` and `gating.logit_scale`, of the sizes that the configuration says.
    pub fn load(
        context: &HeadContext,
        objectives: usize,
        normed: Normed,
        temperature: f64,
    ) -> Result<Self, ModelError> {
        let HeadContext { settings, weights, needs, .. } = *context;
        if needs.is_empty() {
            let reason = "this kind looks for the last run of tokens that [read] needs names, and there is none";
            return Err(context.bad_option(reason));
        }
        let width = settings.size("gating_hidden_dim")?.unwrap_or(1024);
        // Zero hidden layers would be no network, and a size is at least 1.
        let layers = settings.size("gating_n_hidden")?.unwrap_or(3);
        let temperature = settings.number("gating_temperature")?.unwrap_or(temperature);
        if temperature <= 0.0 {
            return Err(settings.unsupported("gating_temperature", "a number above 0"));
        }
        let (step, last) = normed.modules(weights, layers);
        let bias = match normed {
            Normed::No => Bias::Required,
            Normed::Yes => Bias::IfThere,
        };
        let name = |module: usize| format!("gating.layers.{module}");
        let mut inputs = context.hidden;
        let mut hidden = Vec::new();
        for layer in 0..layers {
            let affine = Affine::load(weights, &name(layer * step), width, inputs, bias)?;
            let norm = match normed {
                Normed::No => None,
                Normed::Yes => Some(BatchNorm::load(weights, &name(layer * step + 2), width)?),
            };
            hidden.push((affine, norm));
            inputs = width;
        }
        Ok(Self {
            pattern: needs.to_vec(),
            hidden,
            output: Affine::load(weights, &name(last), objectives, inputs, Bias::Required)?,
            temperature: temperature as f32,
            scale: weights.read_shape("gating.logit_scale", &[1])?[0],
        })
    }

    /// For each read, the row that the gate reads; `None` where the pattern is not on the read's path.
    pub fn rows(&self, batch: &MicroBatch) -> Vec<Option<u32>> {
        last_occurrences(batch, &self.pattern)
    }

    /// Weights of the objectives, `[rows, objectives]`, for hidden states at the gate's rows.
    pub fn forward(&self, hidden: &[f32]) -> Vec<f32> {
        let mut x = None;
        for (affine, norm) in &self.hidden {
            let mut y = affine.forward(x.as_deref().unwrap_or(hidden));
            activate(Activation::Relu, &mut y);
            if let Some(norm) = norm {
                norm.apply(&mut y);
            }
            x = Some(y);
        }
        let mut weights = self.output.forward(x.as_deref().unwrap_or(hidden));
        for row in weights.chunks_exact_mut(self.output.outputs()) {
            row.iter_mut().for_each(|logit| *logit /= self.temperature);
            softmax(row);
            row.iter_mut().for_each(|weight| *weight *= self.scale);
        }
        weights
    }

    /// Number of weights.
    pub fn parameters(&self) -> usize {
        let hidden =
            self.hidden.iter().map(|(affine, norm)| affine.parameters() + norm.as_ref().map_or(0, BatchNorm::values));
        hidden.sum::<usize>() + self.output.parameters() + 1
    }

    /// Bytes of the weights in memory.
    pub fn bytes(&self) -> usize {
        let norm = |norm: &BatchNorm| norm.values() * size_of::<f32>();
        let hidden = self.hidden.iter().map(|(affine, it)| affine.bytes() + it.as_ref().map_or(0, norm));
        hidden.sum::<usize>() + self.output.bytes() + size_of::<f32>()
    }
}

/// A batch norm with the statistics of its training: a factor and a summand for each feature.
struct BatchNorm {
    factor: Vec<f32>,
    summand: Vec<f32>,
}

impl BatchNorm {
    /// PyTorch's default.
    const EPS: f32 = 1e-5;

    fn load(weights: &dyn WeightSource, name: &str, width: usize) -> Result<Self, ModelError> {
        let read = |part: &str| weights.read_shape(&format!("{name}.{part}"), &[width]);
        let (weight, bias) = (read("weight")?, read("bias")?);
        let (mean, variance) = (read("running_mean")?, read("running_var")?);
        let factor: Vec<f32> = weight.iter().zip(&variance).map(|(w, v)| w / (v + Self::EPS).sqrt()).collect();
        let summand = bias.iter().zip(&mean).zip(&factor).map(|((b, m), f)| b - m * f).collect();
        Ok(Self { factor, summand })
    }

    fn apply(&self, x: &mut [f32]) {
        for row in x.chunks_exact_mut(self.factor.len()) {
            for ((x, factor), summand) in row.iter_mut().zip(&self.factor).zip(&self.summand) {
                *x = x.mul_add(*factor, *summand);
            }
        }
    }

    fn values(&self) -> usize {
        self.factor.len() + self.summand.len()
    }
}

/// For each read, the row where the last occurrence of `pattern` on its path begins. Walks every token of the batch once,
/// however many reads there are.
fn last_occurrences(batch: &MicroBatch, pattern: &[u32]) -> Vec<Option<u32>> {
    let mut last: Vec<Option<u32>> = vec![None; batch.tokens.len()];
    // For each segment, the last rows of its path, as many as the pattern has tokens.
    let mut tails: Vec<VecDeque<u32>> = Vec::with_capacity(batch.segments.len());
    for segment in &batch.segments {
        let (mut tail, mut found) = match segment.parent {
            Some(parent) => {
                let end = batch.segments[parent as usize].tokens.end;
                (tails[parent as usize].clone(), last[end as usize - 1])
            }
            None => (VecDeque::with_capacity(pattern.len()), None),
        };
        for row in segment.tokens.clone() {
            if tail.len() == pattern.len() {
                tail.pop_front();
            }
            tail.push_back(row);
            if tail.len() == pattern.len()
                && tail.iter().map(|&row| batch.tokens[row as usize]).eq(pattern.iter().copied())
            {
                found = tail.front().copied();
            }
            last[row as usize] = found;
        }
        tails.push(tail);
    }
    batch.reads.iter().map(|read| last[read.row as usize]).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// As the published code finds it, on each read's own path.
        #[test]
        fn the_last_occurrence_is_found_on_every_path(
            rollouts in prop::collection::vec(prop::collection::vec(0u32..3, 1..14), 0..20),
            pattern in prop::collection::vec(0u32..3, 1..4),
            share: bool,
        ) {
            let batch = MicroBatch::pack(&rollouts, share);
            let found = last_occurrences(&batch, &pattern);
            prop_assert_eq!(found.len(), rollouts.len());
            for ((row, read), tokens) in found.into_iter().zip(&batch.reads).zip(&rollouts) {
                let expected = (0..tokens.len()).rfind(|&i| tokens[i..].starts_with(&pattern));
                prop_assert_eq!(row.map(|row| batch.positions[row as usize] as usize), expected);
                if let Some(row) = row {
                    // The row is on the read's path, not merely at the right position of another one.
                    let path = batch.path(read.row);
                    prop_assert!(path.starts_with(&batch.path(row)));
                }
            }
        }
    }
}
