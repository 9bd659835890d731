//! Conversations with JSON in a rollout's record: form 5 of [`rollout`](super::write_rollout), whose module page has the diagram.
//!
//! Invariant: what is written here is as many words as [`words`] says.

use std::sync::Arc;

use crate::limits::MAX_MESSAGES;
use crate::rollout::{Extras, Message};
use crate::shm::Broken;
use crate::shm::layout::WORD;
use crate::shm::ring::{Record, Writer};

/// Whether a conversation has anything that plain messages and a text do not say.
pub(super) fn has_json(messages: &[Message], extras: Option<&Extras>) -> bool {
    extras.is_some() || messages.iter().any(|message| message.json.is_some())
}

fn in_words(text: &str) -> usize {
    text.len().div_ceil(WORD)
}

/// The texts in front of the messages, in order; an empty one is none.
fn texts<'a>(completion: &'a str, extras: Option<&'a Extras>) -> [&'a str; 6] {
    let Some(extras) = extras else { return [completion, "", "", "", "", ""] };
    let text = |text: &'a Option<Arc<str>>| text.as_deref().unwrap_or_default();
    let Extras { tools, documents, template_variables, reference, .. } = extras;
    [completion, &extras.template, text(tools), text(documents), text(template_variables), text(reference)]
}

fn completion_of(extras: Option<&Extras>) -> &[Message] {
    extras.map_or(&[], |extras| &extras.completion)
}

/// Words of the conversation.
pub(super) fn words(messages: &[Message], completion: &str, extras: Option<&Extras>) -> usize {
    let message = |message: &Message| {
        let json = message.json.as_deref().unwrap_or_default();
        2 + [&message.role, &message.content, json].into_iter().map(in_words).sum::<usize>()
    };
    4 + texts(completion, extras).into_iter().map(in_words).sum::<usize>()
        + messages.iter().chain(completion_of(extras)).map(message).sum::<usize>()
}

/// Writes the conversation.
pub(super) fn write(writer: &mut Writer, messages: &[Message], completion: &str, extras: Option<&Extras>) {
    let texts = texts(completion, extras);
    let answer = completion_of(extras);
    writer.halves(messages.len() as u32, answer.len() as u32);
    let [completion, template, tools, documents, variables, reference] = texts.map(|text| text.len() as u32);
    writer.halves(completion, template);
    writer.halves(tools, documents);
    writer.halves(variables, reference);
    texts.into_iter().for_each(|text| writer.bytes(text.as_bytes()));
    for message in messages.iter().chain(answer) {
        let json = message.json.as_deref().unwrap_or_default();
        writer.halves(message.role.len() as u32, (message.content.len() as u32) << 1 | u32::from(message.score));
        writer.word(json.len() as u64);
        for text in [&message.role, &message.content, json] {
            writer.bytes(text.as_bytes());
        }
    }
}

/// A conversation whose texts are bytes yet.
pub(super) struct RawChat {
    messages: Vec<RawMessage>,
    /// How many of the messages are the prompt's.
    prompt: usize,
    texts: [Vec<u8>; 6],
}

struct RawMessage {
    texts: [Vec<u8>; 3],
    score: bool,
}

/// Reads a conversation. Of more messages than there may be, only so many are kept that intake finds it: here they may be much
/// larger than in the ring.
pub(super) fn read(record: &mut Record) -> Result<RawChat, Broken> {
    let (prompt, answer) = record.halves("messages")?;
    let (completion, template) = record.halves("completion")?;
    let (tools, documents) = record.halves("tools")?;
    let (variables, reference) = record.halves("template_variables")?;
    let mut text = |bytes: u32, field| record.bytes(bytes as usize, field);
    let texts = [
        text(completion, "completion")?,
        text(template, "template")?,
        text(tools, "tools")?,
        text(documents, "documents")?,
        text(variables, "template_variables")?,
        text(reference, "reference")?,
    ];
    let mut messages = Vec::new();
    let mut kept_of_prompt = 0;
    for number in 0..u64::from(prompt) + u64::from(answer) {
        let (role, content) = record.halves("messages")?;
        let json = super::length(record.word("messages")?);
        let role = record.bytes(role as usize, "messages: role")?;
        let texts =
            [role, record.bytes((content >> 1) as usize, "messages: content")?, record.bytes(json, "messages: json")?];
        if messages.len() <= MAX_MESSAGES {
            messages.push(RawMessage { texts, score: content & 1 != 0 });
            kept_of_prompt += usize::from(number < u64::from(prompt));
        }
    }
    Ok(RawChat { messages, prompt: kept_of_prompt, texts })
}

impl RawChat {
    /// Messages, completion and extras; `text` makes text of bytes and is told their field.
    pub(super) fn into_texts(
        self,
        mut text: impl FnMut(Vec<u8>, &str) -> String,
    ) -> (Vec<Message>, String, Option<Box<Extras>>) {
        let given = |text: String| (!text.is_empty()).then_some(text);
        let [completion, template, tools, documents, variables, reference] = self.texts;
        let completion = text(completion, "completion");
        let template = text(template, "template").into();
        let mut json = |bytes, field| given(text(bytes, field)).map(Arc::from);
        let (tools, documents) = (json(tools, "tools"), json(documents, "documents"));
        let (template_variables, reference) = (json(variables, "template_variables"), json(reference, "reference"));
        let messages = self.messages.into_iter().map(|message| {
            let [role, content, json] = message.texts;
            let role = text(role, "messages: role");
            let content = text(content, "messages: content");
            Message { role, content, score: message.score, json: given(text(json, "messages: json")) }
        });
        let mut messages: Vec<_> = messages.collect();
        let answer = messages.split_off(self.prompt);
        let extras = Extras { completion: answer, tools, documents, template_variables, reference, template };
        (messages, completion, (extras != Extras::default()).then(|| Box::new(extras)))
    }
}
