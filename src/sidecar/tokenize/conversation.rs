//! Conversations into text by the model's chat template, and where the completion stands in it.
//!
//! The invariant: a place that is given is the completion's; where it cannot be known there is a rejection.

use std::ops::Range;

use super::Text;
use crate::reward::{Code, Rejection};
use crate::rollout::{ASSISTANT, Message};

/// A conversation as the model reads it.
pub struct Rendered {
    /// The text, template included.
    pub text: String,
    /// Where the completion stands in it; `None` where nobody asked.
    pub completion: Option<Range<usize>>,
}

/// What a template is given.
#[derive(serde::Serialize)]
struct Variables<'a> {
    messages: &'a [Message],
    tools: (),
    documents: (),
    add_generation_prompt: bool,
}

/// What is to be found out of a completion's place in a rendered conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Locate {
    /// Nothing: it costs another pass through the template.
    Nothing,
    /// Where it begins, so that the prompt before it can be cut. The place may end behind it.
    Start,
    /// Where exactly it stands, so that its tokens can be counted.
    Whole,
}

impl Text {
    /// Applies the chat template, without a prompt for a further turn. Refuses a conversation whose completion has no
    /// place that can be found, where `locate` asks for one.
    pub fn render(&self, messages: &[Message], completion: &str, locate: Locate) -> Result<Rendered, Rejection> {
        let text = self.apply_with(messages, completion)?;
        let place = match locate {
            Locate::Nothing => None,
            Locate::Start => Some(self.exact_place(messages, completion, &text).or_else(|| {
                let start = self.prompt_of(messages, &text)?;
                Some(start..text.len())
            })),
            Locate::Whole => Some(self.exact_place(messages, completion, &text)),
        };
        match place {
            None => Ok(Rendered { text, completion: None }),
            Some(Some(completion)) => Ok(Rendered { text, completion: Some(completion) }),
            Some(None) => Err(not_found(locate)),
        }
    }

    /// Where the template has put a completion. Another word in its place shows what the template writes before and behind
    /// it; what stands between is the completion, of which a template may have trimmed the ends.
    fn exact_place(&self, messages: &[Message], completion: &str, text: &str) -> Option<Range<usize>> {
        let word = (0_u32..).map(|n| format!("COMPLETION{n}")).find(|word| !text.contains(word))?;
        let other = self.apply_with(messages, &word).ok()?;
        let found =
            other.split_once(&word).filter(|(_, behind)| !behind.contains(&word)).and_then(|(before, behind)| {
                let place = before.len()..text.len().checked_sub(behind.len())?;
                let written = text.get(place.clone())?;
                let is_completion = completion.contains(written) && written.trim() == completion.trim();
                (text.starts_with(before) && text.ends_with(behind) && is_completion).then_some(place)
            });
        // Of nothing some templates write less than they write around a word. It stands where the policy began.
        let empty = || completion.trim().is_empty().then(|| self.prompt_of(messages, text)).flatten();
        found.or_else(|| empty().map(|start| start..start))
    }

    /// The bytes of the prompt as the policy saw it, if the conversation's text begins with that.
    fn prompt_of(&self, messages: &[Message], text: &str) -> Option<usize> {
        let prompt = self.apply(messages, true).ok()?;
        text.starts_with(&prompt).then_some(prompt.len())
    }

    fn apply_with(&self, messages: &[Message], completion: &str) -> Result<String, Rejection> {
        let mut turns = messages.to_vec();
        turns.push(Message::new(ASSISTANT, completion));
        self.apply(&turns, false)
    }

    fn apply(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, Rejection> {
        let template = self.template.as_ref().ok_or_else(|| {
            Rejection::new(
                Code::UnsupportedInput,
                "chat: the model has no chat template; send text that carries the template already, or token ids",
            )
        })?;
        // As transformers calls it where there are neither tools nor documents.
        let variables = Variables { messages, tools: (), documents: (), add_generation_prompt };
        template.render(&variables).map(|written| written.text)
    }
}

fn not_found(locate: Locate) -> Rejection {
    let (purpose, advice) = match locate {
        Locate::Whole => ("its tokens cannot be counted for length_penalty", "leave length_penalty out"),
        Locate::Nothing | Locate::Start => ("the prompt before it cannot be cut to the context", "shorten the prompt"),
    };
    Rejection::new(
        Code::BadMessages,
        format!(
            "chat: the model's chat template does not write this completion as it was sent, so {purpose}; {advice}, or send \
             prompt_completion_ids"
        ),
    )
}
