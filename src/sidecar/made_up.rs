//! Token ids that stand for a rollout where nobody has sent one: a model's known answer, `bench`.
//!
//! The invariant: they are of the model's vocabulary, and hold what its head looks for.

use std::collections::BTreeSet;

use super::rules::says_padding;
use crate::engine::{ModelCard, ReadAt};
use crate::rollout::AggregationSpec;

/// `count` ids and those that the model's head looks for, or as many as the context has room for. Those of another `first` are others.
pub fn token_ids(card: &ModelCard, first: u32, count: u32) -> Vec<u32> {
    let asked_for = asked_for(card);
    // One more may be appended where it is read.
    let room = (card.context_tokens as usize).saturating_sub(asked_for.len() + 1).min(count as usize);
    let numbers = first.wrapping_add(1)..=u32::MAX;
    ids(card, numbers).take(room).chain(asked_for).collect()
}

/// An id for each number, and those that the model's head looks for.
pub fn complete(card: &ModelCard, numbers: impl Iterator<Item = u32>) -> Vec<u32> {
    ids(card, numbers).chain(asked_for(card)).collect()
}

/// An id for each number, but for those at which a rollout ends, wherever they stand, for those that it holds once, and for padding.
fn ids(card: &ModelCard, numbers: impl Iterator<Item = u32>) -> impl Iterator<Item = u32> {
    let ends = [card.reads.skip, card.reads.ends_before];
    let samples = card.text.vocabulary.iter().flat_map(|vocabulary| &vocabulary.samples);
    let padding = samples.filter(|(_, token)| says_padding(token)).map(|(id, _)| *id);
    let anchors = card.reads.anchors.iter().copied();
    let left_out: BTreeSet<u32> = ends.into_iter().flatten().chain(padding).chain(anchors).collect();
    numbers.map(|number| token_id(card, number)).filter(move |id| !left_out.contains(id))
}

/// What must stand at a rollout's end.
fn asked_for(card: &ModelCard) -> Vec<u32> {
    let reads = &card.reads;
    let step = match reads.at {
        ReadAt::EveryToken { token, .. } => [reads.behind.as_slice(), &[token]].concat(),
        ReadAt::LastToken => Vec::new(),
    };
    reads.anchors.iter().chain(&reads.needs).copied().chain(step).chain(reads.ends_with).collect()
}

/// An id of the model's vocabulary, spread over it by a multiplicative hash (Knuth, TAOCP vol. 3, 6.4).
fn token_id(card: &ModelCard, number: u32) -> u32 {
    ((u64::from(number.wrapping_mul(2_654_435_761)) * u64::from(card.vocabulary_size)) >> 32) as u32
}

/// An aggregation that every model knows: its first attribute alone.
pub fn aggregation(card: &ModelCard) -> AggregationSpec {
    AggregationSpec {
        weights: card.attributes.first().map(|name| (name.clone(), 1.0)).into_iter().collect(),
        ..AggregationSpec::default()
    }
}
