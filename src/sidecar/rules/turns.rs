//! The turns of a conversation that are scored for themselves: which they are, and the tokens of each.
//!
//! Invariant: each turn has the tokens of a rollout that ends with it.

use std::sync::Arc;

use super::Rules;
use super::input::{Source, Tokens};
use crate::engine::ReadAt;
use crate::limits;
use crate::reward::{Code, Rejection};
use crate::rollout::{ASSISTANT, Turn};
use crate::sidecar::reading;
use crate::sidecar::tokenize::{Conversation, Form, Locate};

impl Rules {
    /// Indices of the messages that are to be scored.
    pub(super) fn scored_turns(&self, source: &Source) -> Result<Vec<usize>, Rejection> {
        let Source::Chat(conversation) = source else { return Ok(Vec::new()) };
        let turns = conversation.turns();
        // The last one is read in any case.
        let scored: Vec<usize> = (0..turns.len() - 1).filter(|&i| turns[i].score).collect();
        for &i in &scored {
            let bad =
                |why: &str| Err(Rejection::new(Code::BadMessages, format!("{}.score: {why}", conversation.field(i))));
            match turns[i].role() {
                role if role != ASSISTANT => {
                    return bad(&format!("only messages of the role '{ASSISTANT}' can be scored, not of '{role}'"));
                }
                _ if i == 0 => return bad("there is no message before it that it answers"),
                _ if self.card.reads.at != ReadAt::LastToken => {
                    return bad("the model reads at the end of every step, and turns are not scored for themselves");
                }
                _ => {}
            }
        }
        Ok(scored)
    }

    /// Each scored turn with all before it, as if it were the completion of a rollout of its own.
    pub(super) fn turns(
        &self,
        conversation: &Conversation,
        scored: &[usize],
        own_tokens: usize,
        locate: Locate,
    ) -> Result<Arc<[Turn]>, Rejection> {
        let (mut tokens_in_all, mut bytes_in_all) = (own_tokens, 0);
        let mut turns = Vec::with_capacity(scored.len());
        for &i in scored {
            let field = conversation.field(i);
            // A turn within the completion ends what the policy has written up to there.
            let rendered = self.text.render(conversation, i.min(conversation.prompt())..i + 1, locate)?;
            bytes_in_all += rendered.text.len();
            let tokens = self.encode(&rendered.text, Form::Chat, rendered.completion.as_deref())?;
            let completion_tokens = tokens.completion_tokens().map(|n| n as u32);
            let Tokens { mut ids, .. } = tokens;
            reading::complete(&self.card.reads, true, &mut ids);
            reading::check_end(&self.card.reads, &field, true, &ids)?;
            reading::find(&self.card.reads, &field, &ids)?;
            tokens_in_all += ids.len();
            let too_long = |what: String| Err(Rejection::new(Code::TooLong, format!("{field}: {what}")));
            if ids.len() > self.context() {
                return too_long(format!(
                    "{} tokens up to its end, the model's context is {}",
                    ids.len(),
                    self.context()
                ));
            }
            if tokens_in_all > limits::MAX_ROLLOUT_TOKENS || bytes_in_all > limits::MAX_TURNS_BYTES {
                return too_long(format!(
                    "the scored turns, each with all before it, are more than {} tokens or {} bytes up to here; score fewer",
                    limits::MAX_ROLLOUT_TOKENS,
                    limits::MAX_TURNS_BYTES
                ));
            }
            turns.push(Turn { tokens: ids, completion_tokens });
        }
        Ok(turns.into())
    }
}
