//! Values of a rollout's fields that have more than one form, or that may be of the right type and still be wrong.

use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize as _, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use super::message::text_of;
use crate::reward::{Code, Rejection};
use crate::rollout::{ASSISTANT, AggregationSpec, Message};

/// Token ids, or the first number that can be none.
#[derive(Debug, PartialEq)]
pub(super) enum Ids {
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
    /// The ids, or the rejection that names the field and the place in it.
    pub fn good(self, field: &str) -> Result<Vec<u32>, Rejection> {
        match self {
            Ids::Good(ids) => Ok(ids),
            Ids::OutOfRange { index, number } => Err(Rejection::new(
                Code::TokenOutOfRange,
                format!("{field}[{index}]: {number} is no token id of any vocabulary"),
            )),
        }
    }
}

/// Text, or a list of messages.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Messages {
    Text(String),
    List(Vec<Message>),
}

/// The completion: text, or the messages that have it, the last of them the assistant's.
#[derive(Debug, PartialEq)]
pub(super) enum Completion {
    Text(String),
    List(Vec<Message>),
}

impl Messages {
    /// As a prompt: text stands for one message of a user.
    pub fn of_user(self) -> Vec<Message> {
        match self {
            Self::Text(text) => vec![Message::new("user", text)],
            Self::List(messages) => messages,
        }
    }
}

impl<'de> serde::Deserialize<'de> for Messages {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MessagesVisitor;
        impl<'de> Visitor<'de> for MessagesVisitor {
            type Value = Messages;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text or a list of messages")
            }

            fn visit_str<E>(self, text: &str) -> Result<Messages, E> {
                Ok(Messages::Text(text.to_owned()))
            }

            fn visit_string<E>(self, text: String) -> Result<Messages, E> {
                Ok(Messages::Text(text))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Messages, A::Error> {
                let mut messages = Vec::new();
                while let Some(message) = list.next_element()? {
                    messages.push(message);
                }
                Ok(Messages::List(messages))
            }
        }
        deserializer.deserialize_any(MessagesVisitor)
    }
}

impl<'de> serde::Deserialize<'de> for Completion {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut messages = match Messages::deserialize(deserializer)? {
            Messages::Text(text) => return Ok(Self::Text(text)),
            Messages::List(messages) => messages,
        };
        let Some(last) = messages.last_mut() else {
            return Err(D::Error::custom(format!(
                "no message; give text, or messages of which the last is the {ASSISTANT}'s"
            )));
        };
        let role = text_of(last, "role").unwrap_or_default();
        if role != ASSISTANT {
            return Err(D::Error::custom(format!(
                "the last message is of the role '{role}'; a completion ends with a message of the {ASSISTANT}"
            )));
        }
        if messages.len() > 1 || messages[0].json.is_some() {
            return Ok(Self::List(messages));
        }
        Ok(Self::Text(std::mem::take(&mut messages[0].content)))
    }
}

/// How attributes become a reward: an object, or the name of an aggregation with nothing else said.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Aggregation(pub AggregationSpec);

impl<'de> serde::Deserialize<'de> for Aggregation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AggregationVisitor;
        impl<'de> Visitor<'de> for AggregationVisitor {
            type Value = Aggregation;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object, or the name of an aggregation")
            }

            fn visit_str<E>(self, name: &str) -> Result<Aggregation, E> {
                Ok(Aggregation(AggregationSpec { name: name.to_owned(), ..AggregationSpec::default() }))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Aggregation, A::Error> {
                AggregationSpec::deserialize(MapAccessDeserializer::new(map)).map(Aggregation)
            }
        }
        deserializer.deserialize_any(AggregationVisitor)
    }
}

/// An id, of a rollout or a group: text, or a whole number, which stands for its decimal digits.
#[derive(Debug, PartialEq)]
pub(super) struct Id(pub String);

impl<'de> serde::Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct IdVisitor;
        impl Visitor<'_> for IdVisitor {
            type Value = Id;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text or a whole number of 64 bits")
            }

            fn visit_str<E>(self, text: &str) -> Result<Id, E> {
                Ok(Id(text.to_owned()))
            }

            fn visit_string<E>(self, text: String) -> Result<Id, E> {
                Ok(Id(text))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Id, E> {
                Ok(Id(number.to_string()))
            }

            fn visit_i64<E>(self, number: i64) -> Result<Id, E> {
                Ok(Id(number.to_string()))
            }
        }
        deserializer.deserialize_any(IdVisitor)
    }
}
