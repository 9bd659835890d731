//! A rollout's input into token ids: its JSON read, its conversation put into the template, its text tokenized, its ids checked.
//!
//! Invariant: every id is one of the model's vocabulary, and a completion's place lies within the ids.

use std::ops::Range;

use super::origin::Origin;
use super::padding::Stands;
use super::{Rules, SHORTEN};
use crate::engine::ReadAt;
use crate::limits;
use crate::reward::{Code, ReadEnd, Rejection, Thinking};
use crate::rollout::{AnswerOnly, Input, Reads, Rollout};
use crate::sidecar::OverLong;
use crate::sidecar::answer;
use crate::sidecar::reading::{self, Found};
use crate::sidecar::tokenize::{Conversation, Form, Locate, Place, Text, bytes_of, within};

/// Tokens, and what is known of them.
pub(super) struct Tokens {
    pub ids: Vec<u32>,
    /// Which of them are the completion's: a range for each of its messages. `None` where nobody asked, or where the input
    /// form does not tell.
    pub completion: Option<Vec<Range<usize>>>,
    /// Where each step ends in what the caller sent.
    pub ends: Vec<Option<ReadEnd>>,
    origin: Origin,
}

impl Tokens {
    fn of(ids: Vec<u32>) -> Self {
        Self { ids, completion: None, ends: Vec::new(), origin: Origin::Unknown }
    }

    /// How many are the completion's.
    pub fn completion_tokens(&self) -> Option<usize> {
        self.completion.as_ref().map(|parts| parts.iter().map(Range::len).sum())
    }
}

