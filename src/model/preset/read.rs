//! `[read]`: where the head reads a rollout.
//!
//! ```toml
//! [read]
//! at = "last-token"               # the default, or { every-token = TOKEN }: one read at each, the end of a step
//! reduce = "product"              # how a rollout's attributes are made of its steps': product, min, mean, last
//! skip = TOKEN                    # means nothing at the end of a rollout: padding. Default: the pad_token_id of a model
//!                                 # for sequence classification, as transformers has it; false: none
//! append = TOKEN                  # put behind every rollout that does not end with it
//! needs = [TOKEN, ...]            # a run of tokens that every rollout must hold, as the head looks for it
//! ```
//!
//! A token is its id, its text, or `{ setting = "FIELD" }`: the id in that field of the model's configuration.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::engine::{ReadAt, ReadPolicy, Reduce, TextAssets};
use crate::model::ModelError;
use crate::model::settings::Settings;

/// What is said of reads.
#[derive(Debug, Clone, Default, PartialEq, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReadPart {
    at: Option<At>,
    reduce: Option<Reduce>,
    skip: Option<Skip>,
    append: Option<Token>,
    needs: Option<Vec<Token>>,
}

#[derive(Debug, Clone, PartialEq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
enum At {
    LastToken,
    EveryToken(Token),
}

/// The token that means nothing at the end.
#[derive(Debug, Clone, PartialEq, serde::Deserialize)]
#[serde(untagged, expecting = "a token, or false")]
enum Skip {
    /// Whether there is one.
    Any(bool),
    Token(Token),
}

/// A token, as written.
#[derive(Debug, Clone, PartialEq, serde::Deserialize)]
#[serde(untagged, expecting = "a token's id, its text, or { setting = \"FIELD\" }")]
enum Token {
    Id(u32),
    Text(String),
    Setting { setting: String },
}

impl ReadPart {
    /// What is said here, over what is said below.
    pub fn over(self, below: Self) -> Self {
        Self {
            at: self.at.or(below.at),
            reduce: self.reduce.or(below.reduce),
            skip: self.skip.or(below.skip),
            append: self.append.or(below.append),
            needs: self.needs.or(below.needs),
        }
    }

    /// The policy, with every token as its id in this model.
    pub fn policy(&self, settings: &Settings, text: &TextAssets) -> Result<ReadPolicy, ModelError> {
        let tokens = Tokens { settings, text };
        let at = match (&self.at, self.reduce) {
            (Some(At::EveryToken(token)), reduce) => ReadAt::EveryToken {
                token: tokens.id("read.at.every-token", token)?,
                reduce: reduce.unwrap_or_default(),
            },
            (Some(At::LastToken) | None, None) => ReadAt::LastToken,
            (Some(At::LastToken) | None, Some(_)) => {
                let reason = "read.reduce says how steps are put together, but the head reads the last token alone";
                return Err(ModelError::malformed(settings.path(), reason));
            }
        };
        let append = self.append.as_ref().map(|token| tokens.id("read.append", token)).transpose()?;
        let needs = self.needs.iter().flatten().map(|token| tokens.id("read.needs", token));
        Ok(ReadPolicy { at, skip: self.skip(&tokens)?, append, needs: needs.collect::<Result<_, _>>()? })
    }

    /// transformers' `*ForSequenceClassification` read the last token that is not `pad_token_id`.
    fn skip(&self, tokens: &Tokens) -> Result<Option<u32>, ModelError> {
        const PADDING: &str = "pad_token_id";
        let classifies =
            || tokens.settings.architecture().is_ok_and(|name| name.ends_with("ForSequenceClassification"));
        let padding = match &self.skip {
            Some(Skip::Token(token)) => match token {
                Token::Setting { setting } if tokens.settings.get(setting).is_none() => return Ok(None),
                token => return tokens.id("read.skip", token).map(Some),
            },
            Some(Skip::Any(wanted)) => *wanted,
            None => classifies() && matches!(self.at, None | Some(At::LastToken)),
        };
        let id = tokens.settings.get(PADDING).filter(|_| padding).and_then(|id| u32::try_from(id.as_u64()?).ok());
        // A padding token outside the vocabulary never comes.
        Ok(id
            .filter(|id| !tokens.settings.size("vocab_size").is_ok_and(|size| size.is_some_and(|n| *id as usize >= n))))
    }
}

/// Where tokens are looked up.
struct Tokens<'a> {
    settings: &'a Settings,
    text: &'a TextAssets,
}

