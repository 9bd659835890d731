//! Megatron's arrays as the tensors that transformers would have: their names, and which rows of which array they are.
//!
//! Queries, keys and values are one array, group after group: a group's query heads, its key head, its value head. The two
//! halves of a gated feed-forward layer are one array, all gates before all ups. The norms before attention and before the
//! feed-forward layer belong to the matrix that follows them. Layers are stacked in the first dimension.
//! Source: `scripts/checkpoint_converters/convert_nemotron_nemo_to_hf.py` and `convert_llama_nemo_to_hf.py` of NeMo.

use std::collections::BTreeMap;
use std::ops::Range;

use super::array::{Array, Weights};
use super::config::Architecture;
use super::store::Store;
use crate::model::checkpoint::WeightSource;
use crate::model::error::ModelError;

/// The head's matrix, of as many rows as it has outputs.
pub const HEAD: &str = "model.rm_head.weight";

/// Where a layer's arrays are, among the arrays.
const LAYERS: &str = "model.decoder.layers.";

/// A tensor: some rows of one matrix of an array.
#[derive(Debug)]
pub struct Placed {
    /// Index of the array.
    pub array: usize,
    /// The matrix in it.
    pub matrix: usize,
    /// Which rows.
    pub rows: Rows,
    /// The tensor's shape.
    pub shape: Vec<usize>,
}

/// The rows of a matrix that a tensor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    /// All from one on.
    From(usize),
    /// Some of every group of rows.
    OfGroups {
        /// Rows in a group.
        group: usize,
        /// The first of them, within the group.
        first: usize,
        /// How many.
        count: usize,
    },
}

impl Rows {
    /// Rows of the matrix that some rows of the tensor are, run by run.
    pub fn runs(self, rows: Range<usize>) -> impl Iterator<Item = Range<usize>> {
        let mut row = rows.start;
        std::iter::from_fn(move || {
            if row >= rows.end {
                return None;
            }
            let (start, length) = match self {
                Self::From(first) => (first + row, rows.end - row),
                Self::OfGroups { group, first, count } => {
                    (row / count * group + first + row % count, (count - row % count).min(rows.end - row))
                }
            };
            row += length;
            Some(start..start + length)
        })
    }
}

/// Arrays and the tensors in them.
#[derive(Debug)]
pub struct Layout {
    /// The arrays.
    pub arrays: Vec<Array>,
    /// The tensors, by transformers' names.
    pub tensors: BTreeMap<String, Placed>,
}

impl Layout {
    /// Opens every array that scoring needs. One that is not known would be left out of the sum, so it is refused.
    pub fn open(store: &Store, weights: &Weights, architecture: &Architecture) -> Result<Self, ModelError> {
        let mut layout = Self { arrays: Vec::new(), tensors: BTreeMap::new() };
        for name in array_names(store, weights) {
            // The head of the language model and the optimizer have no part in a reward, nor has what Transformer Engine
            // leaves beside its layers.
            let unused = name.starts_with("model.output_layer.") || name.starts_with("optimizer.");
            if !unused && !name.contains("._extra_state") {
                layout.add(store, weights, &name, architecture)?;
            }
        }
        Ok(layout)
    }

    fn add(&mut self, store: &Store, weights: &Weights, name: &str, a: &Architecture) -> Result<(), ModelError> {
        let place = || store.place(&format!("{}/{name}", weights.folder()));
        let Some((targets, expected)) = targets(name, a) else {
            return Err(ModelError::Unsupported {
                path: place(),
                field: format!("array {name:?}"),
                found: "present".into(),
                expected: format!("the arrays of {}", a.name),
            });
        };
        let stacked = name.starts_with(LAYERS);
        let array = weights.open(store, name, stacked)?;
        let fits = |(expected, found): (&Option<usize>, &usize)| expected.is_none_or(|n| n == *found);
        let found = array.matrix_shape();
        let matches = expected.len() == found.len() && expected.iter().zip(found).all(fits);
        if !matches || (stacked && array.matrices() != a.layers) {
            let size = |n: &Option<usize>| n.map_or("any".to_owned(), |n| n.to_string());
            let layers = stacked.then(|| a.layers.to_string());
            let sizes: Vec<_> = layers.into_iter().chain(expected.iter().map(size)).collect();
            let layers = stacked.then(|| array.matrices());
            let found: Vec<_> = layers.into_iter().chain(found.iter().copied()).collect();
            return Err(ModelError::malformed(
                &place(),
                format!("shape is {found:?}, expected [{}] by the configuration", sizes.join(", ")),
            ));
        }
        let columns = array.matrix_shape().get(1).copied();
        for (target, rows, count) in targets {
            for matrix in 0..array.matrices() {
                let name = if stacked { format!("model.layers.{matrix}.{target}") } else { target.to_owned() };
                let count = count.unwrap_or(array.matrix_shape()[0]);
                let shape = [Some(count), columns].into_iter().flatten().collect();
                self.tensors.insert(name, Placed { array: self.arrays.len(), matrix, rows, shape });
            }
        }
        self.arrays.push(array);
        Ok(())
    }
}

