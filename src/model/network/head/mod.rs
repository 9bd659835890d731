//! Heads: attributes out of the hidden state at the reads. A new kind is one file here and one line in [`HEADS`].
//!
//! Float32 on the CPU, whatever the backbone's precision and device: a head sees few rows, and its numbers are the answer.
//! Invariant: a row of the result depends on its own rows of hidden state alone, bit for bit.

mod affine;
mod comparison;
mod gate;
mod gated;
mod labels;
mod ldl;
mod linear;
mod lm_head_difference;
mod lm_head_row;
mod logits;
mod mlp;
mod normalised;
mod pooled;
mod quantile;
mod score;
mod urm;
mod value;

use crate::batch::MicroBatch;
use crate::model::checkpoint::WeightSource;
use crate::model::compute::kernels::exp;
use crate::model::error::ModelError;
use crate::model::settings::Settings;
use labels::Labels;

/// A loaded head.
pub trait Head: Send + Sync {
    /// Number of attributes.
    fn outputs(&self) -> usize;

    /// Number of weights.
    fn parameters(&self) -> usize;

    /// Bytes of the weights in memory.
    fn bytes(&self) -> usize;

    /// Rows that it wants to see besides the reads: one for each read, or none at all. Where a read has no such row, its
    /// scores are not to be trusted: the hidden state that the head is then given is not a number.
    fn companions(&self, _batch: &MicroBatch) -> Vec<Option<u32>> {
        Vec::new()
    }

    /// The attributes of each read, row after row.
    fn forward(&self, hidden: Hidden) -> Vec<f32>;
}

/// Final hidden states, normed, row after row.
#[derive(Debug, Clone, Copy)]
pub struct Hidden<'a> {
    /// At the reads, `[reads, hidden]`; of a model that shows more than one hidden state of a rollout, all of them side by side.
    pub reads: &'a [f32],
    /// At their companions, as many; empty if the head wants none.
    pub companions: &'a [f32],
}

/// A kind of head; a line in [`HEADS`].
pub trait HeadKind: Sync {
    /// Its name in manifests and presets.
    fn name(&self) -> &'static str;

    /// How many hidden states it sees of a rollout, side by side.
    fn rows_seen(&self) -> usize {
        1
    }

    /// Loads such a head.
    fn load(&self, context: &HeadContext) -> Result<Box<dyn Head>, ModelError>;
}

/// What a head is loaded from.
#[derive(Clone, Copy)]
pub struct HeadContext<'a> {
    /// The model's configuration.
    pub settings: &'a Settings,
    /// The model's weights, or those of the head where it is apart.
    pub weights: &'a dyn WeightSource,
    /// Features of the hidden state.
    pub hidden: usize,
    /// How many hidden states the model shows of a rollout, side by side.
    pub rows_seen: usize,
    /// How many attributes have names; `None` if as many as the head has outputs.
    pub names: Option<usize>,
    /// What the manifest or preset says of it.
    pub spec: &'a HeadSpec,
    /// The run of tokens that every rollout holds; empty: none.
    pub needs: &'a [u32],
    /// What to say where the model has no such head; empty or starting with `; `.
    pub hint: &'a str,
}

/// Which kind of head, and what that kind wants to know.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct HeadSpec {
    /// The name of a kind.
    pub kind: String,
    /// Its options.
    #[serde(flatten)]
    pub options: toml::Table,
}

impl Default for HeadSpec {
    /// What most reward models have.
    fn default() -> Self {
        Self { kind: HEADS[0].name().to_owned(), options: toml::Table::new() }
    }
}

/// Options of a kind that has none.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct NoOptions {}

/// Every kind of head; the first is the default.
pub const HEADS: &[&dyn HeadKind] = &[
    &linear::Linear,
    &mlp::Mlp,
    &lm_head_row::LmHeadRow,
    &lm_head_difference::LmHeadDifference,
    &gated::Gated,
    &quantile::Quantile,
    &value::Value,
    &score::Score,
    &ldl::Ldl,
    &urm::Urm,
    &pooled::Pooled,
    &comparison::Comparison,
];

/// Loads the head that a model's manifest or preset describes.
pub fn load(context: &HeadContext) -> Result<Box<dyn Head>, ModelError> {
    let kind = &context.spec.kind;
    let Some(known) = HEADS.iter().find(|known| known.name() == kind) else {
        let known: Vec<_> = HEADS.iter().map(|known| known.name()).collect();
        let reason = format!("head.kind is {kind:?}, expected one of {}", known.join(", "));
        return Err(ModelError::malformed(context.settings.path(), reason));
    };
    if known.rows_seen() != context.rows_seen {
        let (sees, shows) = (known.rows_seen(), context.rows_seen);
        let reason = format!("of a rollout's hidden states it sees {sees} side by side, and the model shows {shows}");
        return Err(context.bad_option(reason));
    }
    let (labels, spec) = Labels::take(context.spec).map_err(|reason| context.bad_option(reason))?;
    // Of several labels one attribute may be made, so that the kind cannot be held to their names.
    let names = context.names.filter(|_| !labels.picks());
    let head = known.load(&HeadContext { spec: &spec, names, ..*context })?;
    let head = labels.over(head).map_err(|reason| context.bad_option(reason))?;
    match context.names.filter(|names| *names != head.outputs()) {
        None => Ok(head),
        Some(names) => Err(ModelError::malformed(
            context.settings.path(),
            format!("{names} attributes are named, but the head ({kind}) has {} outputs", head.outputs()),
        )),
    }
}

impl HeadContext<'_> {
    /// The options of the kind, in its own terms; one that it does not know is refused.
    fn options<T: serde::de::DeserializeOwned>(&self) -> Result<T, ModelError> {
        toml::Value::Table(self.spec.options.clone()).try_into().map_err(|e| self.bad_option(e.to_string().trim_end()))
    }

    /// What is wrong with the options.
    fn bad_option(&self, reason: impl std::fmt::Display) -> ModelError {
        let reason = format!("the [head] of kind {:?} that this model is given: {reason}", self.spec.kind);
        ModelError::malformed(self.settings.path(), reason)
    }

    /// The model has no such head.
    fn absent(&self, tensor: &str) -> ModelError {
        match self.weights.missing(tensor) {
            ModelError::MissingTensor { path, tensor, .. } => {
                ModelError::MissingTensor { path, tensor, hint: self.hint.to_owned() }
            }
            other => other,
        }
    }
}

/// Turns logits into probabilities.
fn softmax(row: &mut [f32]) {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for value in row.iter_mut() {
        *value = exp(*value - max);
        sum += *value;
    }
    row.iter_mut().for_each(|value| *value /= sum);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_softmax_is_one_in_sum_and_keeps_what_is_no_number() {
        let mut row = [1.0, 2.0, 4.0, -1000.0];
        softmax(&mut row);
        let exact: Vec<f64> = [1.0f64, 2.0, 4.0].iter().map(|x| libm::exp(x - 4.0)).collect();
        let sum: f64 = exact.iter().sum();
        for (value, exact) in row.iter().zip(&exact) {
            // An exponential of one and a half units, three sums and a division of half a unit each.
            assert!((f64::from(*value) - exact / sum).abs() <= 4.0 * f64::from(f32::EPSILON) * exact / sum, "{row:?}");
        }
        assert_eq!(row[3], 0.0);
        let mut broken = [0.0, f32::NAN];
        softmax(&mut broken);
        assert!(broken.iter().all(|value| value.is_nan()), "{broken:?}");
    }
}
