//! Token ids that hold padding: a trainer's batch that was cut into rows with it.
//!
//! Invariant: no padding is scored that can be told from tokens, and no token that a policy may end with is taken for padding.

use crate::engine::{ReadAt, ReadPolicy};
use crate::reward::{Code, Rejection};

/// The ids that are padding, as far as the model says so.
pub(super) struct Padding(Vec<Token>);

struct Token {
    id: u32,
    /// Its text, where the tokenizer names it.
    text: Option<String>,
    /// So many one after the other are padding. One may be a policy's end-of-sequence token, with which many trainers pad.
    least: usize,
    /// Whether the model passes over it at the end of a rollout, or is read there.
    may_end: bool,
}

/// What follows ids within their rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stands {
    /// The completion.
    Before,
    /// Nothing.
    Last,
}

impl Padding {
    /// `named`: what the tokenizer has names for, ids and texts.
    pub fn of(named: &[(u32, String)], reads: &ReadPolicy) -> Self {
        let skipped = [reads.skip, reads.ends_before];
        let mut tokens: Vec<Token> = Vec::new();
        for id in named.iter().map(|(id, _)| *id).chain(skipped.into_iter().flatten()) {
            if tokens.iter().any(|token| token.id == id) {
                continue;
            }
            let text = named.iter().find(|(named, _)| *named == id).map(|(_, text)| text.as_str());
            let ends_step = matches!(reads.at, ReadAt::EveryToken { token, .. } if token == id);
            let is_asked_for = [reads.append, reads.ends_with].contains(&Some(id)) || reads.needs.contains(&id);
            let least = if text.is_some_and(says_padding) && !is_asked_for { 1 } else { 2 };
            let may_end = skipped.contains(&Some(id)) || ends_step;
            tokens.push(Token { id, text: text.map(str::to_owned), least, may_end });
        }
        Self(tokens)
    }

    /// Refuses ids with padding at an end where it would be scored; `field` is for the message.
    pub fn check(&self, field: &str, ids: &[u32], stands: Stands) -> Result<(), Rejection> {
        for token in &self.0 {
            let before = ids.iter().take_while(|id| **id == token.id).count();
            let behind = ids.iter().rev().take_while(|id| **id == token.id).count();
            let may_end = token.may_end && stands == Stands::Last;
            if behind >= token.least && !may_end {
                return Err(token.refused(field, "ends", behind));
            }
            // Where there is nothing else, they are its end.
            if before >= token.least && !(may_end && before == ids.len()) {
                return Err(token.refused(field, "begins", before));
            }
        }
        Ok(())
    }
}

impl Token {
    fn refused(&self, field: &str, side: &str, count: usize) -> Rejection {
        let text = self.text.as_deref().map(|text| format!(", '{text}'")).unwrap_or_default();
        let tokens = if count == 1 { "token" } else { "tokens" };
        let what = format!(
            "{field}: it {side} with {count} padding {tokens} (id {}{text}), and padding is not to be scored; send each row without it, and an end of sequence once: \
             in Python say where it is by attention_mask=, or tokenize with padding=False",
            self.id
        );
        Rejection::new(Code::Padded, what)
    }
}

/// Whether a token can be nothing but padding, by its text: `<pad>`, `[PAD]`, `<|finetune_right_pad_id|>`. A tokenizer may also name its
/// end-of-sequence token, or its unknown one.
pub(in crate::sidecar) fn says_padding(text: &str) -> bool {
    text.to_ascii_lowercase().contains("pad")
}