/// Names of arrays: of the folders that have a header, or of the file's tensors.
fn array_names(store: &Store, weights: &Weights) -> Vec<String> {
    let name = |file: &str| Some(file.strip_prefix("model_weights/")?.strip_suffix("/.zarray")?.to_owned());
    match weights {
        Weights::Zarr => store.names().filter_map(name).collect(),
        Weights::File(file) => file.names(),
        Weights::Distributed(items) => items.names(),
    }
}

/// A tensor's name, its rows, and how many if not all.
type Target = (&'static str, Rows, Option<usize>);

/// The tensors in an array, and the array's shape without its layers as far as the configuration determines it.
fn targets(array: &str, a: &Architecture) -> Option<(Vec<Target>, Vec<Option<usize>>)> {
    let whole = |name: &'static str, shape: &[usize]| {
        Some((vec![(name, Rows::From(0), None)], shape.iter().map(|&n| Some(n)).collect()))
    };
    let queries = a.heads / a.groups * a.head_dim;
    let (attention, stacked) = (a.heads * a.head_dim, (a.heads + 2 * a.groups) * a.head_dim);
    let grouped = |names: [&'static str; 3], columns: &[usize]| {
        let group = queries + 2 * a.head_dim;
        let part = |name, first, count| (name, Rows::OfGroups { group, first, count }, Some(a.groups * count));
        let parts = vec![
            part(names[0], 0, queries),
            part(names[1], queries, a.head_dim),
            part(names[2], queries + a.head_dim, a.head_dim),
        ];
        Some((parts, [stacked].iter().chain(columns).map(|&n| Some(n)).collect()))
    };
    let gated = |names: [&'static str; 2], columns: &[usize]| {
        let ffn = a.feed_forward;
        let parts = vec![(names[0], Rows::From(0), Some(ffn)), (names[1], Rows::From(ffn), Some(ffn))];
        Some((parts, [2 * ffn].iter().chain(columns).map(|&n| Some(n)).collect()))
    };
    if let Some(part) = array.strip_prefix(LAYERS) {
        return match (part, a.gated) {
            ("self_attention.linear_qkv.weight", _) => {
                grouped(["self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"], &[a.hidden])
            }
            ("self_attention.linear_qkv.bias", _) if a.qkv_bias => {
                grouped(["self_attn.q_proj.bias", "self_attn.k_proj.bias", "self_attn.v_proj.bias"], &[])
            }
            ("self_attention.linear_proj.weight", _) => whole("self_attn.o_proj.weight", &[a.hidden, attention]),
            ("self_attention.linear_proj.bias", _) if a.linear_bias => whole("self_attn.o_proj.bias", &[a.hidden]),
            ("mlp.linear_fc1.weight", true) => gated(["mlp.gate_proj.weight", "mlp.up_proj.weight"], &[a.hidden]),
            ("mlp.linear_fc1.bias", true) if a.linear_bias => gated(["mlp.gate_proj.bias", "mlp.up_proj.bias"], &[]),
            ("mlp.linear_fc1.weight", false) => whole("mlp.up_proj.weight", &[a.feed_forward, a.hidden]),
            ("mlp.linear_fc1.bias", false) if a.linear_bias => whole("mlp.up_proj.bias", &[a.feed_forward]),
            ("mlp.linear_fc2.weight", _) => whole("mlp.down_proj.weight", &[a.hidden, a.feed_forward]),
            ("mlp.linear_fc2.bias", _) if a.linear_bias => whole("mlp.down_proj.bias", &[a.hidden]),
            ("self_attention.linear_qkv.layer_norm_weight", _) => whole("input_layernorm.weight", &[a.hidden]),
            ("self_attention.linear_qkv.layer_norm_bias", _) if a.norm_bias => {
                whole("input_layernorm.bias", &[a.hidden])
            }
            ("mlp.linear_fc1.layer_norm_weight", _) => whole("post_attention_layernorm.weight", &[a.hidden]),
            ("mlp.linear_fc1.layer_norm_bias", _) if a.norm_bias => whole("post_attention_layernorm.bias", &[a.hidden]),
            _ => None,
        };
    }
    match array {
        "model.embedding.word_embeddings.weight" => {
            Some((vec![("model.embed_tokens.weight", Rows::From(0), None)], vec![None, Some(a.hidden)]))
        }
        "model.decoder.final_layernorm.weight" => whole("model.norm.weight", &[a.hidden]),
        "model.decoder.final_layernorm.bias" if a.norm_bias => whole("model.norm.bias", &[a.hidden]),
        HEAD => whole("score.weight", &[a.outputs, a.hidden]),
        "model.rm_head.bias" => whole("score.bias", &[a.outputs]),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_groups_come_in_runs() {
        // Groups of 8: four rows of queries, two of the key, two of the value.
        let queries = Rows::OfGroups { group: 8, first: 0, count: 4 };
        assert_eq!(queries.runs(0..12).collect::<Vec<_>>(), [0..4, 8..12, 16..20]);
        assert_eq!(queries.runs(3..9).collect::<Vec<_>>(), [3..4, 8..12, 16..17]);
        let values = Rows::OfGroups { group: 8, first: 6, count: 2 };
        assert_eq!(values.runs(1..4).collect::<Vec<_>>(), [7..8, 14..16]);
        assert_eq!(values.runs(2..2).count(), 0);
        assert_eq!(Rows::From(10).runs(2..5).next(), Some(12..15));
    }
}
