//! The answer to a rollout as a JSON object. Floats have the fewest digits that read back to the same float32.

use std::io::{self, Write};

use serde::Serialize;
use serde::ser::{SerializeMap as _, Serializer};

use crate::engine::ModelCard;
use crate::reward::{Outcome, ReadEnd, ReadRewards, Rejection, Rewards, Thinking};

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
            Ok(rewards) => Scored::new(card, Some(id), rewards).serialize(serializer),
            Err(rejection) => {
                let line = line.filter(|_| id.is_none());
                Rejected { id: Some(id), line, error: Error::new(rejection) }.serialize(serializer)
            }
        }
    }
}

/// The answer to a preference pair, to be written as JSON.
pub struct PairAnswer<'a> {
    /// The model that was asked: it names the attributes.
    pub card: &'a ModelCard,
    /// The pair's id.
    pub id: &'a str,
    /// What became of the preferred rollout.
    pub chosen: &'a Outcome,
    /// What became of the other one.
    pub rejected: &'a Outcome,
}

impl PairAnswer<'_> {
    /// Writes the object, without a line end.
    pub fn write(&self, output: impl Write) -> io::Result<()> {
        serde_json::to_writer(output, self).map_err(io::Error::from)
    }
}

impl Serialize for PairAnswer<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("id", self.id)?;
        map.serialize_entry("chosen", &Side { card: self.card, outcome: self.chosen })?;
        map.serialize_entry("rejected", &Side { card: self.card, outcome: self.rejected })?;
        if let Some(margin) = margin(self.chosen, self.rejected) {
            map.serialize_entry("margin", &margin)?;
        }
        map.end()
    }
}

/// By how much the preferred rollout's reward is the higher one, where both have one.
pub fn margin(chosen: &Outcome, rejected: &Outcome) -> Option<f64> {
    match (chosen, rejected) {
        (Ok(chosen), Ok(rejected)) => Some(f64::from(chosen.reward) - f64::from(rejected.reward)),
        _ => None,
    }
}

/// One rollout of a pair.
struct Side<'a> {
    card: &'a ModelCard,
    outcome: &'a Outcome,
}

impl Serialize for Side<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.outcome {
            Ok(rewards) => Scored::new(self.card, None, rewards).serialize(serializer),
            Err(rejection) => Rejected { id: None, line: None, error: Error::new(rejection) }.serialize(serializer),
        }
    }
}

/// Several reads as a JSON list, as an answer has them.
pub fn reads(card: &ModelCard, rewards: &Rewards) -> Option<String> {
    let reads: Vec<_> = rewards.reads.iter().map(|read| Read::new(card, read)).collect();
    (!reads.is_empty()).then(|| serde_json::to_string(&reads).expect("numbers and names are JSON"))
}

#[derive(Serialize)]
struct Scored<'a> {
    /// `None` within a pair, which has the id.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<Option<&'a str>>,
    reward: f32,
    attributes: Attributes<'a>,
    tokens: u32,
    truncated: bool,
    model_version: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    reads: Vec<Read<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    thinking: Option<Taken>,
}

impl<'a> Scored<'a> {
    fn new(card: &'a ModelCard, id: Option<Option<&'a str>>, rewards: &'a Rewards) -> Self {
        Self {
            id,
            reward: rewards.reward,
            attributes: Attributes { names: &card.attributes, values: &rewards.attributes },
            tokens: rewards.tokens,
            truncated: rewards.truncated,
            model_version: &rewards.model_version,
            reads: rewards.reads.iter().map(|read| Read::new(card, read)).collect(),
            thinking: rewards.thinking.as_ref().map(Taken::new),
        }
    }
}

/// One of several reads.
#[derive(Serialize)]
struct Read<'a> {
    tokens: u32,
    reward: f32,
    attributes: Attributes<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end_characters: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end_tokens: Option<u32>,
}

/// What was taken out of a completion.
#[derive(Serialize)]
struct Taken {
    /// Begin and end of each part.
    taken: Vec<[u32; 2]>,
    unclosed: bool,
}

impl Taken {
    fn new(thinking: &Thinking) -> Self {
        Self { taken: thinking.taken.iter().map(|part| [part.start, part.end]).collect(), unclosed: thinking.unclosed }
    }
}

impl<'a> Read<'a> {
    fn new(card: &'a ModelCard, read: &'a ReadRewards) -> Self {
        let attributes = Attributes { names: &card.attributes, values: &read.attributes };
        let (end_characters, end_tokens) = match read.end {
            None => (None, None),
            Some(ReadEnd::Characters(end)) => (Some(end), None),
            Some(ReadEnd::Tokens(end)) => (None, Some(end)),
        };
        Self { tokens: read.tokens, reward: read.reward, attributes, end_characters, end_tokens }
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
    /// `None` within a pair, which has the id.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<Option<&'a str>>,
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
            thinking: None,
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
    fn a_pair_has_both() {
        let engine = EchoEngine::new(8);
        let written = |chosen: &Outcome, rejected: &Outcome| {
            let mut output = Vec::new();
            PairAnswer { card: engine.card(), id: "p", chosen, rejected }.write(&mut output).unwrap();
            String::from_utf8(output).unwrap()
        };
        let (good, bad) = (rewards(2.5, vec![2.5, 0.5]), rewards(1.0, vec![1.0, 0.25]));
        assert_eq!(
            written(&good, &bad),
            "{\"id\":\"p\",\"chosen\":{\"reward\":2.5,\"attributes\":{\"length\":2.5,\"checksum\":0.5},\"tokens\":57,\
             \"truncated\":false,\"model_version\":\"v1\"},\"rejected\":{\"reward\":1.0,\"attributes\":{\"length\":1.0,\
             \"checksum\":0.25},\"tokens\":57,\"truncated\":false,\"model_version\":\"v1\"},\"margin\":1.5}"
        );
        let rejection = Err(Rejection::new(Code::TooLong, "too long"));
        assert!(
            written(&good, &rejection)
                .ends_with("\"rejected\":{\"error\":{\"code\":\"TOO_LONG\",\"message\":\"too long\"}}}")
        );
    }

    #[test]
    fn several_reads_are_listed() {
        let read = |tokens, reward| ReadRewards { tokens, attributes: vec![reward, 0.25], reward, end: None };
        let ends = ReadRewards { end: Some(ReadEnd::Characters(9)), ..read(57, 2.0) };
        let thinking = Thinking { taken: vec![0..4, 7..9], unclosed: true };
        let outcome = rewards(2.0, vec![2.0, 0.5]).map(|r| Rewards {
            reads: vec![read(3, 0.5), ends],
            thinking: Some(thinking),
            ..r
        });
        let line = written(Some("a"), &outcome);
        let reads = "\"reads\":[{\"tokens\":3,\"reward\":0.5,\"attributes\":{\"length\":0.5,\"checksum\":0.25}},\
                     {\"tokens\":57,\"reward\":2.0,\"attributes\":{\"length\":2.0,\"checksum\":0.25},\"end_characters\":9}],\
                     \"thinking\":{\"taken\":[[0,4],[7,9]],\"unclosed\":true}}";
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
