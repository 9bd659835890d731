//! A conversation out of what a caller claims: its JSON read, its messages as transformers hands them to a template.
//!
//! Invariant: every message has a role that is a text and no part that is an image, audio or video; the completion is an
//! assistant's.

use std::borrow::Cow;

use serde::ser::{Serialize, SerializeMap as _, Serializer};

use super::claimed::{list, medium, object};
use super::marks::Marks;
use super::reference::{self, REFERENCE};
use crate::json::value::{Object, Value};
use crate::limits::{MAX_MESSAGES, MAX_TEXT_BYTES};
use crate::reward::{Code, Rejection, Thinking};
use crate::rollout::{ASSISTANT, Extras, Message};
use crate::sidecar::answer;
use crate::sidecar::template::COMPLETION;

/// A conversation that can be put into a template.
pub struct Conversation<'a> {
    /// All messages, those of the completion last.
    turns: Vec<Turn<'a>>,
    /// How many of them are the prompt's; at least one.
    prompt: usize,
    /// What the template is given beside them.
    pub(super) given: Given<'a>,
}

/// What a template is given beside messages.
#[derive(Default)]
pub(super) struct Given<'a> {
    pub tools: Option<Value<'a>>,
    pub documents: Option<Value<'a>>,
    /// The messages of an answer that the completion is compared with; at least one.
    pub reference: Option<Value<'a>>,
    pub variables: Object<'a>,
    /// Name of the template; empty where none was named.
    pub template: &'a str,
}

/// One message.
pub struct Turn<'a> {
    fields: Fields<'a>,
    /// Whether it is scored for itself, too.
    pub score: bool,
}

enum Fields<'a> {
    Plain {
        role: &'a str,
        content: Cow<'a, str>,
    },
    /// Without what is null, and its reasoning under all names.
    Json(Object<'a>),
}

/// Variables of a template that have arguments of their own, and arguments of transformers that are no variables.
const NOT_FREE: [&str; 6] =
    ["messages", "tools", "documents", "add_generation_prompt", "chat_template", "continue_final_message"];

/// Names under which a message's reasoning comes, as `_REASONING_FIELDS` of transformers 5.23 has them.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// Bytes of all texts of a conversation.
pub fn bytes_of(messages: &[Message], completion: &str, extras: Option<&Extras>) -> usize {
    let of_message =
        |message: &Message| message.role.len() + message.content.len() + message.json.as_ref().map_or(0, String::len);
    let of_extras = |extras: &Extras| {
        let Extras { completion, tools, documents, template_variables, reference, template } = extras;
        let texts = [tools, documents, template_variables, reference].into_iter().flatten().map(|text| text.len());
        completion.iter().map(of_message).sum::<usize>() + texts.sum::<usize>() + template.len()
    };
    messages.iter().map(of_message).sum::<usize>() + completion.len() + extras.map_or(0, of_extras)
}

impl<'a> Conversation<'a> {
    /// Reads what a caller claims.
    ///
    /// # Errors
    ///
    /// What is wrong, by code and field.
    pub fn of(messages: &'a [Message], completion: &'a str, extras: Option<&'a Extras>) -> Result<Self, Rejection> {
        let answer = extras.map_or(&[][..], |extras| &extras.completion);
        let number = messages.len() + answer.len();
        if number > MAX_MESSAGES {
            let what = format!("chat.messages: {number} messages; at most {MAX_MESSAGES}");
            return Err(Rejection::new(Code::TooLong, what));
        }
        let bytes = bytes_of(messages, completion, extras);
        if bytes > MAX_TEXT_BYTES {
            let what = format!("chat: {bytes} bytes of text; at most {MAX_TEXT_BYTES}");
            return Err(Rejection::new(Code::TooLong, what));
        }
        if messages.is_empty() {
            return Err(Rejection::new(Code::BadMessages, "chat.messages: there is no message before the completion"));
        }
        let mut turns = Vec::with_capacity(number + 1);
        for (i, message) in messages.iter().enumerate() {
            turns.push(Turn::of(message, || format!("chat.messages[{i}]"))?);
        }
        for (i, message) in answer.iter().enumerate() {
            turns.push(Turn::of(message, || format!("chat.completion_messages[{i}]"))?);
        }
        if answer.is_empty() {
            turns.push(Turn { fields: Fields::Plain { role: ASSISTANT, content: completion.into() }, score: false });
        } else if !completion.is_empty() {
            let what = "chat.completion: given as text and as completion_messages; give one of both";
            return Err(Rejection::new(Code::Malformed, what));
        }
        let last = turns.last().map_or(ASSISTANT, Turn::role);
        if last != ASSISTANT {
            let what = format!(
                "chat.completion_messages: the last message is of the role '{last}'; it must be the {ASSISTANT}'s, at whose \
                 end the completion is read"
            );
            return Err(Rejection::new(Code::BadMessages, what));
        }
        Ok(Self { turns, prompt: messages.len(), given: extras.map_or(Ok(Given::default()), Given::of)? })
    }

