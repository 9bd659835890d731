//! Conversations and text into token ids, exactly as the model's own library would.
//!
//! The invariant: exactly one beginning-of-sequence token where the tokenizer puts one, whatever the template brought;
//! none is added for a model that was trained without.

use std::ops::Range;
use std::panic::AssertUnwindSafe;

use tokenizers::Tokenizer;

use super::template::Template;
use crate::engine::{Bos, TextAssets};
use crate::reward::{Code, Rejection};
use crate::rollout::{ASSISTANT, Message};

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
            (Some(tokenizer), Bos::AsTokenizer) => specials_around(tokenizer)?,
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

    /// Whether the text begins with the beginning-of-sequence token, put there by the tokenizer or by the template.
    pub fn opens_with_bos(&self, ids: &[u32]) -> bool {
        ids.first().is_some_and(|first| [self.bos, self.named_bos].contains(&Some(*first)))
    }

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
        template.render(messages, add_generation_prompt)
    }

    /// Token ids of a text that carries its template.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, Rejection> {
        let tokenizer = self.tokenizer()?;
        let encoding = guarded(|| tokenizer.encode_fast(text, false))?;
        Ok(self.with_bos(encoding.get_ids().to_vec()))
    }

    /// As [`Self::encode`], with the range of tokens that begin within `part` of the text.
    pub fn encode_part(&self, text: &str, part: Range<usize>) -> Result<(Vec<u32>, Range<usize>), Rejection> {
        let tokenizer = self.tokenizer()?;
        let encoding = guarded(|| tokenizer.encode(text, false))?;
        let ids = self.with_bos(encoding.get_ids().to_vec());
        let added = ids.len() - encoding.len();
        let place = |at: usize| added + encoding.get_offsets().partition_point(|&(begin, _)| begin < at);
        Ok((ids, place(part.start)..place(part.end)))
    }

    /// Puts the tokenizer's last token behind a text that does not end with it: a template's own end counts for
    /// conversations, but a text is taken as the tokenizer takes it.
    pub fn close(&self, ids: &mut Vec<u32>) {
        if let Some(eos) = self.eos
            && ids.last() != Some(&eos)
        {
            ids.push(eos);
        }
    }

    fn with_bos(&self, mut ids: Vec<u32>) -> Vec<u32> {
        if let Some(bos) = self.bos
            && ids.first() != Some(&bos)
        {
            ids.insert(0, bos);
        }
        ids
    }

    fn tokenizer(&self) -> Result<&Tokenizer, Rejection> {
        self.tokenizer.as_ref().ok_or_else(|| {
            Rejection::new(
                Code::UnsupportedInput,
                "text: the model came without a tokenizer; send token_ids or prompt_completion_ids",
            )
        })
    }
}

/// What the tokenizer puts before and behind every text.
fn specials_around(tokenizer: &Tokenizer) -> Result<(Option<u32>, Option<u32>), String> {
    let probe = |specials| tokenizer.encode_fast("a", specials).map_err(|e| format!("the model's tokenizer: {e}"));
    let (with, without) = (probe(true)?, probe(false)?);
    let (with, without) = (with.get_ids(), without.get_ids());
    Ok((
        with.first().copied().filter(|first| without.first() != Some(first)),
        with.last().copied().filter(|last| without.last() != Some(last)),
    ))
}

/// The encoding of a text, whatever happens to the tokenizer: it is made of a file that came with the model, and may have
/// faults that no text has shown yet.
fn guarded<T>(encode: impl FnOnce() -> Result<T, tokenizers::Error>) -> Result<T, Rejection> {
    // Encoding only reads a tokenizer, but for its caches; those are behind locks, and it does without one that a panic has
    // poisoned.
    match std::panic::catch_unwind(AssertUnwindSafe(encode)) {
        Ok(Ok(encoding)) => Ok(encoding),
        Ok(Err(error)) => Err(Rejection::new(Code::Malformed, format!("text: cannot be tokenized: {error}"))),
        Err(_) => Err(Rejection::new(
            Code::TokenizerFailed,
            "text: the model's tokenizer broke on this text; the server's log has the reason. The fault is in the model's \
             tokenizer.json or in the tokenizers library, and the same text fails again: send token_ids or \
             prompt_completion_ids instead",
        )),
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

#[cfg(test)]
#[path = "tokenize_tests.rs"]
mod tests;
