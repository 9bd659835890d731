//! A rollout as a JSON object. [`parse`] makes a [`Rollout`] of it, or says what is wrong and where.
//!
//! | form | fields |
//! |---|---|
//! | conversation | `prompt` (text, or a list of `{"role", "content"}`, an assistant's also with `"score": true`) and `completion` |
//! | templated text | `text` |
//! | token ids | `input_ids` |
//! | token ids, apart | `prompt_ids` and `completion_ids` |
//!
//! Exactly one form per rollout, beside an `id`. Optional: `group`, `finish_reason` (`stop`, `length`), `weights`,
//! `weighting`, `deadline_ms`, `priority`, `aggregation` (an [`AggregationSpec`]). `null` counts as absent. Unknown
//! fields are refused.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, Visitor};

use super::values::{Ids, Prompt};
use crate::limits::MAX_ID_BYTES;
use crate::reward::{Code, Rejection};
use crate::rollout::{AggregationSpec, Distinct, FinishReason, Input, Object, Rollout};

/// What was found in the JSON of one rollout.
#[derive(Debug, PartialEq)]
pub struct Parsed {
    /// The rollout's id, as far as there is one: an answer can name the rollout even where the rest of it is wrong.
    pub id: Option<String>,
    /// The rollout, or what is wrong with it.
    pub rollout: Result<Rollout, RolloutError>,
}

/// Why JSON is no rollout.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RolloutError {
    /// Not UTF-8.
    #[error("not valid UTF-8 at byte {byte}")]
    NotUtf8 {
        /// The first byte that is wrong, counted from 1.
        byte: usize,
    },
    /// Not JSON, or not of the types and names that a rollout has.
    #[error("{what} (line {line}, column {column})")]
    Malformed {
        /// `BAD_ID` where the id is no text, `MALFORMED` for everything else.
        code: Code,
        /// The field, as far as one was being read, and what is wrong.
        what: String,
        /// The line within what was parsed, counted from 1.
        line: usize,
        /// Counted from 1.
        column: usize,
    },
    /// JSON of the right shape that says no rollout.
    #[error("{}", .0.message)]
    Rejected(Rejection),
}

impl RolloutError {
    /// As a rejection. What was parsed is line `number` of a file with one rollout on each line: the message says so.
    pub fn in_line(self, number: u64) -> Rejection {
        match self {
            Self::NotUtf8 { .. } => Rejection::new(Code::Malformed, format!("line {number}: {self}")),
            Self::Malformed { code, what, column, .. } => {
                Rejection::new(code, format!("{what} (line {number}, column {column})"))
            }
            Self::Rejected(rejection) => rejection,
        }
    }
}

impl From<RolloutError> for Rejection {
    fn from(error: RolloutError) -> Self {
        match error {
            RolloutError::NotUtf8 { .. } => Self::new(Code::Malformed, error.to_string()),
            RolloutError::Malformed { code, .. } => Self::new(code, error.to_string()),
            RolloutError::Rejected(rejection) => rejection,
        }
    }
}

/// Parses the JSON object of one rollout.
pub fn parse(json: &[u8]) -> Parsed {
    let text = match std::str::from_utf8(json) {
        Ok(text) => text,
        Err(e) => return Parsed { id: None, rollout: Err(RolloutError::NotUtf8 { byte: e.valid_up_to() + 1 }) },
    };
    let mut fields = Fields::default();
    let mut json = serde_json::Deserializer::from_str(text);
    let read = FieldsSeed(&mut fields).deserialize(&mut json).and_then(|()| json.end());
    let rollout = match read {
        Ok(()) => rollout(&mut fields).map_err(RolloutError::Rejected),
        Err(error) => Err(fields.error(&error)),
    };
    Parsed { id: fields.id, rollout }
}

/// The JSON of an aggregation alone. The error says what is wrong, without a place: who calls has no text of the user's.
pub fn parse_aggregation(json: &str) -> Result<AggregationSpec, String> {
    serde_json::from_str(json).map_err(|error| reason(&error))
}

/// The fields of each input form, in the order in which messages list them.
pub const FORMS: [&[&str]; 4] =
    [&["prompt", "completion"], &["text"], &["input_ids"], &["prompt_ids", "completion_ids"]];

/// A rollout's reason to end, as JSON spells it; `None` for any other word.
pub fn finish_reason(word: &str) -> Option<FinishReason> {
    match word {
        "stop" => Some(FinishReason::Stop),
        "length" => Some(FinishReason::Length),
        _ => None,
    }
}

/// A parser's message without the place at its end.
fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.rsplit_once(" at line ").map_or(text.as_str(), |(what, _)| what).to_owned()
}

/// The fields as they stand, and which one is being read.
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
    fn error(&self, error: &serde_json::Error) -> RolloutError {
        let field = self.reading.map_or(String::new(), |name| format!("{name}: "));
        let code = if self.reading == Some("id") && error.is_data() { Code::BadId } else { Code::Malformed };
        RolloutError::Malformed {
            code,
            what: format!("{field}{}", reason(error)),
            line: error.line(),
            column: error.column(),
        }
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

/// Reads into [`Fields`] that outlive an error: what was read before it names the rollout.
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
        finish_reason: ending(fields.finish_reason.as_deref())?,
        group: fields.group.take().unwrap_or_default(),
        priority: fields.priority.unwrap_or_default(),
        deadline_ms: fields.deadline_ms,
        aggregation: aggregation(fields)?.into(),
        traceparent: String::new(),
        tracestate: String::new(),
    })
}

/// The one form that is there.
fn input(fields: &mut Fields) -> Result<Input, Rejection> {
    let present = |name: &str| match name {
        "prompt" => fields.prompt.is_some(),
        "completion" => fields.completion.is_some(),
        "text" => fields.text.is_some(),
        "input_ids" => fields.input_ids.is_some(),
        "prompt_ids" => fields.prompt_ids.is_some(),
        "completion_ids" => fields.completion_ids.is_some(),
        _ => false,
    };
    let begun: Vec<_> = FORMS.iter().filter(|names| names.iter().any(|name| present(name))).collect();
    let names = match begun.as_slice() {
        [] => {
            let forms = FORMS.map(|names| names.join(" and "));
            let message = format!("nothing to score; give one of: {}", forms.join("; "));
            return Err(Rejection::new(Code::NoInput, message));
        }
        [one] => one,
        several => {
            let fields: Vec<_> =
                several.iter().copied().copied().flatten().copied().filter(|name| present(name)).collect();
            let message = format!("{}: several input forms at once; give one", fields.join(", "));
            return Err(Rejection::new(Code::SeveralInputs, message));
        }
    };
    if let Some(missing) = names.iter().find(|name| !present(name)) {
        let form = names.join(" and ");
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

fn ending(word: Option<&str>) -> Result<FinishReason, Rejection> {
    let Some(word) = word else { return Ok(FinishReason::Unspecified) };
    finish_reason(word).ok_or_else(|| {
        let message = format!("finish_reason: '{word}' is not known; write stop or length, or leave it out");
        Rejection::new(Code::Malformed, message)
    })
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
#[path = "rollout_tests.rs"]
mod tests;
