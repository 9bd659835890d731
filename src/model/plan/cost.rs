//! What a rank holds and what a token costs, as a function of a model's sizes alone.
//!
//! Invariant: weights and bytes are whole numbers, and exactly those that a rank of that share reads.

use super::dtype::Dtype;
use crate::model::collective::shard::Shard;
use crate::model::network::decoder::{DecoderSpec, Kind, Parameters, TensorSpec};

/// Most scores that the tiled attention of a GPU holds at a time, in float32.
const TILE_SCORES: u64 = 1 << 25;
/// How many such tiles its softmax holds.
const TILES: u64 = 3;
/// Most rows of queries in a tile.
const TILE_ROWS: u64 = 512;

/// One rank's weights by how they are stored and shared.
#[derive(Debug, Clone, Copy, Default)]
struct Share {
    /// Of the layers' matrices, those that no other rank has.
    matrices: u64,
    /// Keys and values of heads that other ranks have too.
    repeated_matrices: u64,
    /// Rows of the embedding.
    embedding: u64,
    /// Biases that no other rank has.
    biases: u64,
    /// Norms and biases that all ranks have, and biases of keys and values that others have.
    repeated_vectors: u64,
}

/// Bytes of one rank's weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct RankBytes {
    /// What this rank alone holds.
    pub sharded: u64,
    /// What other ranks hold as well: norms, biases after a sum over ranks, and keys and values where there are more ranks
    /// than heads of them. At one rank, what would be.
    pub replicated: u64,
}

impl RankBytes {
    /// Both.
    pub fn total(self) -> u64 {
        self.sharded + self.replicated
    }
}

impl Share {
    /// What a rank of pipeline stage `stage` of `stages` holds.
    fn of(spec: &DecoderSpec, shard: Shard, stage: usize, stages: usize) -> Self {
        let mut share = Self::default();
        let layers = spec.layers / stages;
        for (layer, times) in spec.layer_kinds(stage * layers..(stage + 1) * layers) {
            layer.all().for_each(|tensor| share.add(spec, tensor, shard, times as u64));
        }
        if stage == 0 {
            share.add(spec, &spec.embedding(), shard, 1);
        }
        if stage + 1 == stages {
            share.add(spec, &spec.last_norm(), shard, 1);
        }
        share
    }

    /// Adds a rank's part of so many tensors that are all alike.
    fn add(&mut self, spec: &DecoderSpec, tensor: &TensorSpec, shard: Shard, times: u64) {
        let held = tensor.held(spec.heads, shard);
        let times = times * held.count as u64;
        let rows = held.rows.iter().map(|rows| rows.len() as u64).sum::<u64>();
        let (repeated, columns) = (held.repeated as u64, held.columns.len() as u64);
        let own = rows - repeated;
        match tensor.kind {
            Kind::Norm | Kind::Router | Kind::Delta => self.repeated_vectors += times * repeated * columns,
            Kind::Embedding => self.embedding += times * own * columns,
            // What is cut by its inputs is nobody else's, though its outputs are.
            _ if tensor.cut.is_by_inputs() => self.matrices += times * rows * columns,
            _ => {
                self.matrices += times * own * columns;
                self.repeated_matrices += times * repeated * columns;
            }
        }
        if tensor.bias {
            self.biases += times * own;
            self.repeated_vectors += times * repeated;
        }
    }

    fn bytes(self, dtype: Dtype) -> RankBytes {
        let plain = |count: u64| count * dtype.activation_bytes();
        RankBytes {
            sharded: dtype.matrix_bytes(self.matrices) + plain(self.embedding + self.biases),
            replicated: dtype.matrix_bytes(self.repeated_matrices) + plain(self.repeated_vectors),
        }
    }
}

/// Bytes of the weights of the rank that holds most, of `tp` ranks in each of `pp` stages of equally many layers.
pub(super) fn largest_rank(spec: &DecoderSpec, tp: usize, pp: usize, dtype: Dtype) -> RankBytes {
    // The first stage has the embedding and the last one the last norm; those between have more than either where they have
    // more layers of experts.
    let stages = |shard| (0..pp).map(move |stage| Share::of(spec, shard, stage, pp).bytes(dtype));
    let ranks = Shard::all(tp).flat_map(stages);
    ranks.max_by_key(|bytes| bytes.total()).unwrap_or(RankBytes { sharded: 0, replicated: 0 })
}

/// Bytes of activations on one rank at their most, for a packed micro-batch of `batch` tokens: an upper bound, without
/// what a layer may spare by going through its rows in blocks.
pub(super) fn activation_bytes(spec: &DecoderSpec, tp: usize, dtype: Dtype, batch: usize) -> u64 {
    let shard = Shard { rank: 0, world: tp };
    let heads = shard.heads(spec.heads).layout;
    let (batch, hidden, size) = (batch as u64, spec.hidden as u64, dtype.activation_bytes());
    let (row, query) = (heads.row() as u64, (heads.heads * heads.head_dim) as u64);
    // A rank may have all experts that a token goes through.
    let experts = spec.experts.as_ref().map_or(0, |experts| experts.routing.top_k * experts.features);
    let features = spec.feed_forward.div_ceil(tp).max(experts) as u64;
    let ways_up = spec.names.up.ways() as u64;
    // A tile of scores stays below its bound however long a rollout is, so memory is linear in tokens.
    let scores = (heads.heads as u64 * batch.min(TILE_ROWS)).saturating_mul(batch).min(TILE_SCORES);
    // The residual, queries, keys and values, the result in tiles and in one; float32 copies in two layouts; scores.
    let attention = batch * ((hidden + row + 2 * query) * size + 2 * row * 4) + TILES * scores * 4;
    // The residual, its norm, the inner features before and after the activation, this rank's sum and that of all.
    let feed_forward = batch * (4 * hidden + (ways_up + 1) * features) * size;
    attention.max(feed_forward)
}