    /// All messages, those of the completion last.
    pub fn turns(&self) -> &[Turn<'a>] {
        &self.turns
    }

    /// How many messages are the prompt's.
    pub fn prompt(&self) -> usize {
        self.prompt
    }

    /// Whether it is compared with a reference.
    pub fn has_reference(&self) -> bool {
        self.given.reference.is_some()
    }

    /// What a user says, where that is all of the prompt, but for a system message.
    pub fn only_question(&self) -> Option<&str> {
        match &self.turns[..self.prompt] {
            [turn] if turn.role() == "user" => turn.content(),
            [first, turn] if first.role() == "system" && turn.role() == "user" => turn.content(),
            _ => None,
        }
    }

    /// Whether the completion is without a word.
    pub fn says_nothing(&self) -> bool {
        self.turns[self.prompt..].iter().all(|turn| turn.content().is_none_or(str::is_empty) && !turn.says_more())
    }

    /// Takes the thinking out of the completion: what stands between these marks in the content of each of the assistant's
    /// messages, and the reasoning beside it. Says what was taken, in characters of all those contents.
    pub fn take_thinking(&mut self, (open, close): Marks) -> Thinking {
        let (mut thinking, mut before) = (Thinking::default(), 0);
        for turn in self.turns[self.prompt..].iter_mut().filter(|turn| turn.role() == ASSISTANT) {
            if let Fields::Json(object) = &mut turn.fields {
                REASONING.into_iter().for_each(|name| drop(object.remove(name)));
            }
            let Some(content) = turn.content() else { continue };
            let parts = answer::thinking(content.as_bytes(), open.as_bytes(), close.as_bytes(), |byte| *byte == b'\n');
            let characters = |byte: usize| before + content[..byte].chars().count() as u32;
            thinking.taken.extend(parts.taken.iter().map(|part| characters(part.start)..characters(part.end)));
            thinking.unclosed |= parts.unclosed;
            before = characters(content.len());
            if !parts.taken.is_empty() {
                let answer = parts.answer_of(content);
                turn.set_content(answer);
            }
        }
        thinking
    }

    /// The field in which a message came.
    pub fn field(&self, turn: usize) -> String {
        match turn.checked_sub(self.prompt) {
            None => format!("chat.messages[{turn}]"),
            Some(of_completion) => format!("chat.completion_messages[{of_completion}]"),
        }
    }
}

impl<'a> Given<'a> {
    fn of(extras: &'a Extras) -> Result<Self, Rejection> {
        let mut given = Self { template: &extras.template, ..Self::default() };
        if let Some(tools) = &extras.tools {
            given.tools = Some(list(tools, "chat.tools")?);
        }
        if let Some(documents) = &extras.documents {
            let documents = list(documents, "chat.documents")?;
            if let Value::List(items) = &documents
                && let Some(at) = items.iter().position(|item| !matches!(item, Value::Object(_)))
            {
                let what = format!("chat.documents[{at}]: {}; a document is an object", items[at].kind());
                return Err(Rejection::new(Code::Malformed, what));
            }
            given.documents = Some(documents);
        }
        if let Some(variables) = &extras.template_variables {
            given.variables = object(variables, "chat.template_variables")?;
            if let Some((name, _)) = given.variables.iter().find(|(name, _)| NOT_FREE.contains(name)) {
                let what = format!("chat.template_variables: {name} is no free name; send it in the field of its own");
                return Err(Rejection::new(Code::BadOption, what));
            }
        }
        if let Some(json) = &extras.reference {
            given.reference = Some(reference::messages(json)?);
            if given.variables.get(REFERENCE).is_some() {
                let what = "reference: given beside a variable of the template of this name; give one of both";
                return Err(Rejection::new(Code::BadOption, what));
            }
        }
        Ok(given)
    }
}

