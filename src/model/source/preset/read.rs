//! `[read]`: where the head reads a rollout.
//!
//! ```toml
//! [read]
//! at = "last-token"               # the default, or { every-token = TOKEN }: one read at each, the end of a step
//! reduce = "product"              # how a rollout's attributes are made of its steps': product, min, mean, last
//! behind = [TOKEN, ...]           # of every-token: only where these stand right before it, one after the other
//! strip = "\n"                    # characters taken from the end of a text before it becomes tokens
//! skip = TOKEN                    # means nothing at the end of a rollout: padding. Default: the pad_token_id of a model
//!                                 # for sequence classification, as transformers has it; false: none
//! ends_before = TOKEN             # a rollout ends before the first of these, wherever it stands: padding, as classes take it
//!                                 # that read before the first padding token; where the model has no such token, nothing
//! append = TOKEN                  # put behind every rollout, in any form, that does not end with it; or else
//! ends_with = TOKEN               # every rollout must end with it, for its template puts more there than this token
//! text_only = false               # whether append and ends_with are for text and conversations alone
//! needs = [TOKEN, ...]            # a run of tokens that every rollout must hold, as the head looks for it
//! ```
//!
//! A token is its id, its text, `{ setting = "FIELD" }`: the id in that field of the model's configuration, or
//! `{ special = "eos_token" }`: what the tokenizer's configuration calls so; of a model without a tokenizer, the single id
//! in the field `eos_token_id` of the model's configuration. Where there is none of either, none is appended.

use super::tokens::{Token, Tokens};
use crate::engine::{ReadAt, ReadPolicy, Reduce, TextAssets};
use crate::model::error::ModelError;
use crate::model::settings::Settings;

/// What is said of reads.
#[derive(Debug, Clone, Default, PartialEq, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReadPart {
    at: Option<At>,
    behind: Option<Vec<Token>>,
    reduce: Option<Reduce>,
    strip: Option<String>,
    skip: Option<Skip>,
    ends_before: Option<Skip>,
    append: Option<Token>,
    ends_with: Option<Token>,
    text_only: Option<bool>,
    needs: Option<Vec<Token>>,
}

#[derive(Debug, Clone, PartialEq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
enum At {
    LastToken,
    EveryToken(Token),
}

/// The field of the padding token.
const PADDING: &str = "pad_token_id";

/// The token that means nothing at the end.
#[derive(Debug, Clone, PartialEq, serde::Deserialize)]
#[serde(untagged, expecting = "a token, or false")]
enum Skip {
    /// Whether there is one.
    Any(bool),
    Token(Token),
}

impl ReadPart {
    /// What is said here, over what is said below.
    pub fn over(self, below: Self) -> Self {
        // They are two ways to end: who says one has not asked for the other.
        let (append, ends_with) = match (self.append, self.ends_with) {
            (None, None) => (below.append, below.ends_with),
            said => said,
        };
        Self {
            at: self.at.or(below.at),
            behind: self.behind.or(below.behind),
            reduce: self.reduce.or(below.reduce),
            strip: self.strip.or(below.strip),
            skip: self.skip.or(below.skip),
            ends_before: self.ends_before.or(below.ends_before),
            append,
            ends_with,
            text_only: self.text_only.or(below.text_only),
            needs: self.needs.or(below.needs),
        }
    }

