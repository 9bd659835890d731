//! Text into token ids.
//!
//! The invariant: a tokenizer that breaks on one text is that text's rejection and nothing else's.

use std::ops::Range;
use std::panic::AssertUnwindSafe;

use tokenizers::Tokenizer;

use super::Text;
use crate::reward::{Code, Rejection};

/// What a text is, which says what is put around its tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A conversation that the chat template has written.
    Chat,
    /// Text that the caller has sent as such.
    Text,
}

/// Token ids of several texts, one behind the other, and which of them are the completion's.
pub type SeveralTexts = (Vec<u32>, Range<usize>);

impl Text {
    /// Whether the text begins with the beginning-of-sequence token, put there by the tokenizer or by the template.
    pub fn opens_with_bos(&self, ids: &[u32]) -> bool {
        ids.first().is_some_and(|first| {
            [self.text_bos, self.chat_bos, self.tokenizers_bos, self.named_bos].contains(&Some(*first))
        })
    }

    /// Token ids of a text that carries its template.
    pub fn encode(&self, text: &str, form: Form) -> Result<Vec<u32>, Rejection> {
        let tokenizer = self.tokenizer()?;
        let encoding = guarded(|| tokenizer.encode_fast(text, false))?;
        Ok(self.with_bos(encoding.get_ids().to_vec(), form))
    }

    /// As [`Self::encode`], with the bytes of the text at which each token stands; a token that is put before them has none.
    pub fn encode_located(&self, text: &str, form: Form) -> Result<(Vec<u32>, Vec<Range<usize>>), Rejection> {
        let tokenizer = self.tokenizer()?;
        let encoding = guarded(|| tokenizer.encode(text, false))?;
        let ids = self.with_bos(encoding.get_ids().to_vec(), form);
        let added = std::iter::repeat_n(0..0, ids.len() - encoding.len());
        let bytes = added.chain(encoding.get_offsets().iter().map(|&(begin, end)| begin..end)).collect();
        Ok((ids, bytes))
    }

    /// The one token of a mark, if it has one.
    pub fn mark_id(&self, mark: &str) -> Result<Option<u32>, Rejection> {
        Ok(self.tokenizer()?.token_to_id(mark))
    }

    /// Whether an id stands for line ends and nothing else.
    pub fn is_line_end(&self, id: u32) -> bool {
        let text = self.tokenizer.as_ref().and_then(|tokenizer| tokenizer.decode(&[id], false).ok());
        text.is_some_and(|text| !text.is_empty() && text.bytes().all(|byte| byte == b'\n'))
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

    fn with_bos(&self, mut ids: Vec<u32>, form: Form) -> Vec<u32> {
        if let Some(bos) = self.bos(form)
            && ids.first() != Some(&bos)
        {
            ids.insert(0, bos);
        }
        ids
    }

    pub(super) fn tokenizer(&self) -> Result<&Tokenizer, Rejection> {
        self.tokenizer.as_ref().ok_or_else(|| {
            Rejection::new(
                Code::UnsupportedInput,
                "text: the model came without a tokenizer; send token_ids or prompt_completion_ids",
            )
        })
    }
}

/// Which tokens begin within a part of the text in which they stand at these bytes.
pub fn within(bytes: &[Range<usize>], part: &Range<usize>) -> Range<usize> {
    // Tokens that were put before the text's own have no bytes.
    let at = |byte: usize| bytes.partition_point(|token| token.start < byte || token.end == 0);
    at(part.start)..at(part.end)
}

/// The tokens that a tokenizer cuts out of a text before all else, but for white space.
pub(super) fn added(tokenizer: &Tokenizer) -> Vec<String> {
    let added = tokenizer.get_added_tokens_decoder().into_values().map(|token| token.content);
    added.filter(|content| !content.trim().is_empty()).collect()
}

/// What the tokenizer puts before and behind every text.
pub(super) fn specials_around(tokenizer: &Tokenizer) -> Result<(Option<u32>, Option<u32>), String> {
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
pub(super) fn guarded<T>(encode: impl FnOnce() -> Result<T, tokenizers::Error>) -> Result<T, Rejection> {
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
