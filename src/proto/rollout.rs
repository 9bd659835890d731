//! A [`Rollout`] from and to the wire.
//!
//! Invariant: a rollout survives the round trip. Only an absent weighting has two spellings in our nouns and one on the
//! wire: an empty one comes back as `None`.

use std::sync::Arc;

use prost::Message as _;

use super::v1;
use crate::reward::{Code, Rejection};
use crate::rollout::{
    AggregationSpec, AnswerOnly, Clip, Extras, FinishReason, Input, LengthPenalty, Message, Rollout, SoftLength,
    Transform,
};

/// A rollout as the wire claims it. An input that is not set stays `None`, for intake to reject.
pub fn rollout_from_wire(rollout: v1::Rollout) -> Result<Rollout, Rejection> {
    let finish_reason = match v1::FinishReason::try_from(rollout.finish_reason) {
        Ok(v1::FinishReason::Unspecified) => FinishReason::Unspecified,
        Ok(v1::FinishReason::Stop) => FinishReason::Stop,
        Ok(v1::FinishReason::Length) => FinishReason::Length,
        Err(_) => {
            return Err(Rejection::new(
                Code::Malformed,
                format!(
                    "finish_reason: {} is no FinishReason; send 0 (unspecified), 1 (stop) or 2 (length)",
                    rollout.finish_reason
                ),
            ));
        }
    };
    let mut input = rollout.input.map(input_from_wire);
    if !rollout.reference.is_empty() {
        let Some(Input::Chat { extras, .. }) = &mut input else {
            let what = "reference: only conversations go through a template; leave it out beside text and token ids";
            return Err(Rejection::new(Code::BadOption, what));
        };
        extras.get_or_insert_default().reference = Some(rollout.reference.into());
    }
    Ok(Rollout {
        id: rollout.id,
        model: rollout.model,
        input,
        finish_reason,
        group: rollout.group,
        priority: rollout.priority,
        deadline_ms: rollout.deadline_ms,
        aggregation: rollout.aggregation.map(aggregation_from_wire).unwrap_or_default().into(),
        require_completion: rollout.require_completion,
        answer_only: rollout.answer_only.map(|wish| AnswerOnly { off: wish.off, open: wish.open, close: wish.close }),
        model_version: rollout.model_version,
        traceparent: rollout.traceparent,
        tracestate: String::new(),
    })
}

/// A rollout for the wire.
pub fn rollout_to_wire(rollout: Rollout) -> v1::Rollout {
    let reference = match &rollout.input {
        Some(Input::Chat { extras: Some(extras), .. }) => extras.reference.as_deref().unwrap_or_default().to_owned(),
        _ => String::new(),
    };
    let finish_reason = match rollout.finish_reason {
        FinishReason::Unspecified => v1::FinishReason::Unspecified,
        FinishReason::Stop => v1::FinishReason::Stop,
        FinishReason::Length => v1::FinishReason::Length,
    };
    v1::Rollout {
        id: rollout.id,
        model: rollout.model,
        input: rollout.input.map(input_to_wire),
        finish_reason: finish_reason.into(),
        group: rollout.group,
        priority: rollout.priority,
        deadline_ms: rollout.deadline_ms,
        aggregation: (*rollout.aggregation != AggregationSpec::default())
            .then(|| aggregation_to_wire(Arc::unwrap_or_clone(rollout.aggregation))),
        traceparent: rollout.traceparent,
        cancel: false,
        require_completion: rollout.require_completion,
        answer_only: rollout.answer_only.map(|wish| v1::AnswerOnly {
            off: wish.off,
            open: wish.open,
            close: wish.close,
        }),
        model_version: rollout.model_version,
        reference,
    }
}

/// How attributes become a reward, as bytes: what a lane sends once and then names by a number.
pub fn aggregation_to_bytes(spec: AggregationSpec) -> Vec<u8> {
    aggregation_to_wire(spec).encode_to_vec()
}

/// The same, read back.
pub fn aggregation_from_bytes(bytes: &[u8]) -> Result<AggregationSpec, prost::DecodeError> {
    v1::Aggregation::decode(bytes).map(aggregation_from_wire)
}

fn input_from_wire(input: v1::rollout::Input) -> Input {
    match input {
        v1::rollout::Input::Chat(chat) => chat_from_wire(chat),
        v1::rollout::Input::Text(text) => Input::Text(text),
        v1::rollout::Input::TokenIds(v1::TokenIds { ids }) => Input::TokenIds(ids),
        v1::rollout::Input::PromptCompletionIds(v1::PromptCompletionIds { prompt, completion }) => {
            Input::PromptCompletionIds { prompt, completion }
        }
    }
}

fn input_to_wire(input: Input) -> v1::rollout::Input {
    match input {
        Input::Chat { messages, completion, extras } => v1::rollout::Input::Chat(chat_to_wire(
            messages,
            completion,
            extras.map(|extras| *extras).unwrap_or_default(),
        )),
        Input::Text(text) => v1::rollout::Input::Text(text),
        Input::TokenIds(ids) => v1::rollout::Input::TokenIds(v1::TokenIds { ids }),
        Input::PromptCompletionIds { prompt, completion } => {
            v1::rollout::Input::PromptCompletionIds(v1::PromptCompletionIds { prompt, completion })
        }
    }
}

