//! Tokens that a `tokenizer.json` does not know, added to it as `tokenizers.Tokenizer.add_tokens` adds them.
//!
//! The invariant: nothing of the file but its list of added tokens changes, and no token changes its id.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use serde_json::json;
use serde_json::value::{RawValue, to_raw_value};

use super::config::TokenizerConfig;
use super::token::Token;

/// An added token in the file.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
struct Added {
    id: u32,
    #[serde(flatten)]
    token: Token,
}

#[derive(serde::Deserialize)]
struct AddedTokens {
    #[serde(default)]
    added_tokens: Vec<Added>,
}

/// The parts of a `tokenizer.json` that say which text has which id.
#[derive(serde::Deserialize)]
struct Ids<'a> {
    #[serde(borrow)]
    model: Model<'a>,
}

#[derive(serde::Deserialize)]
struct Model<'a> {
    #[serde(borrow)]
    vocab: Vocabulary<'a>,
}

/// A map from pieces to ids, or a list of pieces with their scores.
#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Vocabulary<'a> {
    Map(#[serde(borrow)] HashMap<Cow<'a, str>, u32>),
    List(Vec<(Cow<'a, str>, f64)>),
}

impl<'a> Vocabulary<'a> {
    fn ids(self) -> HashMap<Cow<'a, str>, u32> {
        match self {
            Self::Map(map) => map,
            Self::List(list) => (0..).zip(list).map(|(id, (piece, _))| (piece, id)).collect(),
        }
    }
}

/// The file with the tokens that the configuration has beyond it; `None` where it has none.
pub fn complete(json: &[u8], config: &TokenizerConfig) -> Result<Option<Vec<u8>>, serde_json::Error> {
    // Most folders say the same in both places: then a quick look is all that a large file costs.
    let AddedTokens { added_tokens: mut added } = serde_json::from_slice(json)?;
    let tokens = config.tokens_beyond(|text| added.iter().any(|known| known.token.content == text));
    let known = |token: &Token| added.iter().any(|known| known.token == *token);
    if tokens.iter().all(known) {
        return Ok(None);
    }
    let ids = serde_json::from_slice::<Ids>(json)?.model.vocab.ids();
    let size = u32::try_from(ids.len()).unwrap_or(u32::MAX);
    let mut next = added.iter().map(|known| known.id.saturating_add(1)).fold(size, u32::max);
    for token in tokens {
        match added.iter_mut().find(|known| known.token.content == token.content) {
            Some(known) => known.token = token,
            None => {
                let id = ids.get(token.content.as_str()).copied().unwrap_or_else(|| {
                    next += 1;
                    next - 1
                });
                added.push(Added { id, token });
            }
        }
    }
    with(json, "added_tokens", &added).map(Some)
}

/// The file with another value in a field.
fn with(json: &[u8], field: &str, value: &impl serde::Serialize) -> Result<Vec<u8>, serde_json::Error> {
    let mut file: BTreeMap<Cow<str>, Box<RawValue>> = serde_json::from_slice(json)?;
    file.insert(field.into(), to_raw_value(value)?);
    serde_json::to_vec(&file)
}

/// The file with tokens put before and behind a text where special tokens are asked for. One that the file does not know is
/// not put.
pub fn surround(json: &[u8], before: Option<&str>, behind: Option<&str>) -> Result<Vec<u8>, serde_json::Error> {
    let known = |token: Option<&str>| match token {
        Some(token) => Ok::<_, serde_json::Error>(id_of(json, token)?.map(|id| (token.to_owned(), id))),
        None => Ok(None),
    };
    let (before, behind) = (known(before)?, known(behind)?);
    if before.is_none() && behind.is_none() {
        return Ok(json.to_vec());
    }
    let piece = |token: &(String, u32)| json!({"SpecialToken": {"id": token.0, "type_id": 0}});
    let around = |sequence: &str| {
        let sequence = json!({"Sequence": {"id": sequence, "type_id": 0}});
        before.as_ref().map(piece).into_iter().chain([sequence]).chain(behind.as_ref().map(piece)).collect::<Vec<_>>()
    };
    let tokens = before
        .iter()
        .chain(&behind)
        .map(|(token, id)| (token.clone(), json!({"id": token, "ids": [id], "tokens": [token]})));
    let pair = [around("A"), around("B")].concat();
    let processor = json!({
        "type": "TemplateProcessing", "single": around("A"), "pair": pair,
        "special_tokens": tokens.collect::<serde_json::Map<_, _>>(),
    });
    with(json, "post_processor", &processor)
}

/// The id of a piece as a whole.
pub fn id_of(json: &[u8], piece: &str) -> Result<Option<u32>, serde_json::Error> {
    let AddedTokens { added_tokens } = serde_json::from_slice(json)?;
    if let Some(added) = added_tokens.iter().find(|added| added.token.content == piece) {
        return Ok(Some(added.id));
    }
    Ok(serde_json::from_slice::<Ids>(json)?.model.vocab.ids().get(piece).copied())
}
