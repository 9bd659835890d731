//! Conversations and text into token ids, exactly as the model's own library would.
//!
//! The invariant: a conversation has the tokens that the template writes, as `apply_chat_template(tokenize=True)` of
//! transformers has them, and a text those that the tokenizer makes of it; what is added to either is said by
//! [`Bos`](crate::engine::Bos), and never added twice.

mod conversation;
mod opening;
mod probe;
mod terminator;
mod tokens;
mod vocabulary;

use std::sync::Arc;

use tokenizers::Tokenizer;

pub use self::conversation::Locate;
use self::opening::Opening;
use self::probe::Around;
use self::terminator::Terminator;
pub use self::tokens::Form;

use super::template::Template;
use crate::engine::{Bos, TextAssets, Vocabulary};

/// The model's tokenizer and chat template.
pub struct Text {
    tokenizer: Option<Tokenizer>,
    /// The id that is to come first in a text.
    text_bos: Option<u32>,
    /// The id that is to come first in a conversation.
    chat_bos: Option<u32>,
    /// The id that the tokenizer puts last, if it does.
    eos: Option<u32>,
    /// What the tokenizer puts first, whether the model wants it or not.
    tokenizers_bos: Option<u32>,
    /// The id of the text that the model calls its beginning-of-sequence token.
    named_bos: Option<u32>,
    template: Option<Template>,
    terminator: Option<Terminator>,
    opening: Option<Opening>,
    vocabulary: Option<Arc<Vocabulary>>,
}

impl Text {
    /// Loads what the model brought; the error says what is wrong with it.
    pub fn new(assets: &TextAssets) -> Result<Self, String> {
        let tokenizer = assets.tokenizer_json.as_deref().map(load).transpose()?;
        let template = match &assets.chat_template {
            Some(source) => Some(Template::new(source, &assets.template_variables, None)?),
            None => None,
        };
        let (tokenizers_bos, tokenizers_eos) = match &tokenizer {
            Some(tokenizer) => tokens::specials_around(tokenizer)?,
            None => (None, None),
        };
        let named = |name: &str| Some((tokenizer.as_ref()?, assets.template_variables.get(name)?));
        let named_bos = named("bos_token").and_then(|(tokenizer, token)| tokenizer.token_to_id(token));
        let (text_bos, chat_bos) = match assets.bos {
            Bos::AsTokenizer => (tokenizers_bos, None),
            Bos::One => {
                let bos = tokenizers_bos.or(named_bos);
                if bos.is_none() && tokenizer.is_some() {
                    return Err(
                        "bos = \"one\", but the tokenizer puts no beginning-of-sequence token before a text, and the \
                                model names none (bos_token)"
                            .into(),
                    );
                }
                (bos, bos)
            }
            Bos::Never => (None, None),
        };
        let around = template.as_ref().and_then(probe::around);
        let own = tokenizer.as_ref().zip(around.as_ref()).map(|(tokenizer, around)| markers(tokenizer, around));
        let own = own.unwrap_or_default();
        let eos = assets.template_variables.get("eos_token").map(String::as_str);
        Ok(Self {
            text_bos,
            chat_bos,
            eos: tokenizers_eos.filter(|_| assets.bos != Bos::Never),
            tokenizers_bos,
            named_bos,
            terminator: around.as_ref().and_then(|around| Terminator::find(around, &own, eos)),
            opening: around.as_ref().and_then(|around| Opening::find(around, &own)),
            vocabulary: tokenizer.as_ref().map(|tokenizer| {
                Arc::new(vocabulary::of(tokenizer, assets.template_variables.values().map(String::as_str)))
            }),
            tokenizer,
            template,
        })
    }

    /// The id that is put before what does not begin with it.
    pub fn bos(&self, form: Form) -> Option<u32> {
        match form {
            Form::Chat => self.chat_bos,
            Form::Text => self.text_bos,
        }
    }

    /// What the tokenizer by itself would put before any text, whether the model wants it or not.
    pub fn tokenizers_bos(&self) -> Option<u32> {
        self.tokenizers_bos
    }

    /// The token of an id, as the vocabulary has it.
    pub fn token(&self, id: u32) -> Option<String> {
        self.tokenizer.as_ref()?.id_to_token(id)
    }

    /// Which token each id stands for; `None` where the model has no tokenizer.
    pub fn vocabulary(&self) -> Option<&Arc<Vocabulary>> {
        self.vocabulary.as_ref()
    }

    /// A completion without the end of turn that the template writes behind it: one that it brings is taken off once, with the
    /// white space behind it.
    pub fn without_terminator<'a>(&self, completion: &'a str) -> &'a str {
        self.terminator.as_ref().map_or(completion, |terminator| terminator.without(completion))
    }

    /// Whether a user's words are a prompt that carries the chat template already.
    pub fn carries_template(&self, words: &str) -> bool {
        self.opening.as_ref().is_some_and(|opening| opening.is_in(words))
    }
}

/// Tokens that are no words: those that the tokenizer cuts out of a text before all else, and what a template writes in angle
/// brackets that is one token, as the symbols of a SentencePiece model are.
fn markers(tokenizer: &Tokenizer, around: &Around) -> Vec<String> {
    let mut markers = tokens::added(tokenizer);
    for text in [&around.before, &around.between, &around.behind, &around.next] {
        let brackets = text.match_indices('<').filter_map(|(at, _)| Some(&text[at..=at + text[at..].find('>')?]));
        markers.extend(brackets.filter(|marker| tokenizer.token_to_id(marker).is_some()).map(str::to_owned));
    }
    markers.sort();
    markers.dedup();
    markers
}

fn load(json: &[u8]) -> Result<Tokenizer, String> {
    let mut tokenizer =
        Tokenizer::from_bytes(json).map_err(|e| format!("the model's tokenizer.json cannot be read: {e}"))?;
    // A published tokenizer.json may carry the settings of its last training run; nothing may be cut or padded silently.
    tokenizer.with_truncation(None).map_err(|e| format!("the model's tokenizer: {e}"))?;
    tokenizer.with_padding(None);
    Ok(tokenizer)
}

#[cfg(test)]
mod reference_tests;
#[cfg(test)]
mod tests;
