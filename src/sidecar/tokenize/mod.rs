//! Conversations and text into token ids, exactly as the model's own library would.
//!
//! The invariant: a conversation has the tokens that the template writes, as `apply_chat_template(tokenize=True)` of
//! transformers has them, and a text those that the tokenizer makes of it; what is added to either is said by
//! [`Bos`](crate::engine::Bos), and never added twice.

mod chat_template;
mod claimed;
mod comparison;
mod conversation;
mod marks;
mod messages;
mod opening;
mod pair;
mod place;
mod probe;
mod reference;
mod terminator;
mod tokens;
mod vocabulary;

use std::collections::BTreeMap;
use std::sync::Arc;

use tokenizers::Tokenizer;

pub use self::conversation::Locate;
pub use self::messages::{Conversation, bytes_of};
pub use self::place::Place;
pub use self::tokens::{Form, SeveralTexts, within};

use self::chat_template::ChatTemplate;
use self::marks::Marks;
use self::messages::Given;
use self::reference::REFERENCE;
use super::template::Date;
use crate::engine::{Bos, TextAssets, Texts, Vocabulary};
use crate::limits::MAX_NAME_BYTES;
use crate::reward::{Code, Rejection};
use crate::rollout::AnswerOnly;

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
    /// The tokens that trainers pad with, by their ids: the padding token, and the end-of-sequence token.
    named_padding: Vec<(u32, String)>,
    /// By their names.
    templates: BTreeMap<String, ChatTemplate>,
    /// Whether a reference is a text of its own, which no template has to write.
    compares: bool,
    vocabulary: Option<Arc<Vocabulary>>,
}

/// The template that is applied where none is named.
const DEFAULT: &str = "default";

/// The one that is applied where tools are given, if the model has it.
const TOOL_USE: &str = "tool_use";

impl Text {
    /// Loads what the model brought; the error says what is wrong with it.
    pub fn new(assets: &TextAssets) -> Result<Self, String> {
        let tokenizer = assets.tokenizer_json.as_deref().map(load).transpose()?;
        let date = match &assets.template_date {
            Some(date) => Some(Date::parse(date).ok_or_else(|| format!("the template's date is no day: {date}"))?),
            None => None,
        };
        let mut templates = BTreeMap::new();
        let template = |source: &str, default: Option<&ChatTemplate>| {
            ChatTemplate::new(source, &assets.template_variables, date, tokenizer.as_ref(), default)
        };
        if let Some(source) = &assets.chat_template {
            templates.insert(DEFAULT.to_owned(), template(source, None)?);
        }
        for (name, source) in &assets.named_templates {
            let template = template(source, templates.get(DEFAULT));
            templates.insert(name.clone(), template.map_err(|e| format!("the template named {name}: {e}"))?);
        }
        let (tokenizers_bos, tokenizers_eos) = match &tokenizer {
            Some(tokenizer) => tokens::specials_around(tokenizer)?,
            None => (None, None),
        };
        let compares = match (&assets.texts, &tokenizer) {
            (Texts::Comparison(comparison), Some(tokenizer)) => {
                comparison::check(comparison, tokenizer)?;
                true
            }
            _ => false,
        };
        let named = |name: &str| {
            let token = assets.template_variables.get(name)?;
            Some((tokenizer.as_ref()?.token_to_id(token)?, token.clone()))
        };
        let named_bos = named("bos_token").map(|(id, _)| id);
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
        Ok(Self {
            text_bos,
            chat_bos,
            eos: tokenizers_eos.filter(|_| assets.bos != Bos::Never),
            tokenizers_bos,
            named_bos,
            named_padding: ["pad_token", "eos_token"].into_iter().filter_map(named).collect(),
            vocabulary: tokenizer.as_ref().map(|tokenizer| {
                Arc::new(vocabulary::of(tokenizer, assets.template_variables.values().map(String::as_str)))
            }),
            tokenizer,
            templates,
            compares,
        })
    }

    /// The template for what is given beside the messages. One that does not read a reference would leave it out silently.
    fn template(&self, given: &Given) -> Result<&ChatTemplate, Rejection> {
        let chosen = self.chosen(given)?;
        if given.reference.is_some() && !self.compares && !chosen.template.reads(REFERENCE) {
            let what = "reference: the model's chat template reads none, so that the reward would not depend on it; leave it out";
            return Err(Rejection::new(Code::BadOption, what));
        }
        Ok(chosen)
    }

    /// As `get_chat_template` of transformers 5.23 chooses it.
    fn chosen(&self, given: &Given) -> Result<&ChatTemplate, Rejection> {
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

    /// What trainers pad with, as the tokenizer names it: the ids and texts of its padding token and, for those whose trainer gave
    /// them none, of its end-of-sequence token.
    pub fn padding(&self) -> &[(u32, String)] {
        &self.named_padding
    }

    /// The token of an id, as the vocabulary has it.
    pub fn token(&self, id: u32) -> Option<String> {
        self.tokenizer.as_ref()?.id_to_token(id)
    }

    /// Which token each id stands for; `None` where the model has no tokenizer.
    pub fn vocabulary(&self) -> Option<&Arc<Vocabulary>> {
        self.vocabulary.as_ref()
    }

    /// The marks of a policy's thinking: those that are wished for, or else those of the conversation's template; where there is no
    /// conversation, of the default one.
    pub fn marks<'a>(&self, wished: &'a AnswerOnly, conversation: Option<&Conversation>) -> Marks<'a> {
        if !wished.open.is_empty() || !wished.close.is_empty() {
            return (&wished.open, &wished.close);
        }
        let of_conversation = conversation.and_then(|conversation| self.template(&conversation.given).ok());
        let template = of_conversation.or_else(|| self.templates.get(DEFAULT));
        template.map_or(marks::of_template(None), |template| template.marks)
    }

    /// Whether a conversation is a single question that carries its chat template already.
    pub fn carries_template(&self, conversation: &Conversation) -> bool {
        let Some(words) = conversation.only_question() else { return false };
        self.template(&conversation.given).is_ok_and(|template| template.is_carried_by(words))
    }
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
