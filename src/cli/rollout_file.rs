//! The rollout file: one JSON object per line. [`parse`] makes a [`Rollout`] of a line, or the rejection that names
//! what is wrong with it; a bad line never costs another line anything.
//!
//! | form | fields |
//! |---|---|
//! | conversation | `prompt` (text, or a list of `{"role", "content"}`, an assistant's also with `"score": true`) and `completion` |
//! | templated text | `text` |
//! | token ids | `input_ids` |
//! | token ids, apart | `prompt_ids` and `completion_ids` |
//!
//! Exactly one form per line, beside an `id`. Optional: `group`, `finish_reason` (`stop`, `length`), `weights`,
//! `weighting`, `deadline_ms`, `priority`, `aggregation` (an [`AggregationSpec`]). `null` counts as absent. Unknown
//! fields are refused.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use crate::limits::MAX_ID_BYTES;
use crate::reward::{Code, Rejection};
use crate::rollout::{AggregationSpec, Distinct, FinishReason, Input, Message, Object, Rollout};

/// A parsed line.
#[derive(Debug, PartialEq)]
pub struct Parsed {
    /// The rollout's id, as far as the line has one.
    pub id: Option<String>,
    /// The rollout, or what is wrong with the line.
    pub rollout: Result<Rollout, Rejection>,
}

/// Parses one line. `number` is for messages.
pub fn parse(line: &[u8], number: u64) -> Parsed {
    let text = match std::str::from_utf8(line) {
        Ok(text) => text,
        Err(e) => {
            let message = format!("line {number}: not valid UTF-8 at byte {}", e.valid_up_to() + 1);
            return Parsed { id: None, rollout: Err(Rejection::new(Code::Malformed, message)) };
        }
    };
    let mut fields = Fields::default();
    let mut json = serde_json::Deserializer::from_str(text);
    let read = FieldsSeed(&mut fields).deserialize(&mut json).and_then(|()| json.end());
    let rollout = match read {
        Ok(()) => rollout(&mut fields),
        Err(error) => Err(fields.rejection(&error, number)),
    };
    Parsed { id: fields.id, rollout }
}

/// A line as it stands, and which field is being read.
#[derive(Default)]
struct Fields {
    reading: Option<&'static str>,
    seen: Vec<&'static str>,
    id: Option<String>,
    group: Option<String>,
    prompt: Option<Prompt>,
    completion: Option<String>,
    text: Option<String>,
    input_ids: Option<Ids>,
    prompt_ids: Option<Ids>,
    completion_ids: Option<Ids>,
    finish_reason: Option<String>,
    weights: Option<Distinct<f64>>,
    weighting: Option<String>,
    deadline_ms: Option<u64>,
    priority: Option<i32>,
    aggregation: Option<Object<AggregationSpec>>,
}

const FIELDS: [&str; 14] = [
    "id",
    "group",
    "prompt",
    "completion",
    "text",
    "input_ids",
    "prompt_ids",
    "completion_ids",
    "finish_reason",
    "weights",
    "weighting",
    "deadline_ms",
    "priority",
    "aggregation",
];

impl Fields {
    /// What a parser's error means for the caller. An id that is no text is a bad id; anything else is malformed.
    fn rejection(&self, error: &serde_json::Error, number: u64) -> Rejection {
        let text = error.to_string();
        let what = text.rsplit_once(" at line ").map_or(text.as_str(), |(what, _)| what);
        let field = self.reading.map_or(String::new(), |name| format!("{name}: "));
        let code = if self.reading == Some("id") && error.is_data() { Code::BadId } else { Code::Malformed };
        Rejection::new(code, format!("{field}{what} (line {number}, column {})", error.column()))
    }

