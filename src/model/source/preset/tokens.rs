//! Tokens that a preset names, by id, text or field, as ids of one model.

use crate::engine::TextAssets;
use crate::model::error::ModelError;
use crate::model::settings::Settings;
use crate::model::text::added;

/// Options of heads that are rows of an LM head: a token each.
const ROWS: [&str; 3] = ["yes", "no", "row"];

/// A token, as written.
#[derive(Debug, Clone, PartialEq, serde::Deserialize)]
#[serde(untagged, expecting = "a token's id, its text, { setting = \"FIELD\" }, or { special = \"eos_token\" }")]
pub enum Token {
    Id(u32),
    Text(String),
    Setting { setting: String },
    Special { special: String },
}

/// Where tokens are looked up.
pub struct Tokens<'a> {
    /// The preset in use, for messages.
    pub preset: Option<&'a str>,
    /// The model's configuration.
    pub settings: &'a Settings,
    /// Its tokenizer.
    pub text: &'a TextAssets,
}

impl Tokens<'_> {
    /// The id in a field; `None` where it holds none, or one outside the vocabulary, which never comes.
    pub fn that_may_come(&self, field: &str) -> Result<Option<u32>, ModelError> {
        let id = self.settings.get(field).and_then(|id| u32::try_from(id.as_u64()?).ok());
        let vocabulary = self.settings.size("vocab_size")?.unwrap_or(usize::MAX);
        Ok(id.filter(|id| (*id as usize) < vocabulary))
    }

    /// The id of the token that `key` names.
    pub fn id(&self, key: &str, token: &Token) -> Result<u32, ModelError> {
        let malformed = |reason: String| ModelError::malformed(self.settings.path(), reason);
        let id = match token {
            Token::Id(id) => *id,
            Token::Setting { setting } => {
                let value = self.settings.get(setting).and_then(|value| u32::try_from(value.as_u64()?).ok());
                value.ok_or_else(|| malformed(format!("{key} is the id in field {setting:?}, which holds none")))?
            }
            Token::Text(piece) => self.id_of(key, piece)?,
            Token::Special { special } => self.special(key, special)?.ok_or_else(|| {
                let help = self.help(key);
                malformed(format!("{key} is the tokenizer's {special}, but neither it nor the model has one; {help}"))
            })?,
        };
        match self.settings.size("vocab_size")?.filter(|size| id as usize >= *size) {
            Some(size) => {
                let by = self.preset.map_or_else(String::new, |preset| format!(", as preset {preset} says"));
                Err(malformed(format!("{key} is token {id}{by}, but the vocabulary ends at {}", size - 1)))
            }
            None => Ok(id),
        }
    }
}

impl Tokens<'_> {
    /// The id of a special token; `None` if the model has no such token.
    pub fn special(&self, key: &str, special: &str) -> Result<Option<u32>, ModelError> {
        if let Some(piece) = self.text.template_variables.get(special)
            && self.text.tokenizer_json.is_some()
        {
            return self.id_of(key, piece).map(Some);
        }
        let field = format!("{special}_id");
        let Some(value) = self.settings.get(&field) else { return Ok(None) };
        // A list is of all the tokens that stop a generation; which of them a tokenizer would put there it does not say.
        u32::try_from(value.as_u64().unwrap_or(u64::MAX)).map(Some).map_err(|_| {
            let reason = format!(
                "{key} is the tokenizer's {special}, but no tokenizer says which, and field {field:?} is \
                                  {value}, which is no single id; {}",
                self.help(key)
            );
            ModelError::malformed(self.settings.path(), reason)
        })
    }

    /// Puts ids in place of the pieces that options of a head name: those of a row of the LM head.
    pub fn in_options(&self, options: &mut toml::Table) -> Result<(), ModelError> {
        for (name, value) in options.iter_mut().filter(|(name, _)| ROWS.contains(&name.as_str())) {
            if let toml::Value::String(piece) = value {
                *value = toml::Value::Integer(self.id_of(&format!("head.{name}"), piece)?.into());
            }
        }
        Ok(())
    }

    /// Refuses anchors of a comparison that are not the tokens, `read`, at which the model reads.
    pub fn check_anchors(&self, anchors: &[String; 3], read: &[u32]) -> Result<(), ModelError> {
        let malformed = |reason: String| Err(ModelError::malformed(self.settings.path(), reason));
        if read.is_empty() {
            let class = self.settings.architecture()?;
            return malformed(format!("[compare] is for a class that reads at three tokens; {class} does not"));
        }
        let Some(json) = &self.text.tokenizer_json else { return Ok(()) };
        for (anchor, read) in anchors.iter().zip(read) {
            let id = added::id_of(json, anchor).map_err(|e| {
                ModelError::malformed(self.settings.path(), format!("the tokenizer cannot be read: {e}"))
            })?;
            if id != Some(*read) {
                let found = id.map_or_else(|| "does not know".to_owned(), |id| format!("has as token {id}"));
                return malformed(format!(
                    "compare.anchors has {anchor:?}, which the tokenizer {found}, but the model reads at token {read}"
                ));
            }
        }
        Ok(())
    }

    /// The id of a piece, which must be one.
    fn id_of(&self, key: &str, piece: &str) -> Result<u32, ModelError> {
        let malformed = |reason: String| ModelError::malformed(self.settings.path(), reason);
        let Some(json) = &self.text.tokenizer_json else {
            return Err(malformed(format!("{key} is {piece:?}, but the model has no tokenizer; {}", self.help(key))));
        };
        let found = added::id_of(json, piece).map_err(|e| malformed(format!("the tokenizer cannot be read: {e}")))?;
        found.ok_or_else(|| {
            malformed(format!("{key} is {piece:?}, which the tokenizer does not know; {}", self.help(key)))
        })
    }

    /// What to do about a token that cannot be found, to the letter.
    fn help(&self, key: &str) -> String {
        let (part, option) = key.split_once('.').unwrap_or(("read", key));
        match self.preset.filter(|preset| super::names().contains(preset)) {
            Some(preset) => format!(
                "if you know its id, write these lines into a file own.toml and add --preset own.toml:\n  name = \"own\"\n  \
                 preset = {preset:?}\n  [{part}]\n  {option} = ID"
            ),
            None => format!("give its id, {option} = ID, where [{part}] is said"),
        }
    }
}
