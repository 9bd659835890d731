//! Values of a rollout's fields that have more than one form, or that may be of the right type and still be wrong.

use std::fmt;

use serde::de::{Deserializer, Error as _, SeqAccess, Visitor};

use crate::reward::{Code, Rejection};
use crate::rollout::{Message, Object};

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

/// A prompt: text stands for one message of a user.
#[derive(Debug, PartialEq)]
pub(super) struct Prompt(pub Vec<Message>);

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
