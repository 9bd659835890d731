//! Conversations into text by the model's chat template, and where the completion stands in it.
//!
//! The invariant: a place that is given is the completion's; where it cannot be known there is a rejection.

use std::ops::Range;

use serde::ser::{Serialize, SerializeMap as _, Serializer};

use super::Text;
use super::messages::{Conversation, Given, Shown};
use super::place::{Place, place};
use super::reference::REFERENCE;
use crate::reward::{Code, Rejection};
use crate::rollout::ASSISTANT;
use crate::sidecar::template::Written;

/// A conversation as the model reads it.
pub struct Rendered {
    /// The text, template included.
    pub text: String,
    /// Where the completion stands in it: a place for each of the assistant's messages, in their order. `None` where nobody
    /// asked.
    pub completion: Option<Vec<Place>>,
}

/// What is to be found out of a completion's place in a rendered conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Locate {
    /// Nothing: it costs a little.
    Nothing,
    /// Where it begins, so that the prompt before it can be cut. The place may end behind it.
    Start,
    /// Where exactly it stands, so that its tokens can be counted.
    Whole,
}

impl Text {
    /// Applies the chat template to the messages before `completion.end`, without a prompt for a further turn. Refuses a
    /// conversation whose completion, the messages of that range, has no place that can be found, where `locate` asks for one.
    pub fn render(
        &self,
        conversation: &Conversation,
        completion: Range<usize>,
        locate: Locate,
    ) -> Result<Rendered, Rejection> {
        let view = View::of(self, conversation, completion);
        let own: Vec<usize> =
            view.completion.clone().filter(|turn| conversation.turns()[*turn].role() == ASSISTANT).collect();
        let mark = own.first().copied().filter(|_| locate != Locate::Nothing);
        let Written { text, completion } = view.render(view.completion.end, mark, false)?;
        if mark.is_none() {
            return Ok(Rendered { text, completion: None });
        }
        let mut places = Vec::with_capacity(own.len());
        for &turn in &own {
            let place = if places.is_empty() {
                view.place(&text, &completion.ranges, turn)
            } else {
                let again = view.render(view.completion.end, Some(turn), false)?;
                view.place(&text, &again.completion.ranges, turn)
            };
            match place {
                Some(place) => places.push(place),
                None if locate == Locate::Start && places.is_empty() => {
                    let start = view.prompt_of(&text).ok_or_else(|| not_found(locate))?;
                    places.push(Place { bytes: start..text.len(), pieces: Vec::new() });
                    break;
                }
                None => return Err(not_found(locate)),
            }
        }
        Ok(Rendered { text, completion: Some(places) })
    }

    /// What an assistant's message that a conversation ends with says, without an end of turn; `None` where it is no text.
    pub fn ending<'a>(&self, conversation: &'a Conversation, end: usize) -> Option<&'a str> {
        let last = conversation.turns().get(end.checked_sub(1)?)?;
        let content = last.content()?;
        let template = self.template(&conversation.given).ok().filter(|_| last.role() == ASSISTANT);
        Some(template.map_or(content, |template| template.without_terminator(content)))
    }
}

/// A conversation up to the end of a completion.
pub(super) struct View<'a> {
    text: &'a Text,
    conversation: &'a Conversation<'a>,
    /// Which messages are the completion; the last one is the last that the template is shown.
    completion: Range<usize>,
    /// The last one's content, without an end of turn; `None` where it is no text.
    ending: Option<&'a str>,
}

impl<'a> View<'a> {
    /// A conversation whose completion are the messages of this range.
    pub(super) fn of(text: &'a Text, conversation: &'a Conversation<'a>, completion: Range<usize>) -> Self {
        Self { text, conversation, ending: text.ending(conversation, completion.end), completion }
    }

    /// What the template writes of the prompt, as the policy saw it.
    pub(super) fn prompt(&self) -> Result<String, Rejection> {
        Ok(self.render(self.completion.start, None, true)?.text)
    }

