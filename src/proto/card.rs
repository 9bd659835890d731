//! A model's card from and to the wire.
//!
//! Invariant: a card survives the round trip, but for the tokenizer's file and what text needs beside it, which do not travel. The
//! names of the server's other models are put beside it by the server.

use std::sync::Arc;

use super::v1;
use crate::engine::{ModelCard, ReadAt, ReadPolicy, Reduce, TextAssets, Vocabulary};

/// A model, and the terms on which a server scores with it.
#[derive(Debug, Clone, PartialEq)]
pub struct ServedModel {
    /// The model. Its tokenizer's file does not travel: of [`TextAssets`], the client's side has the chat templates and the
    /// vocabulary's fingerprint.
    pub model: ModelCard,
    /// Rollouts of one stream that may be unanswered at a time.
    pub in_flight_limit: u32,
    /// What happens to a rollout longer than the context: `reject` or `truncate-left`.
    pub over_long: String,
    /// Names of the aggregations a rollout may ask for.
    pub aggregations: Vec<String>,
}

/// A card that follows the protocol of no version this program knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the model's card makes a rollout's attributes of its steps' in way {reduce}, which this program does not know; update it"
)]
pub struct BadCard {
    /// The number on the wire.
    pub reduce: i32,
}

/// A model's card for the wire.
pub fn card_to_wire(served: &ServedModel) -> v1::ModelCard {
    let model = &served.model;
    v1::ModelCard {
        name: model.name.clone(),
        model_version: model.model_version.to_string(),
        architecture: model.architecture.clone(),
        attributes: model.attributes.clone(),
        weightings: model
            .weightings
            .iter()
            .map(|(name, weights)| v1::Weighting {
                name: name.clone(),
                weights: weights.iter().map(|(attribute, &weight)| (attribute.clone(), weight)).collect(),
            })
            .collect(),
        default_weighting: model.default_weighting.clone().unwrap_or_default(),
        context_tokens: model.context_tokens,
        vocabulary_size: model.vocabulary_size,
        chat_template: model.text.chat_template.clone().unwrap_or_default(),
        chat_templates: model.text.named_templates.clone().into_iter().collect(),
        in_flight_limit: served.in_flight_limit,
        over_long: served.over_long.clone(),
        aggregations: served.aggregations.clone(),
        reads: Some(reads_to_wire(&model.reads)),
        tokenizer: model.text.vocabulary.as_deref().map(vocabulary_to_wire),
        models: Vec::new(),
    }
}

/// A model's card as the wire has it.
pub fn card_from_wire(card: v1::ModelCard) -> Result<ServedModel, BadCard> {
    Ok(ServedModel {
        model: ModelCard {
            name: card.name,
            model_version: card.model_version.into(),
            architecture: card.architecture,
            attributes: card.attributes,
            weightings: card
                .weightings
                .into_iter()
                .map(|weighting| (weighting.name, weighting.weights.into_iter().collect()))
                .collect(),
            default_weighting: non_empty(card.default_weighting),
            context_tokens: card.context_tokens,
            vocabulary_size: card.vocabulary_size,
            text: TextAssets {
                tokenizer_json: None,
                chat_template: non_empty(card.chat_template),
                vocabulary: card.tokenizer.map(vocabulary_from_wire).map(Arc::new),
                named_templates: card.chat_templates.into_iter().collect(),
                ..TextAssets::default()
            },
            reads: reads_from_wire(card.reads.unwrap_or_default())?,
        },
        in_flight_limit: card.in_flight_limit,
        over_long: card.over_long,
        aggregations: card.aggregations,
    })
}

fn vocabulary_to_wire(vocabulary: &Vocabulary) -> v1::Tokenizer {
    let samples = vocabulary.samples.iter();
    v1::Tokenizer {
        fingerprint: vocabulary.fingerprint.clone(),
        size: vocabulary.size,
        block_hashes: vocabulary.block_hashes.clone(),
        samples: samples.map(|(id, text)| v1::Token { id: *id, text: text.clone() }).collect(),
    }
}

fn vocabulary_from_wire(tokenizer: v1::Tokenizer) -> Vocabulary {
    Vocabulary {
        fingerprint: tokenizer.fingerprint,
        size: tokenizer.size,
        block_hashes: tokenizer.block_hashes,
        samples: tokenizer.samples.into_iter().map(|token| (token.id, token.text)).collect(),
    }
}

