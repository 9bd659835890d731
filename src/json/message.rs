//! One message of a conversation out of JSON.
//!
//! Invariant: a message of a role and then a content, both texts, costs no more than those texts; any other keeps its JSON as it
//! was written, but for blanks between its fields.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::value::Value;
use crate::rollout::Message;

/// Out of a text by `serde_json` alone, which keeps what JSON there is.
impl<'de> Deserialize<'de> for Message {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MessageVisitor)
    }
}

struct MessageVisitor;

impl<'de> Visitor<'de> for MessageVisitor {
    type Value = Message;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a message, which is an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Message, A::Error> {
        let mut reading = Reading::default();
        while let Some(name) = map.next_key()? {
            match (name, reading.stage) {
                (Name::Score, _) if reading.score.is_some() => return Err(A::Error::custom("score: given twice")),
                (Name::Score, _) => reading.score = Some(map.next_value::<Option<bool>>()?.unwrap_or(false)),
                (Name::Role, Stage::Role) => {
                    let value = map.next_value()?;
                    reading.text_or_json("role", value, Stage::Content, |plain| &mut plain.role);
                }
                (Name::Content, Stage::Content) => {
                    let value = map.next_value()?;
                    reading.text_or_json("content", value, Stage::Whole, |plain| &mut plain.content);
                }
                (name, _) => {
                    let value = map.next_value::<&RawValue>()?;
                    reading.json().push(name.as_str(), value.get());
                }
            }
        }
        Ok(reading.finish())
    }
}

/// A field's name. Those of a plain message cost no memory.
enum Name {
    Role,
    Content,
    Score,
    Other(String),
}

impl Name {
    fn as_str(&self) -> &str {
        match self {
            Self::Role => "role",
            Self::Content => "content",
            Self::Score => "score",
            Self::Other(name) => name,
        }
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_identifier(NameVisitor)
    }
}

struct NameVisitor;

impl Visitor<'_> for NameVisitor {
    type Value = Name;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Name, E> {
        Ok(match name {
            "role" => Name::Role,
            "content" => Name::Content,
            "score" => Name::Score,
            other => Name::Other(other.to_owned()),
        })
    }
}

/// What comes next in a message of role and content.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
enum Stage {
    #[default]
    Role,
    Content,
    /// All of it has come.
    Whole,
    /// It is another one: its JSON is kept.
    Json,
}

#[derive(Default)]
struct Reading {
    stage: Stage,
    plain: Message,
    json: Fields,
    score: Option<bool>,
}

impl Reading {
    fn text_or_json(
        &mut self,
        name: &str,
        value: TextOrJson,
        next: Stage,
        place: impl FnOnce(&mut Message) -> &mut String,
    ) {
        match value {
            TextOrJson::Text(text) => {
                *place(&mut self.plain) = text;
                self.stage = next;
            }
            TextOrJson::Json(json) => self.json().push(name, &json),
        }
    }

    /// The JSON of the message, with what has been read as texts.
    fn json(&mut self) -> &mut Fields {
        let Message { role, content, .. } = &mut self.plain;
        let begun: &mut [(&str, &mut String)] = &mut [("role", role), ("content", content)];
        let read = match self.stage {
            Stage::Role | Stage::Json => 0,
            Stage::Content => 1,
            Stage::Whole => 2,
        };
        for (name, text) in &mut begun[..read] {
            self.json.push(name, &quoted(text));
            text.clear();
        }
        self.stage = Stage::Json;
        &mut self.json
    }

    fn finish(mut self) -> Message {
        let score = self.score.unwrap_or(false);
        if self.stage == Stage::Whole {
            return Message { score, ..self.plain };
        }
        Message { score, ..Message::json(self.json().finish()) }
    }
}

/// The fields of an object as JSON.
#[derive(Default)]
struct Fields(String);

impl Fields {
    fn push(&mut self, name: &str, value: &str) {
        self.0.push(if self.0.is_empty() { '{' } else { ',' });
        self.0.push_str(&quoted(name));
        self.0.push(':');
        self.0.push_str(value);
    }

    fn finish(&mut self) -> String {
        if self.0.is_empty() {
            self.0.push('{');
        }
        self.0.push('}');
        std::mem::take(&mut self.0)
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A text, or the JSON of any other value.
enum TextOrJson {
    Text(String),
    Json(String),
}

impl<'de> Deserialize<'de> for TextOrJson {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextOrJsonVisitor)
    }
}

struct TextOrJsonVisitor;