    /// Where the template has put what a message says, by the marks that it has left on it.
    fn place(&self, text: &str, marked: &[Range<usize>], turn: usize) -> Option<Place> {
        let turns = self.conversation.turns();
        let last = turn + 1 == self.completion.end;
        let content = if last { self.ending } else { turns[turn].content() }.unwrap_or_default();
        if !marked.is_empty() {
            // What a message says beside its content has no text that the pieces could be found in.
            return if turns[turn].says_more() {
                Some(Place { bytes: marked[0].start..marked[marked.len() - 1].end, pieces: Vec::new() })
            } else {
                place(text, marked, content)
            };
        }
        // Of nothing there are no marks. It stands where the policy began, if nothing was written before: as far as the text is
        // what the policy saw, to which a template may add more (`<think>`) than to an answer.
        let nothing = content.trim().is_empty() && !turns[turn].says_more();
        let start = if nothing && turn == self.completion.start { self.common_with_prompt(text) } else { None }?;
        Some(Place { bytes: start..start, pieces: Vec::new() })
    }

    /// The bytes at the beginning of a text that the policy saw as well.
    fn common_with_prompt(&self, text: &str) -> Option<usize> {
        let prompt = self.prompt().ok()?;
        let common = text.char_indices().zip(prompt.chars()).find(|((_, ours), theirs)| ours != theirs);
        Some(common.map_or(text.len().min(prompt.len()), |((at, _), _)| at))
    }

    /// The bytes of the prompt as the policy saw it, if the conversation's text begins with that.
    fn prompt_of(&self, text: &str) -> Option<usize> {
        let prompt = self.prompt().ok()?;
        text.starts_with(&prompt).then_some(prompt.len())
    }

    /// The text of the first so many messages, of which what the policy has said in one may be marked.
    fn render(&self, turns: usize, mark: Option<usize>, add_generation_prompt: bool) -> Result<Written, Rejection> {
        let ending = self.completion.end.checked_sub(1).zip(self.ending).filter(|(last, _)| *last < turns);
        let variables = Variables { conversation: self.conversation, turns, ending, mark, add_generation_prompt };
        self.text.template(&self.conversation.given)?.template.render(&variables)
    }
}

/// What the template is given, as transformers gives it.
struct Variables<'a> {
    conversation: &'a Conversation<'a>,
    /// How many of its messages.
    turns: usize,
    /// The last message, and the content that it is shown with.
    ending: Option<(usize, &'a str)>,
    /// The message of which all that the policy says in it is marked.
    mark: Option<usize>,
    add_generation_prompt: bool,
}

impl Serialize for Variables<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Given { tools, documents, reference, variables, .. } = &self.conversation.given;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("messages", &Messages(self))?;
        map.serialize_entry("add_generation_prompt", &self.add_generation_prompt)?;
        map.serialize_entry("tools", tools)?;
        map.serialize_entry("documents", documents)?;
        if let Some(reference) = reference {
            map.serialize_entry(REFERENCE, reference)?;
        }
        for (name, value) in variables.iter() {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

struct Messages<'a>(&'a Variables<'a>);

impl Serialize for Messages<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Variables { conversation, turns, ending, mark, .. } = self.0;
        serializer.collect_seq(conversation.turns()[..*turns].iter().enumerate().map(|(at, turn)| {
            let content = ending.filter(|(last, _)| *last == at).map(|(_, content)| content);
            Shown { turn, content, marked: *mark == Some(at) }
        }))
    }
}

fn not_found(locate: Locate) -> Rejection {
    let (purpose, advice) = match locate {
        Locate::Whole => {
            ("its tokens cannot be counted", "leave out length_penalty, soft_length and require_completion")
        }
        Locate::Nothing | Locate::Start => ("the prompt before it cannot be cut to the context", "shorten the prompt"),
    };
    Rejection::new(
        Code::BadMessages,
        format!(
            "chat: the model's chat template does not tell where this completion stands (it writes nothing of it, or some of \
             it twice), so {purpose}; {advice}, or send prompt_completion_ids"
        ),
    )
}