fn reads_to_wire(reads: &ReadPolicy) -> v1::ReadPolicy {
    let (step_token, reduce) = match reads.at {
        ReadAt::LastToken => (None, v1::Reduce::Unspecified),
        ReadAt::EveryToken { token, reduce: Reduce::Product } => (Some(token), v1::Reduce::Product),
        ReadAt::EveryToken { token, reduce: Reduce::Min } => (Some(token), v1::Reduce::Min),
        ReadAt::EveryToken { token, reduce: Reduce::Mean } => (Some(token), v1::Reduce::Mean),
        ReadAt::EveryToken { token, reduce: Reduce::Last } => (Some(token), v1::Reduce::Last),
    };
    v1::ReadPolicy {
        step_token,
        reduce: reduce.into(),
        append: reads.append,
        needs: reads.needs.clone(),
        skip: reads.skip,
        ends_before: reads.ends_before,
        strip: reads.strip.clone(),
        ends_with: reads.ends_with,
        text_only: reads.text_only,
        behind: reads.behind.clone(),
        anchors: reads.anchors.clone(),
    }
}

fn reads_from_wire(reads: v1::ReadPolicy) -> Result<ReadPolicy, BadCard> {
    let at = match (reads.step_token, v1::Reduce::try_from(reads.reduce)) {
        (None, _) => ReadAt::LastToken,
        (Some(token), Ok(v1::Reduce::Product)) => ReadAt::EveryToken { token, reduce: Reduce::Product },
        (Some(token), Ok(v1::Reduce::Min)) => ReadAt::EveryToken { token, reduce: Reduce::Min },
        (Some(token), Ok(v1::Reduce::Mean)) => ReadAt::EveryToken { token, reduce: Reduce::Mean },
        (Some(token), Ok(v1::Reduce::Last)) => ReadAt::EveryToken { token, reduce: Reduce::Last },
        (Some(_), Ok(v1::Reduce::Unspecified) | Err(_)) => return Err(BadCard { reduce: reads.reduce }),
    };
    let v1::ReadPolicy { append, needs, strip, ends_with, skip, ends_before, text_only, behind, anchors, .. } = reads;
    Ok(ReadPolicy { at, behind, strip, skip, ends_before, append, ends_with, text_only, needs, anchors })
}

/// The wire spells absence as an empty string.
fn non_empty(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use prost::Message as _;

    use super::*;

    #[test]
    fn a_card_survives_the_wire() {
        let model = ModelCard {
            name: "demo".into(),
            model_version: "v1".into(),
            architecture: "LlamaForSequenceClassification".into(),
            attributes: vec!["helpfulness".into(), "verbosity".into()],
            weightings: BTreeMap::from([("default".into(), BTreeMap::from([("helpfulness".into(), 0.65)]))]),
            default_weighting: Some("default".into()),
            context_tokens: 8192,
            vocabulary_size: 49152,
            text: TextAssets {
                chat_template: Some("{{ messages }}".into()),
                vocabulary: Some(Arc::new(Vocabulary {
                    fingerprint: "ba78".into(),
                    size: 2,
                    block_hashes: vec![0, 1, 2, 3, 4, 5, 6, 255],
                    samples: vec![(0, "<s>".into()), (7, "Ġa".into())],
                })),
                named_templates: BTreeMap::from([("tool_use".into(), "{{ tools }}".into())]),
                ..TextAssets::default()
            },
            reads: ReadPolicy::default(),
        };
        let bare = ModelCard { default_weighting: None, text: TextAssets::default(), ..model.clone() };
        let steps = |reduce| ReadPolicy {
            at: ReadAt::EveryToken { token: 7, reduce },
            behind: vec![4, 6],
            strip: "\n ".into(),
            skip: Some(3),
            ends_before: Some(4),
            append: Some(0),
            ends_with: Some(0),
            text_only: true,
            needs: vec![5, 0, 5],
            anchors: vec![6, 5],
        };
        let reading = [Reduce::Product, Reduce::Min, Reduce::Mean, Reduce::Last].map(steps);
        let reading = reading.map(|reads| ModelCard { reads, ..model.clone() });
        for model in [model, bare].into_iter().chain(reading) {
            let served = ServedModel {
                model,
                in_flight_limit: 1024,
                over_long: "truncate-left".into(),
                aggregations: vec!["weighted_sum".into()],
            };
            let bytes = card_to_wire(&served).encode_to_vec();
            assert_eq!(card_from_wire(v1::ModelCard::decode(bytes.as_slice()).unwrap()), Ok(served));
        }
    }

    #[test]
    fn an_unknown_way_to_read_is_no_guess() {
        for reduce in [0, 5] {
            let reads = Some(v1::ReadPolicy { step_token: Some(7), reduce, ..Default::default() });
            let card = v1::ModelCard { reads, ..Default::default() };
            assert_eq!(card_from_wire(card), Err(BadCard { reduce }));
        }
        // A server of an earlier version says nothing of reads.
        assert_eq!(card_from_wire(v1::ModelCard::default()).unwrap().model.reads, ReadPolicy::default());
    }
}
