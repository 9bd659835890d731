//! vLLM's `POST /score` and `POST /rerank` (Jina's and Cohere's form): the first text is the prompt, each second one a completion of
//! it, and a score is its reward.

use std::time::Duration;

use serde::de::Deserializer;
use serde::{Deserialize, Serialize};

use super::classify::Changes;
use super::dialect::{Dialect, Scored, created, number};
use super::inputs::OneOrMany;
use super::openai::Usage;
use super::reply::{Refusal, Reply};
use super::request::{Item, ModelIn, Request, in_group, raw_text};

/// A prompt and a completion, the prompt naming the group.
fn pair(request: &Request, prompt: &str, completion: &str) -> Item {
    // Before it is written as JSON, in which it could not be told any more.
    let item = request.check(prompt).and_then(|()| request.answered(&raw_text(prompt), completion));
    in_group(item, prompt)
}

/// `/score`.
pub(super) struct Score;

#[derive(Deserialize)]
struct ScoreBody {
    #[serde(alias = "queries", alias = "data_1")]
    text_1: OneOrMany<String>,
    #[serde(alias = "documents", alias = "data_2")]
    text_2: OneOrMany<String>,
    #[serde(flatten)]
    changes: Changes,
}

#[derive(Serialize)]
struct Scores<'a> {
    id: String,
    object: &'static str,
    created: u64,
    model: &'a str,
    data: Vec<ScoreData>,
    usage: Usage,
}

#[derive(Serialize)]
struct ScoreData {
    index: usize,
    object: &'static str,
    score: f32,
}

impl Dialect for Score {
    const HOLD: Option<Duration> = None;
    const MODEL_IN: ModelIn = ModelIn::Body;

    fn parse(request: &Request) -> Result<(Self, Vec<Item>), Refusal> {
        let ScoreBody { text_1, text_2, changes } = request.parse()?;
        changes.check()?;
        let (prompts, completions) = (text_1.into_vec(), text_2.into_vec());
        if prompts.len() != 1 && prompts.len() != completions.len() {
            let message = format!(
                "{} prompts and {} completions; give one prompt, or one for each",
                prompts.len(),
                completions.len()
            );
            return Err(Refusal::malformed(message));
        }
        let prompts = prompts.iter().cycle();
        let items = completions.iter().zip(prompts).map(|(completion, prompt)| pair(request, prompt, completion));
        Ok((Self, items.collect()))
    }

    fn render(self, scored: &Scored) -> Result<Reply, Refusal> {
        let all = scored.all()?.into_iter().enumerate();
        let data = all.map(|(index, rewards)| ScoreData { index, object: "score", score: rewards.reward }).collect();
        let (id, usage) = (format!("score-{}", number()), Usage::of(scored));
        Ok(Reply::json(&Scores { id, object: "list", created: created(), model: &scored.card.name, data, usage }))
    }
}

/// `/rerank`: the completions of one prompt, best first.
pub(super) struct Rerank {
    documents: Vec<String>,
    top_n: usize,
    return_documents: bool,
}

#[derive(Deserialize)]
struct RerankBody {
    query: String,
    documents: Vec<Document>,
    top_n: Option<usize>,
    #[serde(default = "yes")]
    return_documents: bool,
    #[serde(flatten)]
    changes: Changes,
}

fn yes() -> bool {
    true
}

/// Text, or an object that has it.
struct Document(String);

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Text(String),
            Object { text: String },
        }
        Ok(match Form::deserialize(deserializer)? {
            Form::Text(text) | Form::Object { text } => Self(text),
        })
    }
}

#[derive(Serialize)]
struct Ranking<'a> {
    id: String,
    model: &'a str,
    usage: Usage,
    results: Vec<Ranked<'a>>,
}

#[derive(Serialize)]
struct Ranked<'a> {
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    document: Option<RankedText<'a>>,
    relevance_score: f32,
}

#[derive(Serialize)]
struct RankedText<'a> {
    text: &'a str,
}

impl Dialect for Rerank {
    const HOLD: Option<Duration> = None;
    const MODEL_IN: ModelIn = ModelIn::Body;

    fn parse(request: &Request) -> Result<(Self, Vec<Item>), Refusal> {
        let RerankBody { query, documents, top_n, return_documents, changes } = request.parse()?;
        changes.check()?;
        let documents: Vec<String> = documents.into_iter().map(|document| document.0).collect();
        let items = documents.iter().map(|document| pair(request, &query, document)).collect();
        // 0 stands for all, as vLLM has it.
        let top_n = top_n.filter(|&n| n > 0).unwrap_or(documents.len());
        Ok((Self { documents, top_n, return_documents }, items))
    }

    fn render(self, scored: &Scored) -> Result<Reply, Refusal> {
        let mut order: Vec<(usize, f32)> = scored.all()?.iter().map(|rewards| rewards.reward).enumerate().collect();
        // Those of equal rewards stay in the caller's order.
        order.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        let results = order.into_iter().take(self.top_n).map(|(index, relevance_score)| {
            let text = || RankedText { text: &self.documents[index] };
            Ranked { index, document: self.return_documents.then(text), relevance_score }
        });
        let (id, usage) = (format!("rerank-{}", number()), Usage::of(scored));
        Ok(Reply::json(&Ranking { id, model: &scored.card.name, usage, results: results.collect() }))
    }
}
