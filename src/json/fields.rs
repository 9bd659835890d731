//! The fields of a row as they stand in its JSON, and which one is being read.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::error::RolloutError;
use super::extra::{ExtraColumns, ExtraField};
use super::finish_reason::Reason;
use super::plain::plain;
use super::values::{Aggregation, Completion, Id, Ids, Messages};
use crate::nearest::hint;
use crate::reward::Code;
use crate::rollout::{AnswerOnlyField, Distinct};

/// The fields of a row, as far as they could be read.
#[derive(Default)]
pub(super) struct Fields {
    /// What happens to fields that are not a rollout's.
    extra_columns: ExtraColumns,
    reading: Option<&'static str>,
    seen: Vec<&'static str>,
    pub id: Option<Id>,
    pub group: Option<Id>,
    pub prompt: Option<Messages>,
    pub completion: Option<Completion>,
    pub messages: Option<Messages>,
    pub tools: Option<Box<RawValue>>,
    pub documents: Option<Box<RawValue>>,
    pub chat_template_kwargs: Option<Box<RawValue>>,
    pub chat_template: Option<Box<RawValue>>,
    pub reference: Option<Box<RawValue>>,
    pub chosen: Option<Messages>,
    pub rejected: Option<Messages>,
    pub text: Option<String>,
    pub input_ids: Option<Ids>,
    pub prompt_ids: Option<Ids>,
    pub completion_ids: Option<Ids>,
    pub finish_reason: Option<Reason>,
    pub require_completion: Option<bool>,
    pub answer_only: Option<AnswerOnlyField>,
    pub model_version: Option<String>,
    pub weights: Option<Distinct<f64>>,
    pub weighting: Option<String>,
    pub deadline_ms: Option<u64>,
    pub priority: Option<i32>,
    pub aggregation: Option<Aggregation>,
    /// Fields that are not a rollout's, in their order, where they are kept.
    pub extra: Vec<ExtraField>,
    /// `messages` as it was written, where extra fields are kept: beside a pair it is one of them.
    pub raw_messages: Option<Box<RawValue>>,
}

/// Every field of a row, in the order in which messages list them.
pub const FIELDS: [&str; 25] = [
    "id",
    "group",
    "prompt",
    "completion",
    "messages",
    "tools",
    "documents",
    "chat_template_kwargs",
    "chat_template",
    "reference",
    "chosen",
    "rejected",
    "text",
    "input_ids",
    "prompt_ids",
    "completion_ids",
    "finish_reason",
    "require_completion",
    "answer_only",
    "model_version",
    "weights",
    "weighting",
    "deadline_ms",
    "priority",
    "aggregation",
];

/// Names that the rewards file gives a meaning, and a row does not: a kept field of such a name could not be told from it.
pub const REWARDS_FIELDS: [&str; 9] =
    ["reward", "attributes", "tokens", "truncated", "reads", "thinking", "error", "line", "margin"];

impl Fields {
    pub fn new(extra_columns: ExtraColumns) -> Self {
        Self { extra_columns, ..Self::default() }
    }

    /// Whether the row is one of a preference file, as far as it was read.
    pub fn is_pair(&self) -> bool {
        self.seen.contains(&"chosen") || self.seen.contains(&"rejected")
    }

    /// Reads the object of one row.
    pub fn parse(&mut self, text: &str) -> Result<(), RolloutError> {
        let mut json = serde_json::Deserializer::from_str(text);
        let read = FieldsSeed(self).deserialize(&mut json).and_then(|()| json.end());
        read.map_err(|error| self.error(&error))
    }

    /// What a parser's error means for the caller. An id of a wrong type is a bad id; anything else is malformed.
    fn error(&self, error: &serde_json::Error) -> RolloutError {
        let field = self.reading.map_or(String::new(), |name| format!("{name}: "));
        let code = if self.reading == Some("id") && error.is_data() { Code::BadId } else { Code::Malformed };
        RolloutError::Malformed {
            code,
            what: format!("{field}{}", plain(error)),
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
            "messages" if self.extra_columns == ExtraColumns::Keep => self.raw_messages = map.next_value()?,
            "messages" => self.messages = map.next_value()?,
            "tools" => self.tools = map.next_value()?,
            "documents" => self.documents = map.next_value()?,
            "chat_template_kwargs" => self.chat_template_kwargs = map.next_value()?,
            "chat_template" => self.chat_template = map.next_value()?,
            "reference" => self.reference = map.next_value()?,
            "chosen" => self.chosen = map.next_value()?,
            "rejected" => self.rejected = map.next_value()?,
            "text" => self.text = map.next_value()?,
            "input_ids" => self.input_ids = map.next_value()?,
            "prompt_ids" => self.prompt_ids = map.next_value()?,
            "completion_ids" => self.completion_ids = map.next_value()?,
            "finish_reason" => self.finish_reason = map.next_value()?,
            "answer_only" => self.answer_only = map.next_value()?,
            "model_version" => self.model_version = map.next_value()?,
            "require_completion" => self.require_completion = map.next_value()?,
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

    /// A field that is not a rollout's.
    fn read_extra<'de, A: MapAccess<'de>>(&mut self, name: String, map: &mut A) -> Result<(), A::Error> {
        match self.extra_columns {
            ExtraColumns::Refuse => Err(A::Error::custom(unknown(&name))),
            ExtraColumns::Ignore => map.next_value::<serde::de::IgnoredAny>().map(drop),
            ExtraColumns::Keep => {
                if REWARDS_FIELDS.contains(&name.as_str()) {
                    return Err(A::Error::custom(format!(
                        "{name}: the rewards file has a field of this name; rename this one, or drop the fields that are \
                         not a rollout's with --extra-columns ignore"
                    )));
                }
                if self.extra.iter().any(|field| field.name == name) {
                    return Err(A::Error::custom(format!("{name}: given twice")));
                }
                self.extra.push(ExtraField { name, value: map.next_value()? });
                Ok(())
            }
        }
    }
}

/// What is wrong with a field of this name.
pub fn unknown(name: &str) -> String {
    let hint = hint(name, FIELDS.iter().copied());
    let hint = if hint.is_empty() { "." } else { &hint };
    format!(
        "{name}: there is no such field{hint} There are: {}. score --extra-columns keep passes other fields through, \
         ignore drops them",
        FIELDS.join(", ")
    )
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
            match FIELDS.iter().find(|name| **name == key) {
                Some(name) => self.0.read(name, &mut map)?,
                None => self.0.read_extra(key, &mut map)?,
            }
        }
        Ok(())
    }
}
