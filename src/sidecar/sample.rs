//! A small conversation as the model reads it, so that a person can compare it with a model card in one look.
//!
//! The invariant: its tokens are those that a rollout of these words would have.

use serde::Serialize;

use super::reading;
use super::tokenize::{Conversation, Form, Locate, Text};
use crate::engine::ModelCard;
use crate::reward::Rejection;
use crate::rollout::Message;

/// What is asked, and what is answered.
pub const QUESTION: &str = "What is 2+2?";
/// See [`QUESTION`].
pub const ANSWER: &str = "4.";

/// Tokens that are shown at either end.
const SHOWN: usize = 5;

/// How a model's texts begin, and a conversation of [`QUESTION`] and [`ANSWER`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Sample {
    /// The token that is put before a text that does not begin with it.
    pub text_begins_with: Option<Token>,
    /// The token that is put before a conversation that does not begin with it.
    pub chat_begins_with: Option<Token>,
    /// The conversation; `None` where the model has no chat template.
    pub chat: Option<Chat>,
}

/// The conversation's tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Chat {
    /// The template refuses the conversation, for this reason.
    Refused(String),
    /// The template takes it.
    Taken {
        /// Its first and last tokens, as they come out of the template and the rule for the beginning.
        templated: Ends,
        /// The same with what the head takes off and puts behind: what is scored.
        read: Ends,
        /// Set where public pipelines differ: those that let the tokenizer put this token before a conversation in which the
        /// template has not written it.
        others_begin_with: Option<Token>,
    },
}

/// First and last tokens of a sequence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ends {
    /// How many there are in all.
    pub tokens: usize,
    /// The first of them.
    pub first: Vec<Token>,
    /// The last of them that are not among the first.
    pub last: Vec<Token>,
}

/// A token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Token {
    /// Its id.
    pub id: u32,
    /// Its text, as the vocabulary has it; empty where the tokenizer does not know the id.
    pub text: String,
}

/// The sample of a model; `None` where it takes token ids only. The error says what is wrong with the model's text.
pub fn of(card: &ModelCard) -> Result<Option<Sample>, String> {
    if card.text.tokenizer_json.is_none() {
        return Ok(None);
    }
    let text = Text::new(&card.text)?;
    let begins_with = |form| text.bos(form).map(|id| token(&text, id));
    let chat = card.text.chat_template.as_ref().map(|_| match chat(&text, card) {
        Ok(taken) => taken,
        Err(rejection) => Chat::Refused(rejection.message),
    });
    Ok(Some(Sample { text_begins_with: begins_with(Form::Text), chat_begins_with: begins_with(Form::Chat), chat }))
}

fn chat(text: &Text, card: &ModelCard) -> Result<Chat, Rejection> {
    let question = [Message::new("user", QUESTION)];
    let conversation = Conversation::of(&question, ANSWER, None)?;
    let rendered = text.render(&conversation, 1..2, Locate::Nothing)?.text;
    let templated = text.encode(&rendered, Form::Chat)?;
    let mut read = text.encode(reading::stripped(&card.reads, &rendered), Form::Chat)?;
    reading::complete(&card.reads, true, &mut read);
    let begun = text.opens_with_bos(&templated);
    let others_begin_with = text.tokenizers_bos().filter(|_| !begun).map(|id| token(text, id));
    Ok(Chat::Taken { templated: ends(text, &templated), read: ends(text, &read), others_begin_with })
}

fn ends(text: &Text, ids: &[u32]) -> Ends {
    let (first, rest) = ids.split_at(ids.len().min(SHOWN));
    let last = &rest[rest.len().saturating_sub(SHOWN)..];
    let tokens = |ids: &[u32]| ids.iter().map(|id| token(text, *id)).collect();
    Ends { tokens: ids.len(), first: tokens(first), last: tokens(last) }
}

fn token(text: &Text, id: u32) -> Token {
    Token { id, text: text.token(id).unwrap_or_default() }
}