impl Tokens<'_> {
    /// The id of the token that `key` names.
    fn id(&self, key: &str, token: &Token) -> Result<u32, ModelError> {
        let malformed = |reason: String| ModelError::malformed(self.settings.path(), reason);
        let id = match token {
            Token::Id(id) => *id,
            Token::Setting { setting } => {
                let value = self.settings.get(setting).and_then(|value| u32::try_from(value.as_u64()?).ok());
                value.ok_or_else(|| malformed(format!("{key} is the id in field {setting:?}, which holds none")))?
            }
            Token::Text(piece) => {
                let help = format!("give its id: {key} = ID under [read] in a reward-model.toml or --preset FILE");
                let Some(json) = &self.text.tokenizer_json else {
                    return Err(malformed(format!("{key} is {piece:?}, but the model has no tokenizer; {help}")));
                };
                let found =
                    token_id(json, piece).map_err(|e| malformed(format!("the tokenizer cannot be read: {e}")))?;
                found.ok_or_else(|| {
                    malformed(format!("{key} is {piece:?}, which the tokenizer does not know; {help}"))
                })?
            }
        };
        match self.settings.size("vocab_size")?.filter(|size| id as usize >= *size) {
            Some(size) => Err(malformed(format!("{key} is token {id}, but the vocabulary ends at {}", size - 1))),
            None => Ok(id),
        }
    }
}

/// The parts of a `tokenizer.json` that say which token has which id.
#[derive(serde::Deserialize)]
struct Tokenizer<'a> {
    #[serde(borrow, default)]
    added_tokens: Vec<Added<'a>>,
    #[serde(borrow)]
    model: Model<'a>,
}

#[derive(serde::Deserialize)]
struct Added<'a> {
    id: u32,
    #[serde(borrow)]
    content: Cow<'a, str>,
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
    Map(#[serde(borrow)] BTreeMap<Cow<'a, str>, u32>),
    List(Vec<(Cow<'a, str>, f64)>),
}

/// The id of a piece as a whole.
fn token_id(json: &[u8], piece: &str) -> Result<Option<u32>, serde_json::Error> {
    let Tokenizer { added_tokens, model } = serde_json::from_slice(json)?;
    if let Some(added) = added_tokens.iter().find(|added| added.content == piece) {
        return Ok(Some(added.id));
    }
    Ok(match model.vocab {
        Vocabulary::Map(map) => map.get(piece).copied(),
        Vocabulary::List(list) => list.iter().position(|(known, _)| known == piece).map(|id| id as u32),
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::*;

    fn policy(
        read: &str,
        config: serde_json::Value,
        tokenizer: Option<serde_json::Value>,
    ) -> Result<ReadPolicy, String> {
        let settings = Settings::new(Path::new("config.json"), config).unwrap();
        let json = tokenizer.map(|json| json.to_string().into_bytes().into());
        let text = TextAssets { tokenizer_json: json, ..TextAssets::default() };
        let part: ReadPart = toml::from_str(read).map_err(|e| e.to_string())?;
        part.policy(&settings, &text).map_err(|e| e.to_string())
    }

    #[test]
    fn a_token_is_an_id_a_text_or_a_setting() {
        let added = json!([{"id": 7, "content": "<step>", "special": true}]);
        let map = json!({"added_tokens": added, "model": {"type": "BPE", "vocab": {"a": 0, "b": 3}}});
        let list = json!({"model": {"type": "Unigram", "vocab": [["a", 0.0], ["b", -1.5]]}});
        let config = || json!({"vocab_size": 9, "end": 5});
        let read = "at = { every-token = '<step>' }\nreduce = 'min'\nappend = { setting = 'end' }\nneeds = ['b', 8]";
        let found = policy(read, config(), Some(map.clone())).unwrap();
        assert_eq!(found.at, ReadAt::EveryToken { token: 7, reduce: Reduce::Min });
        assert_eq!((found.append, &found.needs[..]), (Some(5), &[3, 8][..]));
        assert_eq!(policy("append = 'b'", config(), Some(list)).unwrap().append, Some(1));
        assert_eq!(policy("", config(), None).unwrap(), ReadPolicy::default());
        for (read, tokenizer, words) in [
            ("append = 9", None, "the vocabulary ends at 8"),
            ("append = 'c'", Some(map), "\"c\", which the tokenizer does not know; give its id"),
            ("append = 'c'", None, "no tokenizer; give its id: read.append = ID"),
            ("append = { setting = 'start' }", None, "field \"start\", which holds none"),
            ("append = true", None, "a token's id, its text"),
            ("reduce = 'min'", None, "reads the last token alone"),
            ("at = 'mean'", None, "mean"),
            ("every = 3", None, "every"),
        ] {
            let message = policy(read, config(), tokenizer).unwrap_err();
            assert!(message.contains(words), "{read}: {message}");
        }
    }
}
