//! Conversations and text into token ids, exactly as the model's own library would.
//!
//! The invariant: exactly one beginning-of-sequence token where the tokenizer puts one, whatever the template brought;
//! none is added for a model that was trained without.

mod conversation;
mod messages;
mod tokens;

use std::collections::BTreeMap;

use tokenizers::Tokenizer;

pub use self::conversation::Locate;
pub use self::messages::{Conversation, bytes_of};

use self::messages::Given;
use super::template::{Date, Template};
use crate::engine::{Bos, TextAssets};
use crate::limits::MAX_NAME_BYTES;
use crate::reward::{Code, Rejection};

/// The model's tokenizer and chat template.
pub struct Text {
    tokenizer: Option<Tokenizer>,
    /// The id that is to come first: the one that the tokenizer puts there, if it does and the model wants it.
    bos: Option<u32>,
    /// The id that the tokenizer puts last, if it does.
    eos: Option<u32>,
    /// The id of the text that the model calls its beginning-of-sequence token.
    named_bos: Option<u32>,
    /// By their names.
    templates: BTreeMap<String, Template>,
}

/// The template that is applied where none is named.
const DEFAULT: &str = "default";

/// The one that is applied where tools are given, if the model has it.
const TOOL_USE: &str = "tool_use";

impl Text {
    /// Loads what the model brought; the error says what is wrong with it.
    pub fn new(assets: &TextAssets) -> Result<Self, String> {
        let tokenizer = match &assets.tokenizer_json {
            Some(json) => {
                let mut tokenizer = Tokenizer::from_bytes(json)
                    .map_err(|e| format!("the model's tokenizer.json cannot be read: {e}"))?;
                // A published tokenizer.json may carry the settings of its last training run; nothing may be cut or
                // padded silently.
                tokenizer.with_truncation(None).map_err(|e| format!("the model's tokenizer: {e}"))?;
                tokenizer.with_padding(None);
                Some(tokenizer)
            }
            None => None,
        };
        let (bos, eos) = match (&tokenizer, assets.bos) {
            (Some(tokenizer), Bos::AsTokenizer) => tokens::specials_around(tokenizer)?,
            (Some(_), Bos::Never) | (None, _) => (None, None),
        };
        let date = match &assets.template_date {
            Some(date) => Some(Date::parse(date).ok_or_else(|| format!("the template's date is no day: {date}"))?),
            None => None,
        };
        let mut templates = BTreeMap::new();
        if let Some(source) = &assets.chat_template {
            templates.insert(DEFAULT.to_owned(), Template::new(source, &assets.template_variables, date)?);
        }
        for (name, source) in &assets.named_templates {
            let template = Template::new(source, &assets.template_variables, date);
            templates.insert(name.clone(), template.map_err(|e| format!("the template named {name}: {e}"))?);
        }
        let named_bos = tokenizer.as_ref().zip(assets.template_variables.get("bos_token"));
        let named_bos = named_bos.and_then(|(tokenizer, token)| tokenizer.token_to_id(token));
        Ok(Self { tokenizer, bos, eos, named_bos, templates })
    }

    /// The template for what is given beside the messages: as `get_chat_template` of transformers 5.23 chooses it.
    fn template(&self, given: &Given) -> Result<&Template, Rejection> {
        let names = || self.templates.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        if !given.template.is_empty() {
            return self.templates.get(given.template).ok_or_else(|| {
                let name = crate::reward::shortened(given.template, MAX_NAME_BYTES);
                let what = format!("chat.template: the model has no template named '{name}'; it has: {}", names());
                Rejection::new(Code::BadOption, what)
            });
        }
        let for_tools = given.tools.as_ref().and_then(|_| self.templates.get(TOOL_USE));
        for_tools.or_else(|| self.templates.get(DEFAULT)).ok_or_else(|| {
            let what = if self.templates.is_empty() {
                "chat: the model has no chat template; send text that carries the template already, or token ids"
                    .to_owned()
            } else {
                format!("chat.template: the model has no default template; name one of: {}", names())
            };
            Rejection::new(Code::UnsupportedInput, what)
        })
    }
}

#[cfg(test)]
mod tests;
