//! Conversations for models that read a pair of texts: a question and its answer.
//!
//! The invariant: the pair has the tokens that the tokenizer's own post-processor makes of it, as `tokenizer(question, answer)` of
//! transformers has them.

use super::Text;
use super::conversation::View;
use super::messages::Conversation;
use super::tokens::{SeveralTexts, guarded};
use crate::reward::{Code, Rejection};
use crate::rollout::ASSISTANT;

impl Text {
    /// Token ids of a conversation as a pair: what the template writes of its prompt, and its completion, which is one message of
    /// the assistant; and which of them are the completion's.
    pub fn encode_pair(&self, conversation: &Conversation) -> Result<SeveralTexts, Rejection> {
        let bad = |what: &str| Rejection::new(Code::BadMessages, format!("chat: {what}"));
        let (prompt, turns) = (conversation.prompt(), conversation.turns());
        let answer = match &turns[prompt..] {
            [turn] if turn.role() == ASSISTANT && !turn.says_more() => turn.content(),
            _ => None,
        };
        let answer = answer.ok_or_else(|| {
            bad("this model reads a question and an answer; send a completion that is one message of the assistant, a text")
        })?;
        let question = View::of(self, conversation, prompt..turns.len()).prompt()?;
        let tokenizer = self.tokenizer()?;
        // transformers takes a second text that is empty for none.
        let encoding = guarded(|| match answer {
            "" => tokenizer.encode(question.as_str(), true),
            answer => tokenizer.encode((question.as_str(), answer), true),
        })?;
        let (ids, texts) = (encoding.get_ids(), encoding.get_sequence_ids());
        let within = |text: usize| {
            let own: Vec<usize> = (0..ids.len()).filter(|at| texts[*at] == Some(text)).collect();
            own.first().map_or(ids.len()..ids.len(), |first| *first..own[own.len() - 1] + 1)
        };
        let between: Vec<u32> = ids.iter().zip(&texts).filter(|(_, text)| text.is_none()).map(|(id, _)| *id).collect();
        // The model would take the rest of the question for the answer.
        if let Some(id) = ids[within(0)].iter().find(|id| between.contains(id)) {
            let token = self.token(*id).unwrap_or_default();
            return Err(bad(&format!(
                "the prompt holds the token '{token}', which the model's tokenizer puts between texts; leave it out"
            )));
        }
        Ok((ids.to_vec(), within(1)))
    }
}