    /// The policy, with every token as its id in this model. `preset` is the one in use, for messages.
    pub fn policy(
        &self,
        preset: Option<&str>,
        settings: &Settings,
        text: &TextAssets,
    ) -> Result<ReadPolicy, ModelError> {
        let tokens = Tokens { preset, settings, text };
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
        let behind = self.behind.iter().flatten().map(|token| tokens.id("read.behind", token));
        let behind: Vec<_> = behind.collect::<Result<_, _>>()?;
        if at == ReadAt::LastToken && !behind.is_empty() {
            let reason =
                "read.behind says what stands before the end of a step, but the head reads the last token alone";
            return Err(ModelError::malformed(settings.path(), reason));
        }
        if self.append.is_some() && self.ends_with.is_some() {
            let reason = "read.append puts a token there, read.ends_with asks for one; say one of them";
            return Err(ModelError::malformed(settings.path(), reason));
        }
        let text_only = self.text_only.unwrap_or_default();
        // Without a tokenizer no text can come, and what is for text alone need not be known.
        let for_nobody = text_only && text.tokenizer_json.is_none();
        let append = match self.append.as_ref().filter(|_| !for_nobody) {
            // What a model has no token for cannot be behind its rollouts.
            Some(Token::Special { special }) if tokens.special("read.append", special)?.is_none() => None,
            append => append.map(|token| tokens.id("read.append", token)).transpose()?,
        };
        let ends_with = self.ends_with.as_ref().filter(|_| !for_nobody);
        let ends_with = ends_with.map(|token| tokens.id("read.ends_with", token)).transpose()?;
        let needs = self.needs.iter().flatten().map(|token| tokens.id("read.needs", token));
        let strip = self.strip.clone().unwrap_or_default();
        let (skip, needs) = (self.skip(&tokens)?, needs.collect::<Result<_, _>>()?);
        let ends_before = self.ends_before(&tokens)?;
        // They are said by the configuration of a class that reads so.
        let anchors = Vec::new();
        Ok(ReadPolicy { at, behind, strip, skip, ends_before, append, ends_with, text_only, needs, anchors })
    }

    /// transformers' `*ForSequenceClassification` read the last token that is not `pad_token_id`.
    fn skip(&self, tokens: &Tokens) -> Result<Option<u32>, ModelError> {
        let classifies =
            || tokens.settings.architecture().is_ok_and(|name| name.ends_with("ForSequenceClassification"));
        let padding = match &self.skip {
            Some(Skip::Token(token)) => match token {
                Token::Setting { setting } if tokens.settings.get(setting).is_none() => return Ok(None),
                token => return tokens.id("read.skip", token).map(Some),
            },
            Some(Skip::Any(wanted)) => *wanted,
            None => {
                classifies()
                    && matches!(self.ends_before, None | Some(Skip::Any(false)))
                    && matches!(self.at, None | Some(At::LastToken))
            }
        };
        if padding { tokens.that_may_come(PADDING) } else { Ok(None) }
    }

