//! Conversations into text by the model's chat template, and where the completion stands in it.
//!
//! The invariant: a place that is given is the completion's; where it cannot be known there is a rejection.

use std::ops::Range;

use serde::ser::{Serialize, SerializeMap as _, Serializer};

use super::Text;
use super::messages::{Conversation, Given, Shown};
use crate::reward::{Code, Rejection};
use crate::rollout::ASSISTANT;

/// A conversation as the model reads it.
pub struct Rendered {
    /// The text, template included.
    pub text: String,
    /// Where the completion stands in it; `None` where nobody asked.
    pub completion: Option<Range<usize>>,
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
    /// Applies the chat template to the messages before `completion.end`, without a prompt for a further turn. Refuses a
    /// conversation whose completion, the messages of that range, has no place that can be found, where `locate` asks for one.
    pub fn render(
        &self,
        conversation: &Conversation,
        completion: Range<usize>,
        locate: Locate,
    ) -> Result<Rendered, Rejection> {
        let ending = match completion.end.checked_sub(1).and_then(|last| conversation.turns()[last].content()) {
            Some(content) if conversation.turns()[completion.end - 1].role() == ASSISTANT => {
                Some(self.without_terminator(content))
            }
            _ => None,
        };
        let view = View { text: self, conversation, completion, ending };
        let text = view.apply()?;
        let place = match locate {
            Locate::Nothing => None,
            Locate::Start => Some(view.exact_place(&text).or_else(|| {
                let start = view.prompt_of(&text)?;
                Some(start..text.len())
            })),
            Locate::Whole => Some(view.exact_place(&text)),
        };
        match place {
            None => Ok(Rendered { text, completion: None }),
            Some(Some(completion)) => Ok(Rendered { text, completion: Some(completion) }),
            Some(None) => Err(not_found(locate)),
        }
    }
}

/// A conversation up to the end of a completion.
struct View<'a> {
    text: &'a Text,
    conversation: &'a Conversation<'a>,
    /// Which messages are the completion; the last one is the last that the template is shown.
    completion: Range<usize>,
    /// The last one's content, without an end of turn; `None` where it is no text.
    ending: Option<&'a str>,
}

impl View<'_> {
    /// Where the template has put the completion: from the content of its first message to that of its last. What those say
    /// beside their content, such as reasoning, may stand before it or behind it, which is not known.
    fn exact_place(&self, text: &str) -> Option<Range<usize>> {
        let Range { start: first, end } = self.completion;
        let last = end.checked_sub(1)?;
        let turns = self.conversation.turns();
        if turns[first].says_more() || turns[last].says_more() {
            return None;
        }
        let end = self.exact_place_of(last, text)?;
        let start = if first == last { end.start } else { self.exact_place_of(first, text)?.start };
        (start <= end.end).then_some(start..end.end)
    }

    /// Where the template has put one message's content. Another word in its place shows what the template writes before and
    /// behind it; what stands between is the content, of which a template may have trimmed the ends.
    fn exact_place_of(&self, turn: usize, text: &str) -> Option<Range<usize>> {
        let content = self.content(turn)?;
        let word = (0_u32..).map(|n| format!("COMPLETION{n}")).find(|word| !text.contains(word))?;
        let other = self.apply_with(turn, &word).ok()?;
        let found =
            other.split_once(&word).filter(|(_, behind)| !behind.contains(&word)).and_then(|(before, behind)| {
                let place = before.len()..text.len().checked_sub(behind.len())?;
                let written = text.get(place.clone())?;
                let is_content = content.contains(written) && written.trim() == content.trim();
                (text.starts_with(before) && text.ends_with(behind) && is_content).then_some(place)
            });
        // Of nothing some templates write less than they write around a word. It stands where the policy began.
        let is_whole = self.completion == (turn..turn + 1);
        let empty = || {
            (is_whole && content.trim().is_empty()).then(|| self.prompt_of(text)).flatten().map(|start| start..start)
        };
        found.or_else(empty)
    }

    /// The bytes of the prompt as the policy saw it, if the conversation's text begins with that.
    fn prompt_of(&self, text: &str) -> Option<usize> {
        let prompt = self.render(&self.shown(self.completion.start, true)).ok()?;
        text.starts_with(&prompt).then_some(prompt.len())
    }

    fn content(&self, turn: usize) -> Option<&str> {
        if turn + 1 == self.completion.end { self.ending } else { self.conversation.turns()[turn].content() }
    }

    fn apply(&self) -> Result<String, Rejection> {
        self.render(&self.shown(self.completion.end, false))
    }

    fn apply_with(&self, turn: usize, content: &str) -> Result<String, Rejection> {
        let shown = self.shown(self.completion.end, false);
        self.render(&Variables { others: [shown.others[0], Some((turn, content))], ..shown })
    }

    fn shown(&self, turns: usize, add_generation_prompt: bool) -> Variables<'_> {
        let ending = self.completion.end.checked_sub(1).zip(self.ending).filter(|(last, _)| *last < turns);
        Variables { conversation: self.conversation, turns, others: [ending, None], add_generation_prompt }
    }

    fn render(&self, variables: &Variables) -> Result<String, Rejection> {
        self.text.template(&self.conversation.given)?.render_values(variables)
    }
}

/// What the template is given, as transformers gives it.
struct Variables<'a> {
    conversation: &'a Conversation<'a>,
    /// How many of its messages.
    turns: usize,
    /// Messages that are shown with another content; of two for one message the last counts.
    others: [Option<(usize, &'a str)>; 2],
    add_generation_prompt: bool,
}

impl Serialize for Variables<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Given { tools, documents, variables, .. } = &self.conversation.given;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("messages", &Messages(self))?;
        map.serialize_entry("add_generation_prompt", &self.add_generation_prompt)?;
        map.serialize_entry("tools", tools)?;
        map.serialize_entry("documents", documents)?;
        for (name, value) in variables.iter() {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

struct Messages<'a>(&'a Variables<'a>);

impl Serialize for Messages<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Variables { conversation, turns, others, .. } = self.0;
        serializer.collect_seq(conversation.turns()[..*turns].iter().enumerate().map(|(at, turn)| {
            let content = others.iter().flatten().rfind(|(turn, _)| *turn == at).map(|(_, content)| *content);
            Shown { turn, content }
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
            "chat: the model's chat template does not write this completion as it was sent, so {purpose}; {advice}, or send \
             prompt_completion_ids"
        ),
    )
}
