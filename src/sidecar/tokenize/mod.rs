//! Conversations and text into token ids, exactly as the model's own library would.
//!
//! The invariant: exactly one beginning-of-sequence token where the tokenizer puts one, whatever the template brought;
//! none is added for a model that was trained without.

mod conversation;
mod tokens;

use tokenizers::Tokenizer;

pub use self::conversation::Locate;

use super::template::Template;
use crate::engine::{Bos, TextAssets};

/// The model's tokenizer and chat template.
pub struct Text {
    tokenizer: Option<Tokenizer>,
    /// The id that is to come first: the one that the tokenizer puts there, if it does and the model wants it.
    bos: Option<u32>,
    /// The id that the tokenizer puts last, if it does.
    eos: Option<u32>,
    /// The id of the text that the model calls its beginning-of-sequence token.
    named_bos: Option<u32>,
    template: Option<Template>,
}

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
        let template = match &assets.chat_template {
            Some(source) => Some(Template::new(source, &assets.template_variables, None)?),
            None => None,
        };
        let named_bos = tokenizer.as_ref().zip(assets.template_variables.get("bos_token"));
        let named_bos = named_bos.and_then(|(tokenizer, token)| tokenizer.token_to_id(token));
        Ok(Self { tokenizer, bos, eos, named_bos, template })
    }
}

#[cfg(test)]
mod tests;
