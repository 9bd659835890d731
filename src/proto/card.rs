//! A model's card from and to the wire.
//!
//! Invariant: a card survives the round trip, but for the tokenizer, which does not travel.

use super::v1;
use crate::engine::{ModelCard, ReadPolicy, TextAssets};

/// A model, and the terms on which a server scores with it.
#[derive(Debug, Clone, PartialEq)]
pub struct ServedModel {
    /// The model. Its tokenizer does not travel: [`TextAssets::tokenizer_json`] is `None` on the client's side.
    pub model: ModelCard,
    /// Rollouts of one stream that may be unanswered at a time.
    pub in_flight_limit: u32,
    /// What happens to a rollout longer than the context: `reject` or `truncate-left`.
    pub over_long: String,
    /// Names of the aggregations a rollout may ask for.
    pub aggregations: Vec<String>,
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
        in_flight_limit: served.in_flight_limit,
        over_long: served.over_long.clone(),
        aggregations: served.aggregations.clone(),
    }
}

/// A model's card as the wire has it.
pub fn card_from_wire(card: v1::ModelCard) -> ServedModel {
    ServedModel {
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
                ..TextAssets::default()
            },
            reads: ReadPolicy::default(),
        },
        in_flight_limit: card.in_flight_limit,
        over_long: card.over_long,
        aggregations: card.aggregations,
    }
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
            text: TextAssets { chat_template: Some("{{ messages }}".into()), ..TextAssets::default() },
            reads: ReadPolicy::default(),
        };
        let bare = ModelCard { default_weighting: None, text: TextAssets::default(), ..model.clone() };
        for model in [model, bare] {
            let served = ServedModel {
                model,
                in_flight_limit: 1024,
                over_long: "truncate-left".into(),
                aggregations: vec!["weighted_sum".into()],
            };
            let bytes = card_to_wire(&served).encode_to_vec();
            assert_eq!(card_from_wire(v1::ModelCard::decode(bytes.as_slice()).unwrap()), served);
        }
    }
}
