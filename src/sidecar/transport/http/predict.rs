//! `POST /predict` of Hugging Face's text-embeddings-inference, and `POST /infinity/classify` of Infinity, whose own path is vLLM's.
//!
//! | body | answer |
//! |---|---|
//! | TEI: `inputs`: text, `[prompt, completion]`, or a list of lists of one or two texts | `[{"score", "label"}]`, in a list for a list of lists |
//! | Infinity: `input`: a list of texts | `{"object", "data": [[{"score", "label"}]], "model", "usage", "id", "created"}` |
//!
//! `raw_scores` (false unless given) is theirs: without it a score is the logistic function of the reward.

use std::time::Duration;

use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize};

use super::dialect::{Dialect, Scored, created, logistic, number};
use super::inputs::OneOrMany;
use super::openai::Usage;
use super::reply::{Refusal, Reply};
use super::request::{Item, Request, in_group, raw_text};

#[derive(Serialize)]
struct Class {
    score: f32,
    label: &'static str,
}

fn classes(scored: &Scored, raw_scores: bool) -> Result<Vec<[Class; 1]>, Refusal> {
    let score = |reward| if raw_scores { reward } else { logistic(reward) };
    let class = |reward| [Class { score: score(reward), label: "reward" }];
    Ok(scored.all()?.iter().map(|rewards| class(rewards.reward)).collect())
}

/// TEI.
pub(super) struct Predict {
    one: bool,
    raw_scores: bool,
}

#[derive(Deserialize)]
struct PredictBody {
    inputs: PredictInputs,
    #[serde(default)]
    raw_scores: bool,
}

/// One or two texts: all of a conversation with its template, or a prompt and its completion.
enum Sequence {
    Text(String),
    Pair([String; 2]),
}

enum PredictInputs {
    One(Sequence),
    Many(Vec<Sequence>),
}

impl<'de> Deserialize<'de> for PredictInputs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "text, [prompt, completion], or a list of lists of one or two texts")]
        enum Form {
            Text(String),
            List(Vec<String>),
            Lists(Vec<Vec<String>>),
        }
        let sequence = |mut texts: Vec<String>| match (texts.len(), texts.pop(), texts.pop()) {
            (1, Some(text), _) => Ok(Sequence::Text(text)),
            (2, Some(completion), Some(prompt)) => Ok(Sequence::Pair([prompt, completion])),
            (n, ..) => Err(D::Error::custom(format!("{n} texts in one input; one, or a prompt and its completion"))),
        };
        Ok(match Form::deserialize(deserializer)? {
            Form::Text(text) => Self::One(Sequence::Text(text)),
            Form::List(texts) => Self::One(sequence(texts)?),
            Form::Lists(lists) => Self::Many(lists.into_iter().map(sequence).collect::<Result<_, _>>()?),
        })
    }
}

impl Sequence {
    fn item(self, request: &Request) -> Item {
        match self {
            Self::Text(text) => request.text(text),
            Self::Pair([prompt, completion]) => {
                let item = request.check(&prompt).and_then(|()| request.answered(&raw_text(&prompt), &completion));
                in_group(item, &prompt)
            }
        }
    }
}

impl Dialect for Predict {
    const HOLD: Option<Duration> = None;

    fn parse(request: &Request) -> Result<(Self, Vec<Item>), Refusal> {
        let PredictBody { inputs, raw_scores } = request.parse()?;
        let (one, sequences) = match inputs {
            PredictInputs::One(sequence) => (true, vec![sequence]),
            PredictInputs::Many(sequences) => (false, sequences),
        };
        let items = sequences.into_iter().map(|sequence| sequence.item(request)).collect();
        Ok((Self { one, raw_scores }, items))
    }

    fn render(self, scored: &Scored) -> Result<Reply, Refusal> {
        let classes = classes(scored, self.raw_scores)?;
        Ok(match (self.one, classes.first()) {
            (true, Some(class)) => Reply::json(class),
            _ => Reply::json(&classes),
        })
    }
}

/// Infinity.
pub(super) struct Infinity {
    raw_scores: bool,
}

#[derive(Deserialize)]
struct InfinityBody {
    input: OneOrMany<String>,
    #[serde(default)]
    raw_scores: bool,
}

#[derive(Serialize)]
struct InfinityAnswer<'a> {
    object: &'static str,
    data: Vec<[Class; 1]>,
    model: &'a str,
    usage: Usage,
    id: String,
    created: u64,
}

impl Dialect for Infinity {
    const HOLD: Option<Duration> = None;

    fn parse(request: &Request) -> Result<(Self, Vec<Item>), Refusal> {
        let InfinityBody { input, raw_scores } = request.parse()?;
        let items = input.into_vec().into_iter().map(|text| request.text(text)).collect();
        Ok((Self { raw_scores }, items))
    }

    fn render(self, scored: &Scored) -> Result<Reply, Refusal> {
        let (data, usage) = (classes(scored, self.raw_scores)?, Usage::of(scored));
        let (id, model) = (format!("infinity-{}", number()), &scored.card.name);
        Ok(Reply::json(&InfinityAnswer { object: "classify", data, model, usage, id, created: created() }))
    }
}
