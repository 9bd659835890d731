//! What the statement of a decoder's tensors is walked for beside loading: counting them, and refusing what nobody would read.

use super::spec::DecoderSpec;
use super::tensors::{Kind, LayerTensors};
use crate::model::checkpoint::WeightSource;
use crate::model::error::ModelError;

/// Old checkpoints carry the frequencies, which the configuration determines.
const FREQUENCIES: [&str; 2] = ["self_attn.rotary_emb.inv_freq", "attention.rotary_emb.inv_freq"];

/// How many weights a decoder has, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Parameters {
    /// The embedding table.
    pub embedding: usize,
    /// Matrices and biases of attention, all layers.
    pub attention: usize,
    /// Matrices and biases of the feed-forward layers, all of them.
    pub feed_forward: usize,
    /// All norms.
    pub norms: usize,
}

impl Parameters {
    /// All of them.
    pub fn total(&self) -> usize {
        self.embedding + self.attention + self.feed_forward + self.norms
    }
}

impl DecoderSpec {
    /// Counts the weights.
    pub fn parameters(&self) -> Parameters {
        let mut count = Parameters { embedding: 0, attention: 0, feed_forward: 0, norms: 0 };
        let kinds = self.layer_kinds(0..self.layers);
        let layers = kinds.iter().flat_map(|(layer, times)| layer.all().map(|tensor| (tensor, *times)));
        for (tensor, times) in layers.chain([(&self.embedding(), 1), (&self.last_norm(), 1)]) {
            let part = match tensor.kind {
                Kind::Embedding => &mut count.embedding,
                Kind::Attention => &mut count.attention,
                Kind::FeedForward | Kind::Router => &mut count.feed_forward,
                Kind::Norm => &mut count.norms,
            };
            *part += times * tensor.values();
        }
        count
    }

    /// Refuses a tensor in a layer that would be read by nobody, such as a bias that the configuration does not mention.
    pub(super) fn refuse_ignored(&self, weights: &dyn WeightSource) -> std::result::Result<(), ModelError> {
        let known = [false, true].map(|experts| self.layer(experts));
        let names = known.each_ref().map(LayerTensors::names);
        for name in weights.names() {
            let Some(rest) = name.strip_prefix(self.names.layers).and_then(|rest| rest.strip_prefix('.')) else {
                continue;
            };
            let Some((layer, part)) = rest.split_once('.') else { continue };
            // Layers beyond those that the configuration keeps are no part of the model.
            let Some(layer) = layer.parse().ok().filter(|layer: &usize| *layer < self.layers) else { continue };
            let known = &names[usize::from(self.has_experts(layer))];
            if !known.contains(part) && !FREQUENCIES.contains(&part) {
                return Err(ModelError::Unsupported {
                    path: weights.origin(&name),
                    field: format!("tensor {name:?}"),
                    found: "present".into(),
                    expected: format!("a layer of {}", known.iter().map(String::as_str).collect::<Vec<_>>().join(", ")),
                });
            }
        }
        Ok(())
    }
}