    /// Reads the value of `name`.
    fn read<'de, A: MapAccess<'de>>(&mut self, name: &'static str, map: &mut A) -> Result<(), A::Error> {
        if self.seen.contains(&name) {
            return Err(A::Error::custom(format!("{name}: given twice")));
        }
        self.seen.push(name);
        self.reading = Some(name);
        match name {
            "id" => self.id = map.next_value()?,
            "group" => self.group = map.next_value()?,
            "prompt" => self.prompt = map.next_value()?,
            "completion" => self.completion = map.next_value()?,
            "text" => self.text = map.next_value()?,
            "input_ids" => self.input_ids = map.next_value()?,
            "prompt_ids" => self.prompt_ids = map.next_value()?,
            "completion_ids" => self.completion_ids = map.next_value()?,
            "finish_reason" => self.finish_reason = map.next_value()?,
            "weights" => self.weights = map.next_value()?,
            "weighting" => self.weighting = map.next_value()?,
            "deadline_ms" => self.deadline_ms = map.next_value()?,
            "priority" => self.priority = map.next_value()?,
            "aggregation" => self.aggregation = map.next_value()?,
            _ => unreachable!("`name` is one of FIELDS"),
        }
        self.reading = None;
        Ok(())
    }
}

/// Reads into [`Fields`] that outlive an error: what was read before it names the line.
struct FieldsSeed<'a>(&'a mut Fields);

impl<'de> DeserializeSeed<'de> for FieldsSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for FieldsSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a rollout, which is an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            let name = FIELDS.iter().find(|name| **name == key).ok_or_else(|| {
                A::Error::custom(format!("{key}: there is no such field; there are: {}", FIELDS.join(", ")))
            })?;
            self.0.read(name, &mut map)?;
        }
        Ok(())
    }
}

/// Token ids, or the first number that can be none.
#[derive(Debug, PartialEq)]
enum Ids {
    Good(Vec<u32>),
    OutOfRange { index: usize, number: String },
}

impl<'de> serde::Deserialize<'de> for Ids {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct IdsVisitor;
        impl<'de> Visitor<'de> for IdsVisitor {
            type Value = Ids;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of token ids")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Ids, A::Error> {
                let mut ids = Vec::new();
                let mut out_of_range = None;
                while let Some(number) = list.next_element::<serde_json::Number>()? {
                    match number.as_u64().and_then(|id| u32::try_from(id).ok()) {
                        Some(id) => ids.push(id),
                        None if number.is_f64() => {
                            return Err(A::Error::custom(format!("{number} is not a whole number")));
                        }
                        None if out_of_range.is_none() => {
                            out_of_range = Some(Ids::OutOfRange { index: ids.len(), number: number.to_string() });
                        }
                        None => {}
                    }
                }
                Ok(out_of_range.unwrap_or(Ids::Good(ids)))
            }
        }
        deserializer.deserialize_seq(IdsVisitor)
    }
}

impl Ids {
    fn good(self, field: &str) -> Result<Vec<u32>, Rejection> {
        match self {
            Ids::Good(ids) => Ok(ids),
            Ids::OutOfRange { index, number } => Err(Rejection::new(
                Code::TokenOutOfRange,
                format!("{field}[{index}]: {number} is no token id of any vocabulary"),
            )),
        }
    }
}

/// A prompt: text stands for one message of a user.
#[derive(Debug, PartialEq)]
struct Prompt(Vec<Message>);

impl<'de> serde::Deserialize<'de> for Prompt {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PromptVisitor;
        impl<'de> Visitor<'de> for PromptVisitor {
            type Value = Prompt;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text or a list of messages")
            }