    /// The token that a rollout ends before; none where the model has no such token.
    fn ends_before(&self, tokens: &Tokens) -> Result<Option<u32>, ModelError> {
        match &self.ends_before {
            None | Some(Skip::Any(false)) => Ok(None),
            Some(Skip::Any(true)) => tokens.that_may_come(PADDING),
            Some(Skip::Token(Token::Setting { setting })) => tokens.that_may_come(setting),
            Some(Skip::Token(token)) => tokens.id("read.ends_before", token).map(Some),
        }
    }
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
        policy_of(read, config, tokenizer, &[])
    }

    fn policy_of(
        read: &str,
        config: serde_json::Value,
        tokenizer: Option<serde_json::Value>,
        variables: &[(&str, &str)],
    ) -> Result<ReadPolicy, String> {
        let settings = Settings::new(Path::new("config.json"), config).unwrap();
        let json = tokenizer.map(|json| json.to_string().into_bytes().into());
        let template_variables = variables.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        let text = TextAssets { tokenizer_json: json, template_variables, ..TextAssets::default() };
        let part: ReadPart = toml::from_str(read).map_err(|e| e.to_string())?;
        part.policy(Some("openrlhf"), &settings, &text).map_err(|e| e.to_string())
    }

    #[test]
    fn a_token_is_an_id_a_text_or_a_setting() {
        let added = json!([{"id": 7, "content": "<step>", "special": true}]);
        let map = json!({"added_tokens": added, "model": {"type": "BPE", "vocab": {"a": 0, "b": 3}}});
        let list = json!({"model": {"type": "Unigram", "vocab": [["a", 0.0], ["b", -1.5]]}});
        let config = || json!({"vocab_size": 9, "end": 5});
        let read = "at = { every-token = '<step>' }\nbehind = ['a', 4]\nreduce = 'min'\nappend = { setting = 'end' }\nneeds = ['b', 8]";
        let found = policy(read, config(), Some(map.clone())).unwrap();
        assert_eq!(found.at, ReadAt::EveryToken { token: 7, reduce: Reduce::Min });
        assert_eq!(found.behind, [0, 4]);
        assert_eq!((found.append, &found.needs[..]), (Some(5), &[3, 8][..]));
        assert_eq!(policy("append = 'b'", config(), Some(list)).unwrap().append, Some(1));
        assert_eq!(policy("", config(), None).unwrap(), ReadPolicy::default());
        // No text can come.
        let of_text = policy("append = 'b'\ntext_only = true", config(), None).unwrap();
        assert_eq!((of_text.append, of_text.text_only), (None, true));
        for (read, tokenizer, words) in [
            ("append = 9", None, "the vocabulary ends at 8"),
            ("append = 'c'", Some(map), "\"c\", which the tokenizer does not know; if you know"),
            ("append = 'c'", None, "  preset = \"openrlhf\"\n  [read]\n  append = ID"),
            ("ends_with = 'c'", None, "\n  ends_with = ID"),
            ("append = 1\nends_with = 1", None, "say one of them"),
            ("append = 'c'", None, "no tokenizer; if you know its id, write"),
            ("append = { setting = 'start' }", None, "field \"start\", which holds none"),
            ("append = true", None, "a token's id, its text"),
            ("reduce = 'min'", None, "reads the last token alone"),
            ("behind = [3]", None, "before the end of a step, but the head reads"),
            ("at = 'mean'", None, "mean"),
            ("every = 3", None, "every"),
        ] {
            let message = policy(read, config(), tokenizer).unwrap_err();
            assert!(message.contains(words), "{read}: {message}");
        }
    }

    /// What the tokenizer calls so counts: a list in the configuration holds all the tokens that stop a generation.
    #[test]
    fn a_special_token_is_the_tokenizers() {
        let read = "strip = '\\n'\nappend = { special = 'eos_token' }".replace('\'', "\"");
        let tokenizer = || Some(json!({"model": {"type": "BPE", "vocab": {"a": 0, "</s>": 3, "<end>": 4}}}));
        let several = || json!({"eos_token_id": [3, 4]});
        let found = policy_of(&read, several(), tokenizer(), &[("eos_token", "<end>")]).unwrap();
        assert_eq!((found.append, &*found.strip), (Some(4), "\n"));
        let alone = policy(&read, json!({"eos_token_id": 3}), None).unwrap();
        assert_eq!(alone.append, Some(3));
        let message = policy(&read, several(), tokenizer()).unwrap_err();
        assert!(message.contains("eos_token") && message.contains("append = ID"), "{message}");
        for config in [json!({"eos_token_id": null}), json!({})] {
            assert_eq!(policy(&read, config, None).unwrap().append, None, "the model has no such token");
        }
        let message = policy("ends_with = { special = 'eos_token' }", json!({}), None).unwrap_err();
        assert!(message.contains("neither it nor the model has one"), "{message}");
    }

    #[test]
    fn one_way_to_end_takes_the_place_of_the_other() {
        let part = |read: &str| toml::from_str::<ReadPart>(read).unwrap();
        let (append, ends_with) = (|| part("append = 3"), || part("strip = 'x'\nends_with = 4"));
        assert_eq!(append().over(ends_with()), part("strip = 'x'\nappend = 3"));
        assert_eq!(ends_with().over(append()), ends_with());
        assert_eq!(part("").over(ends_with()), ends_with());
    }
}