impl<'de> Visitor<'de> for TextOrJsonVisitor {
    type Value = TextOrJson;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_str<E>(self, text: &str) -> Result<TextOrJson, E> {
        Ok(TextOrJson::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<TextOrJson, E> {
        Ok(TextOrJson::Text(text))
    }

    fn visit_unit<E>(self) -> Result<TextOrJson, E> {
        Ok(TextOrJson::Json("null".into()))
    }

    fn visit_bool<E>(self, value: bool) -> Result<TextOrJson, E> {
        Ok(TextOrJson::Json(value.to_string()))
    }

    fn visit_i64<E>(self, number: i64) -> Result<TextOrJson, E> {
        Ok(TextOrJson::Json(number.to_string()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<TextOrJson, E> {
        Ok(TextOrJson::Json(number.to_string()))
    }

    fn visit_f64<E>(self, number: f64) -> Result<TextOrJson, E> {
        Ok(TextOrJson::Json(serde_json::Value::from(number).to_string()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<TextOrJson, A::Error> {
        let mut json = String::from("[");
        while let Some(item) = list.next_element::<&RawValue>()? {
            json.push_str(if json.len() > 1 { "," } else { "" });
            json.push_str(item.get());
        }
        json.push(']');
        Ok(TextOrJson::Json(json))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<TextOrJson, A::Error> {
        let mut fields = Fields::default();
        while let Some(name) = map.next_key::<String>()? {
            fields.push(&name, map.next_value::<&RawValue>()?.get());
        }
        Ok(TextOrJson::Json(fields.finish()))
    }
}

/// Field `name` of a message, if it is a text.
pub(super) fn text_of<'a>(message: &'a Message, name: &str) -> Option<Cow<'a, str>> {
    match (&message.json, name) {
        (None, "role") => Some(Cow::Borrowed(&message.role)),
        (None, "content") => Some(Cow::Borrowed(&message.content)),
        (None, _) => None,
        (Some(json), _) => match Value::parse(json).ok()? {
            Value::Object(mut object) => match object.remove(name)? {
                Value::Text(text) => Some(text),
                _ => None,
            },
            _ => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Message {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn role_and_content_are_texts() {
        let plain = read(r#" {"role": "user", "content": "a\n\"é"}"#);
        assert_eq!(plain, Message::new("user", "a\n\"é"));
        let scored = Message { score: true, ..Message::new("assistant", "a") };
        assert_eq!(read(r#"{"role":"assistant","score":true,"content":"a"}"#), scored);
        assert_eq!(read(r#"{"score":null,"role":"user","content":""}"#), Message::new("user", ""));
    }

    /// A template may print a whole message: order counts.
    #[test]
    fn anything_else_keeps_its_json() {
        for (json, kept) in [
            (r#"{ "content" : "a", "role":"user"}"#, r#"{"content":"a","role":"user"}"#),
            (r#"{"role":"user","content":"a","name":"é\n"}"#, r#"{"role":"user","content":"a","name":"é\n"}"#),
            (r#"{"role":"tool","content":null}"#, r#"{"role":"tool","content":null}"#),
            (
                r#"{"role":"u","content":[{"type":"text", "n":1.50}, 2]}"#,
                r#"{"role":"u","content":[{"type":"text", "n":1.50},2]}"#,
            ),
            (r#"{"role":"u","content":{"b":1,"a":[]}}"#, r#"{"role":"u","content":{"b":1,"a":[]}}"#),
            (r#"{"role":5}"#, r#"{"role":5}"#),
            (r#"{"role":"a","tool_calls":[1e3]}"#, r#"{"role":"a","tool_calls":[1e3]}"#),
            (r#"{"role":"u","content":"a","content":"b"}"#, r#"{"role":"u","content":"a","content":"b"}"#),
            ("{}", "{}"),
        ] {
            assert_eq!(read(json), Message::json(kept));
        }
        let scored = read(r#"{"role":"a","content":[],"score":true}"#);
        assert_eq!(scored, Message { score: true, ..Message::json(r#"{"role":"a","content":[]}"#) });
        assert!(serde_json::from_str::<Message>(r#"{"role":"a","score":1}"#).is_err());
    }

    #[test]
    fn texts_of_a_message() {
        let message = Message::json(r#"{"role":"a","content":["x"]}"#);
        assert_eq!(text_of(&message, "role").as_deref(), Some("a"));
        assert_eq!(text_of(&message, "content"), None);
        assert_eq!(text_of(&Message::new("r", "c"), "content").as_deref(), Some("c"));
    }
}