/// What a token costs, whatever it runs on.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct TokenCost {
    /// Floating-point operations in the layers' matrices: two for each weight. An embedding is looked up, for none. Of the
    /// last layer only the rows that are read go on after attention, which is not taken off.
    pub matrix_flops: u64,
    /// Bytes that the ranks of a layer add up: once after attention, once after the feed-forward layer.
    pub all_reduce_bytes_per_layer: u64,
    /// The same of all layers.
    pub all_reduce_bytes: u64,
    /// Bytes that they add up for the embedding, where each has a part of it.
    pub all_reduce_bytes_embedding: u64,
    /// Bytes of keys and values, all layers and heads, if they were kept.
    pub kv_bytes: u64,
    /// Bytes from one pipeline stage to the next: the hidden state.
    pub stage_hop_bytes: u64,
}

impl TokenCost {
    pub(super) fn of(spec: &DecoderSpec, dtype: Dtype) -> Self {
        let (layers, hidden) = (spec.layers as u64, spec.hidden as u64);
        let size = dtype.activation_bytes();
        Self {
            matrix_flops: matrix_flops(spec, 1),
            all_reduce_bytes_per_layer: 2 * hidden * size,
            all_reduce_bytes: layers * 2 * hidden * size,
            all_reduce_bytes_embedding: hidden * size,
            kv_bytes: layers * (2 * spec.heads.kv_heads * spec.heads.head_dim) as u64 * size,
            stage_hop_bytes: hidden * size,
        }
    }
}

/// Floating-point operations for a token in the layers' matrices on all of `tp` ranks together: where there are more than
/// heads of keys and values, several work out the same ones.
pub(super) fn matrix_flops(spec: &DecoderSpec, tp: usize) -> u64 {
    let heads = spec.heads;
    let repeats = (tp / heads.kv_heads).saturating_sub(1) as u64;
    let key_value = (spec.layers * spec.hidden * 2 * heads.kv_heads * heads.head_dim) as u64;
    2 * (active_matrices(spec) + repeats * key_value)
}

/// Weights of the layers' matrices that a token goes through: of experts, those that are chosen for it.
fn active_matrices(spec: &DecoderSpec) -> u64 {
    let of = |tensor: &TensorSpec| match (tensor.kind, &spec.experts) {
        (Kind::Norm | Kind::Embedding | Kind::Delta, _) => 0,
        (_, Some(experts)) if tensor.count > 1 => experts.routing.top_k * tensor.outputs * tensor.inputs,
        _ => tensor.outputs * tensor.inputs,
    };
    let kinds = spec.layer_kinds(0..spec.layers);
    kinds.iter().map(|(layer, times)| (times * layer.all().map(of).sum::<usize>()) as u64).sum()
}

/// Floating-point operations of attention for a token of a rollout of `tokens`, on average: for each key that it sees, two
/// for every feature of every head in the scores and two in the mixture, layer by layer.
pub(super) fn attention_flops(spec: &DecoderSpec, tokens: usize) -> f64 {
    let features = (spec.heads.heads * spec.heads.head_dim) as f64;
    let keys: f64 = spec.windows.iter().map(|&window| mean_keys(window, tokens)).sum();
    4.0 * features * keys
}

/// How many keys a token sees on average, its own included.
fn mean_keys(window: Option<usize>, tokens: usize) -> f64 {
    let (all, most) = (tokens as f64, window.unwrap_or(tokens).min(tokens) as f64);
    // The first tokens see all before them, the others a full window.
    (most * (most + 1.0) / 2.0 + (all - most) * most) / all
}

/// Bytes that each of `ranks` sends (and as many that it receives) while a ring adds up `bytes`: first the sums go round,
/// then the results.
pub(super) fn ring_bytes(bytes: u64, ranks: usize) -> f64 {
    bytes as f64 * 2.0 * (ranks as f64 - 1.0) / ranks as f64
}

/// The model's weights; `None` where there are so many that whole numbers of bytes could overflow.
pub(super) fn parameters(spec: &DecoderSpec) -> Option<Parameters> {
    let size = |n: usize| n as f64;
    let heads = &spec.heads;
    // An upper bound, in floating point, which does not overflow: matrices of at most so many rows, and a few vectors.
    let rows = 2.0 * size(heads.heads + heads.kv_heads) * size(heads.head_dim) + 3.0 * size(spec.feed_forward);
    let experts = spec.experts.as_ref().map_or(0.0, |of| size(of.count) * (3.0 * size(of.features) + 1.0));
    let layer = (rows + experts + 16.0) * (size(spec.hidden) + 2.0);
    let bound = (size(spec.layers) + 1.0) * layer + size(spec.vocabulary) * size(spec.hidden);
    (bound < 1e15).then(|| spec.parameters())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_counted() {
        for window in [None, Some(1), Some(3), Some(7), Some(100)] {
            for tokens in [1, 2, 7, 8, 50] {
                let seen: usize = (1..=tokens).map(|i: usize| i.min(window.unwrap_or(i))).sum();
                // One division, of whole numbers that are exact.
                assert_eq!(mean_keys(window, tokens), seen as f64 / tokens as f64, "{window:?} {tokens}");
            }
        }
    }

    #[test]
    fn a_ring_sends_less_than_twice() {
        assert_eq!(ring_bytes(800, 1), 0.0);
        assert_eq!(ring_bytes(800, 2), 800.0);
        assert_eq!(ring_bytes(800, 8), 1400.0);
    }
}
