//! What the statement of a network's tensors is walked for beside loading: counting them, and refusing what nobody would read.

use std::collections::{BTreeMap, BTreeSet};

use super::spec::DecoderSpec;
use super::tensors::{Kind, TensorSpec};
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

    /// Counts tensors, each so many times.
    pub fn of<'a>(tensors: impl IntoIterator<Item = (&'a TensorSpec, usize)>) -> Self {
        let mut count = Self { embedding: 0, attention: 0, feed_forward: 0, norms: 0 };
        for (tensor, times) in tensors {
            let part = match tensor.kind {
                Kind::Embedding => &mut count.embedding,
                Kind::Attention | Kind::Delta => &mut count.attention,
                Kind::FeedForward | Kind::Router => &mut count.feed_forward,
                Kind::Norm => &mut count.norms,
            };
            *part += times * tensor.values();
        }
        count
    }
}

impl DecoderSpec {
    /// Counts the weights.
    pub fn parameters(&self) -> Parameters {
        let kinds = self.layer_kinds(0..self.layers);
        let layers = kinds.iter().flat_map(|(layer, times)| layer.all().map(|tensor| (tensor, *times)));
        Parameters::of(layers.chain([(&self.embedding(), 1), (&self.last_norm(), 1)]))
    }

    pub(super) fn refuse_ignored(&self, weights: &dyn WeightSource) -> Result<(), ModelError> {
        let kinds: BTreeSet<_> = (0..self.layers).map(|layer| self.layer_kind(layer)).collect();
        let names: BTreeMap<_, _> = kinds.into_iter().map(|kind| (kind, self.layer(kind).names())).collect();
        refuse_ignored(weights, self.names.layers, self.layers, |layer| &names[&self.layer_kind(layer)])
    }
}

/// Refuses a tensor in a layer that would be read by nobody, such as a bias that the configuration does not mention. Layers stand
/// under `layers`, and `known` says what is read in each.
pub fn refuse_ignored<'a>(
    weights: &dyn WeightSource,
    layers: &str,
    count: usize,
    known: impl Fn(usize) -> &'a BTreeSet<String>,
) -> Result<(), ModelError> {
    for name in weights.names() {
        let Some(rest) = name.strip_prefix(layers).and_then(|rest| rest.strip_prefix('.')) else {
            continue;
        };
        let Some((layer, part)) = rest.split_once('.') else { continue };
        // Layers beyond those that the configuration keeps are no part of the model.
        let Some(layer) = layer.parse().ok().filter(|layer: &usize| *layer < count) else { continue };
        let known = known(layer);
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