fn chat_from_wire(chat: v1::Chat) -> Input {
    let v1::Chat { messages, completion, completion_messages, tools, documents, template_variables, template } = chat;
    let given = |text: String| (!text.is_empty()).then(|| text.into());
    let extras = Extras {
        completion: completion_messages.into_iter().map(message_from_wire).collect(),
        tools: given(tools),
        documents: given(documents),
        template_variables: given(template_variables),
        template: template.into(),
        // It stands beside the chat.
        reference: None,
    };
    let extras = (extras != Extras::default()).then(|| Box::new(extras));
    Input::Chat { messages: messages.into_iter().map(message_from_wire).collect(), completion, extras }
}

fn chat_to_wire(messages: Vec<Message>, completion: String, extras: Extras) -> v1::Chat {
    let Extras { completion: completion_messages, tools, documents, template_variables, template, reference: _ } =
        extras;
    let text = |text: Option<Arc<str>>| text.as_deref().unwrap_or_default().to_owned();
    v1::Chat {
        messages: messages.into_iter().map(message_to_wire).collect(),
        completion,
        completion_messages: completion_messages.into_iter().map(message_to_wire).collect(),
        tools: text(tools),
        documents: text(documents),
        template_variables: text(template_variables),
        template: template.as_ref().to_owned(),
    }
}

fn message_from_wire(message: v1::Message) -> Message {
    let v1::Message { role, content, score, json } = message;
    Message { role, content, score, json: (!json.is_empty()).then_some(json) }
}

fn message_to_wire(message: Message) -> v1::Message {
    let Message { role, content, score, json } = message;
    v1::Message { role, content, score, json: json.unwrap_or_default() }
}

fn aggregation_from_wire(aggregation: v1::Aggregation) -> AggregationSpec {
    AggregationSpec {
        name: aggregation.name,
        weighting: Some(aggregation.weighting).filter(|name| !name.is_empty()),
        weights: aggregation.weights.into_iter().collect(),
        transforms: aggregation.transforms.into_iter().map(|(name, t)| (name, transform_from_wire(t))).collect(),
        clip: clip_from_wire(aggregation.clip),
        offset: aggregation.offset,
        unfinished_penalty: aggregation.unfinished_penalty,
        length_penalty: aggregation
            .length_penalty
            .map(|p| LengthPenalty { per_token: p.per_token, target_tokens: p.target_tokens }),
        unfinished_value: aggregation.unfinished_value,
        soft_length: aggregation.soft_length.map(|soft| SoftLength {
            limit_tokens: soft.limit_tokens,
            cache_tokens: soft.cache_tokens,
            most: soft.most,
        }),
    }
}

fn aggregation_to_wire(spec: AggregationSpec) -> v1::Aggregation {
    v1::Aggregation {
        name: spec.name,
        weighting: spec.weighting.unwrap_or_default(),
        weights: spec.weights.into_iter().collect(),
        transforms: spec.transforms.into_iter().map(|(name, t)| (name, transform_to_wire(t))).collect(),
        clip: clip_to_wire(spec.clip),
        offset: spec.offset,
        unfinished_penalty: spec.unfinished_penalty,
        length_penalty: spec
            .length_penalty
            .map(|p| v1::LengthPenalty { per_token: p.per_token, target_tokens: p.target_tokens }),
        unfinished_value: spec.unfinished_value,
        soft_length: spec.soft_length.map(|soft| v1::SoftLength {
            limit_tokens: soft.limit_tokens,
            cache_tokens: soft.cache_tokens,
            most: soft.most,
        }),
    }
}

fn transform_from_wire(t: v1::Transform) -> Transform {
    Transform { mean: t.mean, std: t.std, scale: t.scale, shift: t.shift, clip: clip_from_wire(t.clip) }
}

fn transform_to_wire(t: Transform) -> v1::Transform {
    v1::Transform { mean: t.mean, std: t.std, scale: t.scale, shift: t.shift, clip: clip_to_wire(t.clip) }
}

fn clip_from_wire(clip: Option<v1::Clip>) -> Clip {
    clip.map(|c| Clip { min: c.min, max: c.max }).unwrap_or_default()
}

fn clip_to_wire(clip: Clip) -> Option<v1::Clip> {
    (clip != Clip::default()).then_some(v1::Clip { min: clip.min, max: clip.max })
}

#[cfg(test)]
mod tests {
    use proptest::collection::{btree_map, vec};
    use proptest::option;
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;

    /// Short text of any characters.
    fn text() -> impl Strategy<Value = String> {
        vec(any::<char>(), 0..8).prop_map(String::from_iter)
    }

    fn clip() -> impl Strategy<Value = Clip> {
        any::<(Option<i32>, Option<i32>)>()
            .prop_map(|(min, max)| Clip { min: min.map(f64::from), max: max.map(f64::from) })
    }

    fn given() -> impl Strategy<Value = Option<String>> {
        option::of(text().prop_filter("absence has one spelling", |t| !t.is_empty()))
    }

