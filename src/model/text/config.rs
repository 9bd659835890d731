//! What the files beside a tokenizer say of its tokens: `tokenizer_config.json`, and where that has no `added_tokens_decoder`
//! also `special_tokens_map.json` and `added_tokens.json`, which older versions of transformers wrote.
//!
//! The invariant: of what the files say against each other, that counts which counts in transformers.
//!
//! Source: `PreTrainedTokenizerBase._from_pretrained` and `TokenizersBackend.__init__` of transformers 5.23.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::token::Token;

/// Names of special tokens, in the order in which new ones are added.
const NAMES: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// The files' contents; `Null` where there is none.
#[derive(Debug, Default)]
pub struct Files {
    /// `tokenizer_config.json`.
    pub tokenizer_config: Value,
    /// `special_tokens_map.json`.
    pub special_tokens_map: Value,
    /// `added_tokens.json`.
    pub added_tokens: Value,
}

/// What they say.
#[derive(Debug, Default, PartialEq)]
pub struct TokenizerConfig {
    /// Tokens by the ids that they are to have. The ids give the order alone: a tokenizer gives new tokens the next ids.
    pub decoder: BTreeMap<u64, Token>,
    /// Special tokens that have names; `None` where the name is there with nothing.
    named: BTreeMap<String, Option<Token>>,
    /// Names of special tokens that only this model has, in their order.
    own_names: Vec<String>,
    /// Special tokens without names; `None` where there is no list.
    extra: Option<Vec<Token>>,
}

impl TokenizerConfig {
    /// Reads them. The error is a sentence that names the field.
    pub fn read(files: &Files) -> Result<Self, String> {
        let empty = Map::new();
        let mut fields = files.tokenizer_config.as_object().unwrap_or(&empty).clone();
        if fields.get("split_special_tokens").and_then(Value::as_bool) == Some(true) {
            return Err("split_special_tokens = true is not supported: special tokens in a text would be words".into());
        }
        let mut decoder = BTreeMap::new();
        if let Some(added) = fields.get("added_tokens_decoder").and_then(Value::as_object) {
            for (id, token) in added {
                let text = Token::object(token, false).filter(|token| !token.content.is_empty());
                let (Ok(id), Some(token)) = (id.parse(), text) else {
                    return Err(format!(
                        "added_tokens_decoder has {id:?}: {token}, expected an id and a token's content"
                    ));
                };
                decoder.insert(id, token);
            }
        } else {
            let map = files.special_tokens_map.as_object().unwrap_or(&empty);
            fields.extend(map.iter().map(|(name, value)| (name.clone(), value.clone())));
        }
        let mut config = Self { decoder, ..Self::default() };
        config.name(&fields);
        config.extra = extra(&fields)?;
        if !fields.contains_key("added_tokens_decoder") {
            config.legacy(&files.added_tokens)?;
        }
        Ok(config)
    }

    /// Takes up the special tokens that have names.
    fn name(&mut self, fields: &Map<String, Value>) {
        let named = fields.get("extra_special_tokens").and_then(Value::as_object);
        for (name, value) in fields.iter().chain(named.into_iter().flatten()) {
            let known = NAMES.contains(&name.as_str());
            let token = Token::either(value);
            let own = !known && (name.ends_with("_token") || named.is_some_and(|named| named.contains_key(name)));
            if own && token.is_some() && !self.own_names.contains(name) {
                self.own_names.push(name.clone());
            }
            if known || (own && token.is_some()) {
                self.named.insert(name.clone(), token);
            }
        }
    }

    /// `added_tokens.json`: ids by texts. Those that have names are special.
    fn legacy(&mut self, added: &Value) -> Result<(), String> {
        let special: Vec<&str> = NAMES
            .iter()
            .filter_map(|name| self.named.get(*name)?.as_ref())
            .chain(self.extra.iter().flatten())
            .map(|token| token.content.as_str())
            .collect();
        let mut decoder = BTreeMap::new();
        for (text, id) in added.as_object().into_iter().flatten() {
            let Some(id) = id.as_u64().filter(|_| !text.is_empty()) else {
                return Err(format!("added_tokens.json has {text:?}: {id}, expected a token's text and its id"));
            };
            let special = special.contains(&text.as_str());
            decoder.insert(id, Token { special, normalized: !special, ..Token::special(text) });
        }
        self.decoder.extend(decoder);
        Ok(())
    }

    /// Takes up what a tokenizer's class, or its model file, has where the files are silent.
    pub fn or(&mut self, named: &[(&str, &str)], extra: Vec<Token>) {
        for (name, text) in named {
            self.named.entry((*name).to_owned()).or_insert_with(|| Some(Token::special(text)));
        }
        if self.extra.is_none() {
            self.extra = Some(extra);
        }
    }

    /// Whether no token is said anywhere.
    pub fn is_silent(&self) -> bool {
        self.decoder.is_empty() && self.special_tokens().next().is_none() && self.extra.iter().all(Vec::is_empty)
    }

    /// Special tokens with names, in the order in which they are added.
    pub fn special_tokens(&self) -> impl Iterator<Item = (&str, &Token)> {
        let names = NAMES.into_iter().chain(self.own_names.iter().map(String::as_str));
        names.filter_map(|name| Some((name, self.named.get(name)?.as_ref()?)))
    }

    /// The text of a special token.
    pub fn special_token(&self, name: &str) -> Option<&str> {
        self.named.get(name)?.as_ref().map(|token| token.content.as_str())
    }

    /// Tokens that a tokenizer with these added tokens gets, in their order. Those of the decoder come in any case, since their
    /// flags count over the tokenizer's.
    pub fn tokens_beyond<'a>(&self, has: impl Fn(&str) -> bool + 'a) -> Vec<Token> {
        let mut tokens: Vec<Token> = self.decoder.values().cloned().collect();
        let others = self.special_tokens().map(|(_, token)| token).chain(self.extra.iter().flatten());
        for token in others {
            if !has(&token.content) && !tokens.iter().any(|known| known.content == token.content) {
                tokens.push(token.clone());
            }
        }
        let named: Vec<&str> = self.special_tokens().map(|(_, token)| token.content.as_str()).collect();
        for token in &mut tokens {
            token.special |= named.contains(&token.content.as_str());
        }
        tokens
    }
}

/// The list of special tokens that have no names.
fn extra(fields: &Map<String, Value>) -> Result<Option<Vec<Token>>, String> {
    let list = |name: &str| fields.get(name).filter(|value| !value.is_null() && !value.is_object());
    let filled = list("extra_special_tokens").filter(|value| value.as_array().is_none_or(|list| !list.is_empty()));
    let Some(value) = filled.or_else(|| list("additional_special_tokens")).or_else(|| list("extra_special_tokens"))
    else {
        return Ok(None);
    };
    let tokens = value.as_array().map(|list| list.iter().map(Token::either).collect::<Option<Vec<_>>>());
    match tokens.flatten() {
        Some(tokens) => Ok(Some(tokens)),
        None => Err(format!("the list of special tokens is {value}, expected texts or tokens with their content")),
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
