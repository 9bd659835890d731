//! The answer to a rollout as a JSON object. Floats have the fewest digits that read back to the same float32.

use std::io::{self, Write};

use serde::Serialize;
use serde::ser::{SerializeMap as _, Serializer};

use crate::engine::ModelCard;
use crate::reward::{Outcome, ReadRewards, Rejection, Rewards};

/// The answer to one rollout, to be written as JSON.
pub struct Answer<'a> {
    /// The model that was asked: it names the attributes.
    pub card: &'a ModelCard,
    /// The rollout's id, as far as it has one.
    pub id: Option<&'a str>,
    /// Finds a rejected rollout that has no id: the line of the file on which it stands, counted from 1.
    pub line: Option<u64>,
    /// Its rewards, or why it has none.
    pub outcome: &'a Outcome,
}

impl Answer<'_> {
    /// Writes the object, without a line end.
    pub fn write(&self, output: impl Write) -> io::Result<()> {
        serde_json::to_writer(output, self).map_err(io::Error::from)
    }
}

impl Serialize for Answer<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { card, id, line, outcome } = *self;
        match outcome {
            Ok(rewards) => Scored::new(card, id, rewards).serialize(serializer),
            Err(rejection) => {
                let line = line.filter(|_| id.is_none());
                Rejected { id, line, error: Error::new(rejection) }.serialize(serializer)
            }
        }
    }
}

#[derive(Serialize)]
struct Scored<'a> {
    id: Option<&'a str>,
    reward: f32,
    attributes: Attributes<'a>,
    tokens: u32,
    truncated: bool,
    model_version: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    reads: Vec<Read<'a>>,
}

impl<'a> Scored<'a> {
    fn new(card: &'a ModelCard, id: Option<&'a str>, rewards: &'a Rewards) -> Self {
        Self {
            id,
            reward: rewards.reward,
            attributes: Attributes { names: &card.attributes, values: &rewards.attributes },
            tokens: rewards.tokens,
            truncated: rewards.truncated,
            model_version: &rewards.model_version,
            reads: rewards.reads.iter().map(|read| Read::new(card, read)).collect(),
        }
    }
}

/// One of several reads.
#[derive(Serialize)]
struct Read<'a> {
    tokens: u32,
    reward: f32,
    attributes: Attributes<'a>,
}

impl<'a> Read<'a> {
    fn new(card: &'a ModelCard, read: &'a ReadRewards) -> Self {
        let attributes = Attributes { names: &card.attributes, values: &read.attributes };
        Self { tokens: read.tokens, reward: read.reward, attributes }
    }
}

/// An object in the order of the card.
struct Attributes<'a> {
    names: &'a [String],
    values: &'a [f32],
}

impl Serialize for Attributes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.names.len()))?;
        for (name, value) in self.names.iter().zip(self.values) {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

#[derive(Serialize)]
struct Rejected<'a> {
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u64>,
    error: Error<'a>,
}

#[derive(Serialize)]
struct Error<'a> {
    code: &'static str,
    message: &'a str,
}

impl<'a> Error<'a> {
    fn new(rejection: &'a Rejection) -> Self {
        Self { code: rejection.code.name(), message: &rejection.message }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::engine::{EchoEngine, Engine as _};
    use crate::reward::Code;

    fn written(id: Option<&str>, outcome: &Outcome) -> String {
        let mut output = Vec::new();
        let engine = EchoEngine::new(8);
        Answer { card: engine.card(), id, line: Some(12), outcome }.write(&mut output).unwrap();
        String::from_utf8(output).unwrap()
    }

    fn rewards(reward: f32, attributes: Vec<f32>) -> Outcome {
        let model_version = "v1".into();
        Ok(Rewards {
            reward,
            attributes,
            tokens: 57,
            truncated: false,
            model_version,
            generation: 1,
            queue_ns: 1,
            forward_ns: 2,
            reads: Vec::new(),
        })
    }

    #[test]
    fn the_format() {
        assert_eq!(
            written(Some("a\"1"), &rewards(1.234, vec![2.1, 0.5])),
            "{\"id\":\"a\\\"1\",\"reward\":1.234,\"attributes\":{\"length\":2.1,\"checksum\":0.5},\"tokens\":57,\
             \"truncated\":false,\"model_version\":\"v1\"}"
        );
        let rejection = Err(Rejection::new(Code::TooLong, "too\nlong"));
        assert_eq!(
            written(Some("a9"), &rejection),
            "{\"id\":\"a9\",\"error\":{\"code\":\"TOO_LONG\",\"message\":\"too\\nlong\"}}"
        );
        assert!(written(None, &rejection).starts_with("{\"id\":null,\"line\":12,\"error\":{"));
    }

    #[test]
    fn several_reads_are_listed() {
        let read = |tokens, reward| ReadRewards { tokens, attributes: vec![reward, 0.25], reward };
        let outcome = rewards(2.0, vec![2.0, 0.5]).map(|r| Rewards { reads: vec![read(3, 0.5), read(57, 2.0)], ..r });
        let line = written(Some("a"), &outcome);
        let reads = "\"reads\":[{\"tokens\":3,\"reward\":0.5,\"attributes\":{\"length\":0.5,\"checksum\":0.25}},\
                     {\"tokens\":57,\"reward\":2.0,\"attributes\":{\"length\":2.0,\"checksum\":0.25}}]}";
        assert!(line.ends_with(reads), "{line}");
    }

    proptest! {
        #[test]
        fn floats_read_back_to_the_same_bits(bits in any::<u32>()) {
            let value = f32::from_bits(bits);
            prop_assume!(value.is_finite());
            let line: serde_json::Value = serde_json::from_str(&written(Some("a"), &rewards(value, vec![value, value]))).unwrap();
            for number in [&line["reward"], &line["attributes"]["length"]] {
                // As a reader would: through float64, or as text.
                prop_assert_eq!((number.as_f64().unwrap() as f32).to_bits(), bits);
                prop_assert_eq!(number.to_string().parse::<f32>().unwrap().to_bits(), bits);
            }
        }
    }
}
