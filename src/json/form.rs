//! From the fields of a row to its rollouts: the one input form that is there, with the options beside it.

use serde_json::value::RawValue;

use super::beside;
use super::extra::{ExtraColumns, ExtraField};
use super::fields::Fields;
use super::message::text_of;
use super::plain::plain;
use super::values::{Completion, Ids, Messages};
use crate::reward::{Code, Rejection};
use crate::rollout::{ASSISTANT, AggregationSpec, Distinct, Extras, Input, Message, Rollout};

/// The fields of each input form of one rollout that every caller may use, in the order in which messages list them.
pub const FORMS: [&[&str]; 5] =
    [&["prompt", "completion"], &["messages"], &["text"], &["input_ids"], &["prompt_ids", "completion_ids"]];

/// All forms of a row. `prompt` may stand beside the last one as well.
const ROW_FORMS: [&[&str]; 6] = [FORMS[0], FORMS[1], FORMS[2], FORMS[3], FORMS[4], &["chosen", "rejected"]];

/// What one row asks for.
#[derive(Debug, PartialEq)]
pub enum Content {
    /// One rollout.
    One(Box<Rollout>),
    /// A preference pair.
    Pair {
        /// The preferred one.
        chosen: Box<Rollout>,
        /// The other one.
        rejected: Box<Rollout>,
    },
}

/// The rollout or the rollouts that the fields describe.
pub(super) fn content(fields: &mut Fields, id: &str, extra_columns: ExtraColumns) -> Result<Content, Rejection> {
    if fields.chosen.is_some() || fields.rejected.is_some() {
        // Data sets have one of both conversations there, too.
        if extra_columns != ExtraColumns::Refuse {
            fields.messages = None;
            if let Some(value) = fields.raw_messages.take() {
                fields.extra.push(ExtraField { name: "messages".into(), value });
            }
        }
    } else if let Some(raw) = fields.raw_messages.take() {
        fields.messages = Some(messages_of(&raw)?);
    }
    let mut inputs = inputs(fields)?;
    match &mut inputs {
        Inputs::One(Input::Chat { extras, .. }) => beside::give(fields, extras)?,
        Inputs::Pair { chosen: Input::Chat { extras: chosen, .. }, rejected: Input::Chat { extras: rejected, .. } } => {
            beside::give(fields, chosen)?;
            beside::give(fields, rejected)?;
        }
        _ => beside::refuse(fields, extra_columns)?,
    }
    let options = Rollout {
        id: id.to_owned(),
        finish_reason: fields.finish_reason.unwrap_or_default().0,
        group: fields.group.take().map(|group| group.0).unwrap_or_default(),
        priority: fields.priority.unwrap_or_default(),
        deadline_ms: fields.deadline_ms,
        aggregation: aggregation(fields)?.into(),
        require_completion: fields.require_completion.unwrap_or_default(),
        answer_only: fields.answer_only.take().unwrap_or_default().0,
        model_version: fields.model_version.take().unwrap_or_default(),
        ..Rollout::default()
    };
    let with = |input, options: Rollout| Box::new(Rollout { input: Some(input), ..options });
    Ok(match inputs {
        Inputs::One(input) => Content::One(with(input, options)),
        Inputs::Pair { chosen, rejected } => {
            Content::Pair { chosen: with(chosen, options.clone()), rejected: with(rejected, options) }
        }
    })
}

fn messages_of(raw: &RawValue) -> Result<Messages, Rejection> {
    serde_json::from_str(raw.get())
        .map_err(|error| Rejection::new(Code::Malformed, format!("messages: {}", plain(&error))))
}

enum Inputs {
    One(Input),
    Pair { chosen: Input, rejected: Input },
}

/// The one form that is there.
fn inputs(fields: &mut Fields) -> Result<Inputs, Rejection> {
    let names = form_of(fields)?;
    let malformed = |message| Rejection::new(Code::Malformed, message);
    let prompt = fields.prompt.take();
    if let (Some(chosen), Some(rejected)) = (fields.chosen.take(), fields.rejected.take()) {
        let input = |side: Messages, name| side_input(side, prompt.as_ref(), name).map_err(malformed);
        return Ok(Inputs::Pair { chosen: input(chosen, "chosen")?, rejected: input(rejected, "rejected")? });
    }
    let ids = |slot: Option<Ids>, field| slot.unwrap_or(Ids::Good(Vec::new())).good(field);
    Ok(Inputs::One(match names[0] {
        "prompt" => {
            // `form_of` has found both.
            let messages = prompt.map(Messages::of_user).unwrap_or_default();
            match fields.completion.take() {
                Some(Completion::List(completion)) => answered(messages, completion),
                Some(Completion::Text(completion)) => Input::chat(messages, completion),
                None => Input::chat(messages, ""),
            }
        }
        "messages" => match fields.messages.take() {
            Some(Messages::List(messages)) => conversation(messages, "messages").map_err(malformed)?,
            _ => {
                return Err(malformed(
                    "messages: text; give a list of messages, or text as prompt and completion".into(),
                ));
            }
        },
        "text" => Input::Text(fields.text.take().unwrap_or_default()),
        "input_ids" => Input::TokenIds(ids(fields.input_ids.take(), "input_ids")?),
        _ => Input::PromptCompletionIds {
            prompt: ids(fields.prompt_ids.take(), "prompt_ids")?,
            completion: ids(fields.completion_ids.take(), "completion_ids")?,
        },
    }))
}

