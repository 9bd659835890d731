//! Aggregations: from a rollout's attributes to its one reward.
//!
//! To add one, write `src/aggregate/NAME.rs` and a line in [`AGGREGATIONS`]; the wire refers to it by name. An
//! aggregation is bound to attribute columns once, at intake, where everything that can be wrong with a request is
//! found; applying the bound form, to each of a rollout's reads, cannot fail.

mod steps;
mod weighted_sum;

use std::sync::Arc;

use crate::engine::ModelCard;
use crate::reward::{Code, Rejection};
use crate::rollout::{AggregationSpec, FinishReason};

pub use steps::reduce;

/// A way to make one reward out of the attributes.
pub trait Aggregation: Sync {
    /// The name by which requests ask for it.
    fn name(&self) -> &'static str;

    /// Checks a request's options against the model's attributes. `length_known` says whether the completion's length is:
    /// some input forms do not tell.
    fn bind(&self, spec: &AggregationSpec, card: &ModelCard, length_known: bool) -> Result<Bound, Rejection>;
}

/// What counts of a read beside its attributes.
#[derive(Debug, Clone, Copy)]
pub struct Facts {
    /// Tokens of the completion, where the input form tells.
    pub completion_tokens: Option<u32>,
    /// Why the completion ended.
    pub finish_reason: FinishReason,
}

impl Facts {
    /// Of one step: what is taken off for a completion's length or end is not taken off its steps.
    pub const STEP: Self = Self { completion_tokens: Some(0), finish_reason: FinishReason::Stop };
}

/// An aggregation bound to one rollout: attributes and facts in, reward out, all in float64. The one rounding to float32
/// is the caller's. Rollouts that ask for the same share it.
pub type Bound = Arc<dyn Fn(&[f32], Facts) -> f64 + Send + Sync>;

/// Every aggregation there is; the first is the default.
pub const AGGREGATIONS: &[&dyn Aggregation] = &[&weighted_sum::WeightedSum];

/// Finds the aggregation that a request names and binds it.
pub fn bind(spec: &AggregationSpec, card: &ModelCard, length_known: bool) -> Result<Bound, Rejection> {
    let aggregation = match spec.name.as_str() {
        "" => AGGREGATIONS[0],
        name => AGGREGATIONS.iter().copied().find(|a| a.name() == name).ok_or_else(|| {
            let known: Vec<_> = AGGREGATIONS.iter().map(|a| a.name()).collect();
            Rejection::new(
                Code::UnknownAggregation,
                format!("aggregation: there is no aggregation '{name}'; there are: {}", known.join(", ")),
            )
        })?,
    };
    aggregation.bind(spec, card, length_known)
}