    fn message() -> impl Strategy<Value = Message> {
        (text(), text(), any::<bool>(), given()).prop_map(|(role, content, score, json)| Message {
            role,
            content,
            score,
            json,
        })
    }

    fn extras() -> impl Strategy<Value = Extras> {
        (vec(message(), 0..3), [given(), given(), given(), given()], text()).prop_map(
            |(completion, texts, template)| {
                let [tools, documents, template_variables, reference] = texts.map(|text| text.map(Arc::from));
                Extras { completion, tools, documents, template_variables, reference, template: template.into() }
            },
        )
    }

    fn input() -> impl Strategy<Value = Input> {
        let ids = || vec(any::<u32>(), 0..6);
        prop_oneof![
            (vec(message(), 0..4), text(), option::of(extras())).prop_map(|(messages, completion, extras)| {
                // Extras that say nothing are as good as none.
                let extras = extras.filter(|extras| *extras != Extras::default()).map(Box::new);
                Input::Chat { messages, completion, extras }
            }),
            text().prop_map(Input::Text),
            ids().prop_map(Input::TokenIds),
            (ids(), ids()).prop_map(|(prompt, completion)| Input::PromptCompletionIds { prompt, completion }),
        ]
    }

    fn number() -> impl Strategy<Value = f64> {
        prop_oneof![any::<f64>().prop_filter("NaN equals nothing", |x| !x.is_nan()), Just(f64::INFINITY)]
    }

    fn aggregation() -> impl Strategy<Value = AggregationSpec> {
        let transform =
            (option::of(number()), option::of(number()), option::of(number()), option::of(number()), clip())
                .prop_map(|(mean, std, scale, shift, clip)| Transform { mean, std, scale, shift, clip });
        let length_penalty =
            (number(), any::<u32>()).prop_map(|(per_token, target_tokens)| LengthPenalty { per_token, target_tokens });
        let soft_length = (any::<u32>(), any::<u32>(), option::of(number()))
            .prop_map(|(limit_tokens, cache_tokens, most)| SoftLength { limit_tokens, cache_tokens, most });
        (
            text(),
            option::of(text().prop_filter("absence has one spelling", |t| !t.is_empty())),
            btree_map(text(), number(), 0..3),
            btree_map(text(), transform, 0..3),
            clip(),
            option::of(number()),
            (option::of(number()), option::of(number())),
            (option::of(length_penalty), option::of(soft_length)),
        )
            .prop_map(
                |(name, weighting, weights, transforms, clip, offset, unfinished, (length_penalty, soft_length))| {
                    let (unfinished_penalty, unfinished_value) = unfinished;
                    AggregationSpec {
                        name,
                        weighting,
                        weights,
                        transforms,
                        clip,
                        offset,
                        unfinished_penalty,
                        length_penalty,
                        unfinished_value,
                        soft_length,
                    }
                },
            )
    }

    fn rollout() -> impl Strategy<Value = Rollout> {
        let finish_reason =
            prop_oneof![Just(FinishReason::Unspecified), Just(FinishReason::Stop), Just(FinishReason::Length)];
        (
            text(),
            option::of(input()),
            finish_reason,
            text(),
            any::<i32>(),
            any::<Option<u64>>(),
            prop_oneof![Just(AggregationSpec::default()), aggregation()],
            (text(), any::<bool>(), text(), option::of((any::<bool>(), text(), text()))),
        )
            .prop_map(|(id, input, finish_reason, group, priority, deadline_ms, aggregation, others)| {
                let (traceparent, require_completion, model_version, wish) = others;
                Rollout {
                    id,
                    input,
                    finish_reason,
                    group,
                    priority,
                    deadline_ms,
                    aggregation: aggregation.into(),
                    require_completion,
                    answer_only: wish.map(|(off, open, close)| AnswerOnly { off, open, close }),
                    model_version,
                    traceparent,
                    ..Rollout::default()
                }
            })
    }

    proptest! {
        #[test]
        fn a_rollout_survives_the_wire(rollout in rollout()) {
            let bytes = rollout_to_wire(rollout.clone()).encode_to_vec();
            let back = v1::Rollout::decode(bytes.as_slice()).unwrap();
            prop_assert_eq!(rollout_from_wire(back), Ok(rollout));
        }
    }

    #[test]
    fn a_reference_without_a_conversation_is_refused() {
        let input = Some(v1::rollout::Input::Text("a".into()));
        let rollout = v1::Rollout { id: "a".into(), input, reference: "\"b\"".into(), ..Default::default() };
        let rejection = rollout_from_wire(rollout).unwrap_err();
        assert_eq!(rejection.code, Code::BadOption);
        assert!(rejection.message.starts_with("reference: "), "{}", rejection.message);
    }

    #[test]
    fn an_unknown_finish_reason_is_named() {
        let rollout = v1::Rollout { id: "a".into(), finish_reason: 7, ..Default::default() };
        let rejection = rollout_from_wire(rollout).unwrap_err();
        assert_eq!(rejection.code, Code::Malformed);
        assert!(rejection.message.starts_with("finish_reason: 7"), "{}", rejection.message);
    }
}