            fn visit_str<E>(self, text: &str) -> Result<Prompt, E> {
                Ok(Prompt(vec![Message::new("user", text)]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Prompt, A::Error> {
                let mut messages = Vec::new();
                while let Some(Object(message)) = list.next_element()? {
                    messages.push(message);
                }
                Ok(Prompt(messages))
            }
        }
        deserializer.deserialize_any(PromptVisitor)
    }
}

fn rollout(fields: &mut Fields) -> Result<Rollout, Rejection> {
    let id = match fields.id.as_deref() {
        None => return Err(Rejection::new(Code::BadId, "id: missing; every rollout needs one")),
        Some("") => return Err(Rejection::new(Code::BadId, "id: empty; every rollout needs one")),
        Some(id) if id.len() > MAX_ID_BYTES => {
            let message = format!("id: {} bytes long; at most {MAX_ID_BYTES} are allowed", id.len());
            return Err(Rejection::new(Code::BadId, message));
        }
        Some(id) => id.to_owned(),
    };
    Ok(Rollout {
        id,
        input: Some(input(fields)?),
        finish_reason: finish_reason(fields.finish_reason.as_deref())?,
        group: fields.group.take().unwrap_or_default(),
        priority: fields.priority.unwrap_or_default(),
        deadline_ms: fields.deadline_ms,
        aggregation: aggregation(fields)?.into(),
        traceparent: String::new(),
    })
}

/// The one form that is there.
fn input(fields: &mut Fields) -> Result<Input, Rejection> {
    const FORMS: [(&str, &[&str]); 4] = [
        ("prompt and completion", &["prompt", "completion"]),
        ("text", &["text"]),
        ("input_ids", &["input_ids"]),
        ("prompt_ids and completion_ids", &["prompt_ids", "completion_ids"]),
    ];
    let present = |name: &str| match name {
        "prompt" => fields.prompt.is_some(),
        "completion" => fields.completion.is_some(),
        "text" => fields.text.is_some(),
        "input_ids" => fields.input_ids.is_some(),
        "prompt_ids" => fields.prompt_ids.is_some(),
        "completion_ids" => fields.completion_ids.is_some(),
        _ => false,
    };
    let begun: Vec<_> = FORMS.iter().filter(|(_, names)| names.iter().any(|name| present(name))).collect();
    let (form, names) = match begun.as_slice() {
        [] => {
            let forms: Vec<_> = FORMS.iter().map(|(form, _)| *form).collect();
            let message = format!("nothing to score; give one of: {}", forms.join("; "));
            return Err(Rejection::new(Code::NoInput, message));
        }
        [one] => one,
        several => {
            let fields: Vec<_> = several.iter().flat_map(|(_, names)| *names).filter(|name| present(name)).collect();
            let fields: Vec<_> = fields.into_iter().copied().collect();
            let message = format!("{}: several input forms at once; give one", fields.join(", "));
            return Err(Rejection::new(Code::SeveralInputs, message));
        }
    };
    if let Some(missing) = names.iter().find(|name| !present(name)) {
        let message = format!("{missing}: missing; this form takes {form} (empty is allowed)");
        return Err(Rejection::new(Code::Malformed, message));
    }
    if let (Some(Prompt(messages)), Some(completion)) = (fields.prompt.take(), fields.completion.take()) {
        return Ok(Input::Chat { messages, completion });
    }
    if let Some(text) = fields.text.take() {
        return Ok(Input::Text(text));
    }
    if let Some(ids) = fields.input_ids.take() {
        return Ok(Input::TokenIds(ids.good("input_ids")?));
    }
    let ids = |slot: Option<Ids>, field| slot.unwrap_or(Ids::Good(Vec::new())).good(field);
    Ok(Input::PromptCompletionIds {
        prompt: ids(fields.prompt_ids.take(), "prompt_ids")?,
        completion: ids(fields.completion_ids.take(), "completion_ids")?,
    })
}

fn finish_reason(text: Option<&str>) -> Result<FinishReason, Rejection> {
    match text {
        None => Ok(FinishReason::Unspecified),
        Some("stop") => Ok(FinishReason::Stop),
        Some("length") => Ok(FinishReason::Length),
        Some(other) => Err(Rejection::new(
            Code::Malformed,
            format!("finish_reason: '{other}' is not known; write stop or length, or leave it out"),
        )),
    }
}

/// `aggregation`, with the short forms `weights` and `weighting` folded in.
fn aggregation(fields: &mut Fields) -> Result<AggregationSpec, Rejection> {
    let twice = |field: &str| {
        Rejection::new(Code::BadOption, format!("{field}: given both by itself and in aggregation; give it once"))
    };
    let mut spec = fields.aggregation.take().map(|Object(spec)| spec).unwrap_or_default();
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

#[cfg(test)]
#[path = "rollout_file_tests.rs"]
mod tests;