/// The fields of the form that is there, all of them present.
fn form_of(fields: &Fields) -> Result<&'static [&'static str], Rejection> {
    let present = |name: &str| match name {
        "prompt" => fields.prompt.is_some(),
        "completion" => fields.completion.is_some(),
        "messages" => fields.messages.is_some(),
        "text" => fields.text.is_some(),
        "input_ids" => fields.input_ids.is_some(),
        "prompt_ids" => fields.prompt_ids.is_some(),
        "completion_ids" => fields.completion_ids.is_some(),
        "chosen" => fields.chosen.is_some(),
        "rejected" => fields.rejected.is_some(),
        _ => false,
    };
    let is_pair = present("chosen") || present("rejected");
    // The prompt of a pair is no form of its own.
    let given = |name: &str| present(name) && !(is_pair && name == "prompt");
    let begun: Vec<_> = ROW_FORMS.iter().filter(|names| names.iter().any(|name| given(name))).collect();
    let names = match begun.as_slice() {
        [] => {
            let forms = ROW_FORMS.map(|names| names.join(" and "));
            let message = format!("nothing to score; give one of: {}", forms.join("; "));
            return Err(Rejection::new(Code::NoInput, message));
        }
        [one] => **one,
        several => {
            let fields: Vec<_> =
                several.iter().flat_map(|names| names.iter()).copied().filter(|name| given(name)).collect();
            let message = format!("{}: several input forms at once; give one", fields.join(", "));
            return Err(Rejection::new(Code::SeveralInputs, message));
        }
    };
    match names.iter().find(|name| !present(name)) {
        None => Ok(names),
        Some(missing) => {
            let form = names.join(" and ");
            let message = format!("{missing}: missing; this form takes {form} (empty is allowed)");
            Err(Rejection::new(Code::Malformed, message))
        }
    }
}

/// A conversation whose last turn is the completion.
fn conversation(mut messages: Vec<Message>, field: &str) -> Result<Input, String> {
    match messages.pop() {
        None => Err(format!("{field}: no messages; the last one, an {ASSISTANT}'s, is what is scored")),
        Some(last) => {
            let role = text_of(&last, "role").unwrap_or_default();
            if role != ASSISTANT {
                return Err(format!(
                    "{field}: the last message is of the role '{role}'; it must be the {ASSISTANT}'s turn that is scored"
                ));
            }
            if last.json.is_some() {
                Ok(answered(messages, vec![last]))
            } else {
                Ok(Input::chat(messages, last.content))
            }
        }
    }
}

/// A conversation whose completion is messages.
fn answered(messages: Vec<Message>, completion: Vec<Message>) -> Input {
    let extras = Extras { completion, ..Extras::default() };
    Input::Chat { messages, completion: String::new(), extras: Some(Box::new(extras)) }
}

/// One side of a preference pair.
fn side_input(side: Messages, prompt: Option<&Messages>, field: &str) -> Result<Input, String> {
    match (side, prompt) {
        (Messages::Text(text), None) => Ok(Input::Text(text)),
        (Messages::Text(completion), Some(prompt)) => Ok(Input::chat(prompt.clone().of_user(), completion)),
        (Messages::List(messages), None) => conversation(messages, field),
        // One message follows the prompt; several are a whole conversation, which must be one that the prompt is of.
        (Messages::List(mut messages), Some(prompt)) => {
            let contains_prompt = match prompt {
                Messages::Text(text) => messages
                    .iter()
                    .rev()
                    .skip(1)
                    .any(|message| text_of(message, "content").is_some_and(|content| content == text.as_str())),
                Messages::List(prompt) => messages.len() > prompt.len() && messages.starts_with(prompt),
            };
            if !contains_prompt {
                if messages.len() != 1 {
                    return Err(format!(
                        "{field}: {} messages that do not contain the prompt; give one message of the {ASSISTANT}, or the \
                         whole conversation",
                        messages.len()
                    ));
                }
                let mut whole = prompt.clone().of_user();
                whole.append(&mut messages);
                messages = whole;
            }
            conversation(messages, field)
        }
    }
}

/// `aggregation`, with the short forms `weights` and `weighting` folded in.
fn aggregation(fields: &mut Fields) -> Result<AggregationSpec, Rejection> {
    let twice = |field: &str| {
        Rejection::new(Code::BadOption, format!("{field}: given both by itself and in aggregation; give it once"))
    };
    let mut spec = fields.aggregation.take().map(|aggregation| aggregation.0).unwrap_or_default();
    if let Some(Distinct(weights)) = fields.weights.take() {
        if !spec.weights.is_empty() {
            return Err(twice("weights"));
        }
        spec.weights = weights;
    }
    if let Some(weighting) = fields.weighting.take() {
        if spec.weighting.is_some() {
            return Err(twice("weighting"));
        }
        spec.weighting = Some(weighting);
    }
    Ok(spec)
}
