//! A request as a dialect reads it: its body as JSON, its options, and how text and messages of it become rollouts.
//!
//! Invariant: text with an unpaired surrogate is never scored; it rejects the one input that it stands in.

use axum::body::Bytes;
use axum::http::HeaderMap;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use super::python_json;
use super::query::Options;
use super::reply::Refusal;
use crate::json::row::{self, Content, ExtraColumns};
use crate::reward::{Code, Rejection};
use crate::rollout::{Input, Rollout};

/// One input of a request: a rollout without an id, or why it is none.
pub(super) type Item = Result<Rollout, Rejection>;

/// Where a request names the model that it is for. Where there is one model alone, what is not in the query is passed over: many
/// clients must name something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ModelIn {
    /// Nowhere else.
    Query,
    /// `model` in the body, as OpenAI and vLLM have it.
    Body,
    /// `/v2/models/NAME/...`
    Path,
}

/// See the module.
pub(super) struct Request {
    pub options: Options,
    pub headers: HeaderMap,
    /// The path as it was asked for.
    pub path: String,
    /// The body as it came.
    pub raw: Bytes,
    /// See [`crate::sidecar::Config::gym_on_rejection`].
    pub refuses_rejected: bool,
    json: Vec<u8>,
    unpaired: Option<char>,
}

impl Request {
    /// Of a request whose body is there.
    pub fn new(path: &str, query: &str, headers: HeaderMap, raw: Bytes) -> Result<Self, Refusal> {
        let options = Options::parse(query)?;
        let cleaned = python_json::clean(&raw).ok_or_else(|| {
            Refusal::malformed("the body has unpaired surrogates beside every noncharacter of Unicode")
        })?;
        let unpaired = cleaned.unpaired;
        let json = cleaned.json.into_owned();
        Ok(Self { options, headers, path: path.to_owned(), json, unpaired, raw, refuses_rejected: false })
    }

    /// The body as JSON of the dialect's form; fields that the form does not have are passed over.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, Refusal> {
        serde_json::from_slice(&self.json).map_err(|error| Refusal::body(&error))
    }

    /// What the body or the path calls the model; `None` where they do not, or where the body is to be refused anyway.
    pub fn model(&self, place: ModelIn) -> Option<String> {
        #[derive(serde::Deserialize)]
        struct Named {
            model: Option<String>,
        }
        match place {
            ModelIn::Query => None,
            ModelIn::Body => self.parse::<Named>().ok()?.model,
            ModelIn::Path => self.path.split('/').nth(3).map(str::to_owned),
        }
    }

    /// A text that carries its template.
    pub fn text(&self, text: String) -> Item {
        self.check(&text)?;
        Ok(Rollout { input: Some(Input::Text(text)), ..Rollout::default() })
    }

    /// Token ids of a whole conversation.
    pub fn ids(&self, ids: Vec<u32>) -> Item {
        Ok(Rollout { input: Some(Input::TokenIds(ids)), ..Rollout::default() })
    }

    /// A rollout of the fields of a row, as rollout files have them.
    pub fn row(&self, fields: &[(&str, &RawValue)]) -> Item {
        let mut json = String::from("{\"id\":\"0\"");
        for (name, value) in fields {
            self.check(value.get())?;
            json.push_str(&format!(",\"{name}\":{}", value.get()));
        }
        json.push('}');
        match row::parse(json.as_bytes(), ExtraColumns::Refuse, None).content? {
            Content::One(rollout) => Ok(Rollout { id: String::new(), ..*rollout }),
            Content::Pair { .. } => Err(Rejection::new(Code::Malformed, "a preference pair, which is two rollouts")),
        }
    }

    /// A prompt, as text of a user or as messages, and what answers it.
    pub fn answered(&self, prompt: &RawValue, completion: &str) -> Item {
        self.check(completion)?;
        self.row(&[("prompt", prompt), ("completion", &*raw_text(completion))])
    }

    /// Why a text that is to be scored is none, if so.
    pub fn check(&self, text: &str) -> Result<(), Rejection> {
        match self.unpaired {
            Some(unpaired) if text.contains(unpaired) => {
                let message = "the text has an unpaired surrogate, which is no character; decode the tokens anew, or leave it out";
                Err(Rejection::new(Code::Malformed, message))
            }
            _ => Ok(()),
        }
    }
}

/// Text as JSON.
pub(super) fn raw_text(text: &str) -> Box<RawValue> {
    // Text is always JSON.
    serde_json::value::to_raw_value(text).unwrap_or_default()
}

/// The group of those who have this prompt.
pub(super) fn group(prompt: &str) -> String {
    let hash = Sha256::digest(prompt.as_bytes());
    hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// The same rollout in the group of this prompt.
pub(super) fn in_group(item: Item, prompt: &str) -> Item {
    item.map(|rollout| Rollout { group: group(prompt), ..rollout })
}
