//! Inputs that dialects write in several forms: one or many, text or token ids.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, SeqAccess, Visitor};

use super::request::{Item, Request};

/// One value, or a list of them.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    pub fn is_one(&self) -> bool {
        matches!(self, Self::One(_))
    }

    pub fn into_vec(self) -> Vec<T> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }
}

impl<'de> Deserialize<'de> for OneOrMany<String> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Inputs::deserialize(deserializer)? {
            Inputs::Text(text) => Ok(Self::One(text)),
            Inputs::Texts(texts) => Ok(Self::Many(texts)),
            Inputs::Ids(_) | Inputs::IdLists(_) => Err(D::Error::custom("token ids; give text or a list of texts")),
        }
    }
}

/// What is to be scored, in the four forms of OpenAI's and vLLM's `input`. An empty list is a list of no texts.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Inputs {
    Text(String),
    Texts(Vec<String>),
    Ids(Vec<u32>),
    IdLists(Vec<Vec<u32>>),
}

impl Inputs {
    /// Whether they are one input that does not stand in a list.
    pub fn is_one(&self) -> bool {
        matches!(self, Self::Text(_) | Self::Ids(_))
    }

    /// The inputs as rollouts.
    pub fn items(self, request: &Request) -> Vec<Item> {
        match self {
            Self::Text(text) => vec![request.text(text)],
            Self::Texts(texts) => texts.into_iter().map(|text| request.text(text)).collect(),
            Self::Ids(ids) => vec![request.ids(ids)],
            Self::IdLists(lists) => lists.into_iter().map(|ids| request.ids(ids)).collect(),
        }
    }
}

/// An element of a list of inputs.
enum Element {
    Text(String),
    Id(u32),
    Ids(Vec<u32>),
}

impl<'de> Deserialize<'de> for Inputs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InputsVisitor;
        impl<'de> Visitor<'de> for InputsVisitor {
            type Value = Inputs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text, a list of texts, a list of token ids, or a list of such lists")
            }

            fn visit_str<E>(self, text: &str) -> Result<Inputs, E> {
                Ok(Inputs::Text(text.to_owned()))
            }

            fn visit_string<E>(self, text: String) -> Result<Inputs, E> {
                Ok(Inputs::Text(text))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Inputs, A::Error> {
                match list.next_element()? {
                    None => Ok(Inputs::Texts(Vec::new())),
                    Some(Element::Text(first)) => rest(first, list).map(Inputs::Texts),
                    Some(Element::Id(first)) => rest(first, list).map(Inputs::Ids),
                    Some(Element::Ids(first)) => rest(first, list).map(Inputs::IdLists),
                }
            }
        }
        deserializer.deserialize_any(InputsVisitor)
    }
}

fn rest<'de, A: SeqAccess<'de>, T: Deserialize<'de>>(first: T, mut list: A) -> Result<Vec<T>, A::Error> {
    let mut all = vec![first];
    while let Some(next) = list.next_element()? {
        all.push(next);
    }
    Ok(all)
}

impl<'de> Deserialize<'de> for Element {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ElementVisitor;
        impl<'de> Visitor<'de> for ElementVisitor {
            type Value = Element;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text, a token id, or a list of token ids")
            }

            fn visit_str<E>(self, text: &str) -> Result<Element, E> {
                Ok(Element::Text(text.to_owned()))
            }

            fn visit_string<E>(self, text: String) -> Result<Element, E> {
                Ok(Element::Text(text))
            }

            fn visit_u64<E: serde::de::Error>(self, id: u64) -> Result<Element, E> {
                let id = u32::try_from(id).map_err(|_| E::custom(format!("{id} is no token id of any vocabulary")))?;
                Ok(Element::Id(id))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Element, A::Error> {
                let mut ids = Vec::new();
                while let Some(id) = list.next_element()? {
                    ids.push(id);
                }
                Ok(Element::Ids(ids))
            }
        }
        deserializer.deserialize_any(ElementVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_four_forms() {
        let read = |json: &str| serde_json::from_str::<Inputs>(json);
        assert_eq!(read("\"a\"").unwrap(), Inputs::Text("a".into()));
        assert_eq!(read("[\"a\",\"b\"]").unwrap(), Inputs::Texts(vec!["a".into(), "b".into()]));
        assert_eq!(read("[1,2]").unwrap(), Inputs::Ids(vec![1, 2]));
        assert_eq!(read("[[1],[]]").unwrap(), Inputs::IdLists(vec![vec![1], vec![]]));
        assert_eq!(read("[]").unwrap(), Inputs::Texts(vec![]));
        for bad in
            ["1", "null", "[\"a\",1]", "[1,\"a\"]", "[1,-1]", "[-1]", "[4294967296]", "[[\"a\"]]", "[null]", "{}"]
        {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