/// An input whose JSON has been read.
pub(super) enum Source<'a> {
    Chat(Conversation<'a>),
    Text(&'a str),
    TokenIds(&'a mut Vec<u32>),
    PromptCompletionIds { prompt: &'a mut Vec<u32>, completion: &'a mut Vec<u32> },
}

impl<'a> Source<'a> {
    pub(super) fn of(input: &'a mut Input) -> Result<Self, Rejection> {
        Ok(match input {
            Input::Chat { messages, completion, extras } => {
                Self::Chat(Conversation::of(messages, completion, extras.as_deref())?)
            }
            Input::Text(text) => Self::Text(text),
            Input::TokenIds(ids) => Self::TokenIds(ids),
            Input::PromptCompletionIds { prompt, completion } => Self::PromptCompletionIds { prompt, completion },
        })
    }

    /// Takes a completion's thinking out, and says what it was. `otherwise` is what else a caller can do whose input does not allow
    /// it.
    pub(super) fn take_thinking(
        &mut self,
        text: &Text,
        wished: &AnswerOnly,
        otherwise: &str,
    ) -> Result<Thinking, Rejection> {
        let bad = |what: &str| Err(Rejection::new(Code::BadOption, format!("answer_only: {what}{otherwise}")));
        let conversation = if let Self::Chat(conversation) = &*self { Some(conversation) } else { None };
        let (open, close) = text.marks(wished, conversation);
        if open.is_empty() || close.is_empty() {
            return bad("one mark is given without the other; give both, or none for the model's own");
        }
        match self {
            Self::Chat(conversation) => Ok(conversation.take_thinking((open, close))),
            Self::PromptCompletionIds { completion, .. } => {
                let (Some(open), Some(close)) = (text.mark_id(open)?, text.mark_id(close)?) else {
                    return bad(&format!(
                        "'{open}' and '{close}' are no single tokens of the model, so that ids do not show them; send the \
                         conversation as chat, or other marks"
                    ));
                };
                let parts = answer::thinking(completion, &[open], &[close], |id| text.is_line_end(*id));
                **completion = parts.answer(completion);
                let taken = parts.taken.iter().map(|part| part.start as u32..part.end as u32).collect();
                Ok(Thinking { taken, unclosed: parts.unclosed })
            }
            Self::Text(_) | Self::TokenIds(_) => {
                bad("this form does not tell the completion; send chat or prompt and completion ids")
            }
        }
    }

    /// Refuses an input without a completion, as far as that shows before there are tokens.
    pub(super) fn check_completion(&self) -> Result<(), Rejection> {
        match self {
            Self::Chat(conversation) if conversation.says_nothing() => Err(no_completion()),
            Self::PromptCompletionIds { completion, .. } if completion.is_empty() => Err(no_completion()),
            Self::Chat(_) | Self::PromptCompletionIds { .. } => Ok(()),
            Self::Text(_) | Self::TokenIds(_) => {
                let what = "require_completion: this form does not tell the completion; send chat or prompt and completion ids";
                Err(Rejection::new(Code::BadOption, what))
            }
        }
    }
}

/// What is taken out of a completion whose thinking is to be scored as well: nothing, and there is nothing to say of it.
pub(super) fn nothing_taken(wish: &AnswerOnly) -> Result<Option<Thinking>, Rejection> {
    if wish.open.is_empty() && wish.close.is_empty() {
        return Ok(None);
    }
    Err(Rejection::new(Code::BadOption, "answer_only: it is off, but has marks; leave out one or the other"))
}

/// For a rollout that must have a completion.
pub(super) fn no_completion() -> Rejection {
    let what = "completion: it has no token, and require_completion is set; leave the rollout out, or ask for it again";
    Rejection::new(Code::EmptyCompletion, what)
}

impl Rules {
    /// The input's tokens, complete as the model wants them, and where they are read. Ids are taken out of it.
    pub(super) fn read(&self, source: &mut Source, locate: Locate) -> Result<(Tokens, Found), Rejection> {
        let text = matches!(source, Source::Chat(_) | Source::Text(_));
        let mut tokens = self.tokens(source, locate)?;
        if tokens.ids.is_empty() {
            return Err(Rejection::new(Code::Empty, "input: there is no token to score"));
        }
        reading::complete(&self.card.reads, text, &mut tokens.ids);
        reading::check_end(&self.card.reads, "input", text, &tokens.ids)?;
        let end = tokens.ids.len();
        for part in tokens.completion.iter_mut().flatten() {
            *part = part.start.min(end)..part.end.min(end);
        }
        let found = reading::find(&self.card.reads, "input", &tokens.ids)?;
        if let Reads::Steps { ends, .. } = &found.reads {
            tokens.ends = tokens.origin.ends(ends);
        }
        Ok((tokens, found))
    }

    /// Finding the completion in a conversation costs a little; `locate` says what of it is wanted.
    fn tokens(&self, source: &mut Source, locate: Locate) -> Result<Tokens, Rejection> {
        if let Some((ids, completion)) = self.several(source)? {
            self.check_ids("the texts' tokens", &ids)?;
            let completion = (locate != Locate::Nothing).then(|| vec![completion]);
            return Ok(Tokens { completion, ..Tokens::of(ids) });
        }
        match source {
            Source::Chat(conversation) => {
                self.check_prompt(conversation)?;
                let completion = conversation.prompt()..conversation.turns().len();
                let steps = self.reads_steps() && completion.len() == 1;
                let asked = if steps && locate == Locate::Nothing { Locate::Whole } else { locate };
                let rendered = match self.text.render(conversation, completion.clone(), asked) {
                    // Nobody has asked for more than where steps end.
                    Err(_) if asked != locate => self.text.render(conversation, completion.clone(), locate)?,
                    rendered => rendered?,
                };
                let mut tokens = self.encode(&rendered.text, Form::Chat, rendered.completion.as_deref())?;
                if steps
                    && let (Some([place]), Origin::Written(bytes)) =
                        (rendered.completion.as_deref(), &mut tokens.origin)
                {
                    let completion = self.text.ending(conversation, completion.end).unwrap_or_default().to_owned();
                    tokens.origin = Origin::Chat { bytes: std::mem::take(bytes), place: place.clone(), completion };
                }
                if locate == Locate::Nothing {
                    tokens.completion = None;
                }
                Ok(tokens)
            }
            Source::Text(text) => {
                check_bytes("text", text.len())?;
                let places = self.reads_steps().then_some(&[][..]);
                let mut tokens = self.encode(text, Form::Text, places)?;
                if let Origin::Written(bytes) = &mut tokens.origin {
                    tokens.origin = Origin::Text { bytes: std::mem::take(bytes), text: (*text).to_owned() };
                }
                tokens.completion = None;
                self.text.close(&mut tokens.ids);
                Ok(tokens)
            }
            Source::TokenIds(ids) => {
                self.check_ids("token_ids.ids", ids)?;
                self.padding.check("token_ids.ids", ids, Stands::Last)?;
                let ids = std::mem::take(*ids);
                Ok(Tokens { origin: Origin::Ids(0..ids.len()), ..Tokens::of(ids) })
            }
            Source::PromptCompletionIds { prompt, completion } => {
                self.check_ids("prompt_completion_ids.prompt", prompt)?;
                self.check_ids("prompt_completion_ids.completion", completion)?;
                self.padding.check("prompt_completion_ids.prompt", prompt, Stands::Before)?;
                self.padding.check("prompt_completion_ids.completion", completion, Stands::Last)?;
                let (start, mut ids) = (prompt.len(), std::mem::take(*prompt));
                ids.append(completion);
                let whole = start..ids.len();
                Ok(Tokens { completion: Some(vec![whole.clone()]), origin: Origin::Ids(whole), ..Tokens::of(ids) })
            }
        }
    }

    /// Refuses a prompt that was put into the chat template before it was sent: as a user's words it would be put there
    /// again.
    fn check_prompt(&self, conversation: &Conversation) -> Result<(), Rejection> {
        if self.text.carries_template(conversation) {
            return Err(Rejection::new(
                Code::BadMessages,
                "chat.messages: the prompt carries the chat template already, and would be put into it again; send \
                 prompt and completion together as text, or the messages that the prompt was made of",
            ));
        }
        Ok(())
    }

    fn reads_steps(&self) -> bool {
        matches!(self.card.reads.at, ReadAt::EveryToken { .. })
    }

    /// The tokens of a text; with places, where they stand in it, and which of them begin within each place.
    pub(super) fn encode(&self, text: &str, form: Form, places: Option<&[Place]>) -> Result<Tokens, Rejection> {
        let text = reading::stripped(&self.card.reads, text);
        // What is cut has to be tokenized first: only where nothing is can a text be refused by its length.
        if self.over_long == OverLong::Reject
            && let Some(bound) = &self.text_bound
            && bound.exceeds(text, self.context())
        {
            let what = format!(
                "input: {} bytes of text cannot fit into the model's context of {} tokens, which stand for {} bytes each at most; \
                 {SHORTEN}",
                text.len(),
                self.context(),
                bound.bytes_per_token
            );
            return Err(Rejection::new(Code::TooLong, what));
        }
        let tokens = match places {
            Some(places) => {
                let (ids, bytes) = self.text.encode_located(text, form)?;
                let completion = Some(places.iter().map(|place| within(&bytes, &place.bytes)).collect());
                Tokens { completion, origin: Origin::Written(bytes), ..Tokens::of(ids) }
            }
            None => Tokens::of(self.text.encode(text, form)?),
        };
        // A tokenizer may know more tokens than the model has embeddings for; the engine must not see those.
        self.check_ids("the text's tokens", &tokens.ids)?;
        Ok(tokens)
    }

    fn check_ids(&self, field: &str, ids: &[u32]) -> Result<(), Rejection> {
        if ids.len() > limits::MAX_ROLLOUT_TOKENS {
            let (n, most) = (ids.len(), limits::MAX_ROLLOUT_TOKENS);
            let what = if self.over_long == OverLong::Reject && self.context() <= most {
                format!("{field}: {n} token ids, the model's context is {}; {SHORTEN}", self.context())
            } else {
                format!("{field}: {n} token ids; at most {most}, even where the rest would be cut; shorten it")
            };
            return Err(Rejection::new(Code::TooLong, what));
        }
        let size = self.card.vocabulary_size;
        // Which one it is matters only where there is one: the highest is found many at a time.
        if ids.iter().fold(0, |highest, &id| highest.max(id)) < size {
            return Ok(());
        }
        match ids.iter().position(|&id| id >= size) {
            None => Ok(()),
            Some(at) => Err(Rejection::new(
                Code::TokenOutOfRange,
                format!("{field}[{at}]: token id {} is outside the model's vocabulary of {size}", ids[at]),
            )),
        }
    }
}

/// Bytes of the text that has to become tokens.
pub(in crate::sidecar) fn text_bytes(rollout: &Rollout) -> usize {
    match &rollout.input {
        Some(Input::Chat { messages, completion, extras }) => bytes_of(messages, completion, extras.as_deref()),
        Some(Input::Text(text)) => text.len(),
        Some(Input::TokenIds(_) | Input::PromptCompletionIds { .. }) | None => 0,
    }
}

fn check_bytes(field: &str, bytes: usize) -> Result<(), Rejection> {
    if bytes <= limits::MAX_TEXT_BYTES {
        return Ok(());
    }
    let what = format!("{field}: {bytes} bytes of text; at most {}", limits::MAX_TEXT_BYTES);
    Err(Rejection::new(Code::TooLong, what))
}