impl<'a> Turn<'a> {
    fn of(message: &'a Message, field: impl Fn() -> String) -> Result<Self, Rejection> {
        let Message { role, content, score, json } = message;
        let Some(json) = json else {
            return Ok(Self { fields: Fields::Plain { role, content: content.into() }, score: *score });
        };
        if !(role.is_empty() && content.is_empty()) {
            let what = format!("{}: role and content given beside the JSON of the message; give one of both", field());
            return Err(Rejection::new(Code::Malformed, what));
        }
        let mut object = object(json, &field())?;
        let bad = |what: String| Err(Rejection::new(Code::BadMessages, format!("{}{what}", field())));
        let own_score = match object.remove("score") {
            None | Some(Value::Null) => false,
            Some(Value::Bool(score)) => score,
            Some(other) => return bad(format!(".score: {}; it says whether the message is scored", other.kind())),
        };
        object.drop_nulls();
        match object.get("role") {
            Some(Value::Text(_)) => {}
            None => return bad(": there is no role; every message needs one".into()),
            Some(other) => return bad(format!(".role: {}; it must be a text", other.kind())),
        }
        if let Some((part, kind)) = object.get("content").and_then(medium) {
            return bad(format!(".content[{part}]: a part of the type '{kind}'; the model reads text alone"));
        }
        alias_reasoning(&mut object);
        Ok(Self { fields: Fields::Json(object), score: *score || own_score })
    }

    /// Who speaks.
    pub fn role(&self) -> &str {
        match &self.fields {
            Fields::Plain { role, .. } => role,
            Fields::Json(object) => object.get("role").and_then(Value::as_text).unwrap_or_default(),
        }
    }

    /// What is said, where that is one text.
    pub(super) fn content(&self) -> Option<&str> {
        match &self.fields {
            Fields::Plain { content, .. } => Some(content),
            Fields::Json(object) => object.get("content")?.as_text(),
        }
    }

    fn set_content(&mut self, text: String) {
        match &mut self.fields {
            Fields::Plain { content, .. } => *content = text.into(),
            Fields::Json(object) => object.insert("content", Value::Text(text.into())),
        }
    }

    /// Whether a message says anything beside its content, such as reasoning or calls of tools.
    pub(super) fn says_more(&self) -> bool {
        const HEAD: [&str; 3] = ["role", "name", "content"];
        matches!(&self.fields, Fields::Json(object) if object.iter().any(|(name, _)| !HEAD.contains(&name)))
    }
}

/// As `_alias_reasoning_fields` of transformers 5.23: reasoning under any of its names is there as `thinking`, in front, and as
/// `reasoning_content`, in its place or last.
fn alias_reasoning(object: &mut Object) {
    if let Some(reasoning) = REASONING.iter().find_map(|name| object.get(name)).cloned() {
        let thinking = object.remove("thinking").unwrap_or_else(|| reasoning.clone());
        object.insert_first("thinking", thinking);
        object.insert("reasoning_content", reasoning);
    }
}

/// A message as a template is to see it, perhaps with another content.
pub(super) struct Shown<'a> {
    pub turn: &'a Turn<'a>,
    pub content: Option<&'a str>,
    /// Whether what it says, but for who says it, is marked as the completion's.
    pub marked: bool,
}

/// A value, marked or not.
struct Said<'a, T>(&'a T, bool);

impl<T: Serialize> Serialize for Said<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.1 { serializer.serialize_newtype_struct(COMPLETION, self.0) } else { self.0.serialize(serializer) }
    }
}

impl Serialize for Shown<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        match &self.turn.fields {
            Fields::Plain { role, content } => {
                map.serialize_entry("role", role)?;
                map.serialize_entry("content", &Said(&self.content.unwrap_or(content.as_ref()), self.marked))?;
            }
            Fields::Json(object) => {
                for (name, value) in object.iter() {
                    let marked = self.marked && name != "role" && name != "name";
                    match self.content.filter(|_| name == "content") {
                        Some(content) => map.serialize_entry(name, &Said(&content, marked))?,
                        None => map.serialize_entry(name, &Said(&value, marked))?,
                    }
                }
            }
        }
        map.end()
    }
}
