//! Conversations for models that compare: a prompt, the completion, and another answer to the same prompt.
//!
//! The invariant: each text has the tokens that the tokenizer makes of it behind its anchor, as `tokenizer.encode(anchor + text)` of
//! transformers has them; no anchor, and nothing that the tokenizer puts around a text, stands within one.

use std::ops::Range;

use tokenizers::Tokenizer;

use super::Text;
use super::conversation::View;
use super::messages::Conversation;
use super::reference::REFERENCE;
use super::tokens::{SeveralTexts, guarded};
use crate::engine::Comparison;
use crate::json::value::Value;
use crate::reward::{Code, Rejection};
use crate::rollout::ASSISTANT;

/// What messages call the texts, in the order of their anchors.
const TEXTS: [&str; 3] = ["the prompt", "the completion", "the reference"];

impl Text {
    /// Token ids of a conversation as three texts: what the template writes of its prompt, its completion, which is one message of
    /// the assistant, and its reference; and which of them are the completion's. Refuses what the published code would cut to fit
    /// into a context of so many tokens.
    pub fn encode_comparison(
        &self,
        conversation: &Conversation,
        comparison: &Comparison,
        context: usize,
    ) -> Result<SeveralTexts, Rejection> {
        let (begin, turns) = (conversation.prompt(), conversation.turns());
        let answers: Vec<_> = turns[begin..].iter().filter(|turn| turn.role() != REFERENCE).collect();
        let answer = match &answers[..] {
            [turn] if turn.role() == ASSISTANT && !turn.says_more() => turn.content(),
            _ => None,
        };
        let answer = answer.ok_or_else(|| {
            bad("this model compares two answers; send a completion that is one message of the assistant, a text")
        })?;
        let reference = reference(conversation)?;
        let prompt = View::of(self, conversation, begin..turns.len()).prompt()?;
        let encode = |at: usize, text: &str, most: usize| self.encode_behind(&comparison.anchors, at, text, most);
        let (mut ids, _) = encode(0, &prompt, context.min(comparison.longest_prompt as usize))?;
        // Both answers have the same room.
        let room = context.saturating_sub(ids.len()) / 2;
        let (first, own) = encode(1, answer, room)?;
        let (second, _) = encode(2, &reference, room)?;
        let completion = ids.len() + own.start..ids.len() + own.end;
        ids.extend(first);
        ids.extend(second);
        Ok((ids, completion))
    }

    /// The ids of one of the texts with its anchor, and which of them are the text's own.
    fn encode_behind(
        &self,
        anchors: &[String; 3],
        at: usize,
        text: &str,
        most: usize,
    ) -> Result<(Vec<u32>, Range<usize>), Rejection> {
        let tokenizer = self.tokenizer()?;
        let encoding = guarded(|| tokenizer.encode(format!("{}{text}", anchors[at]), true))?;
        let (ids, texts) = (encoding.get_ids(), encoding.get_sequence_ids());
        let (inside, around): (Vec<usize>, Vec<usize>) = (0..ids.len()).partition(|at| texts[*at].is_some());
        let around = around.into_iter().map(|at| ids[at]);
        let apart: Vec<u32> = anchors.iter().filter_map(|anchor| tokenizer.token_to_id(anchor)).chain(around).collect();
        // The first one is the anchor.
        let own = inside.first().map_or(0, |first| first + 1)..inside.last().map_or(0, |last| last + 1);
        // The model would take what is behind it for another text.
        if let Some(id) = ids[own.clone()].iter().find(|id| apart.contains(id)) {
            let token = self.token(*id).unwrap_or_default();
            let what =
                format!("{} holds the token '{token}', which tells the model's texts apart; leave it out", TEXTS[at]);
            return Err(bad(&what));
        }
        if ids.len() > most {
            let what = format!(
                "input: {} is {} tokens with those that are put around it, at most {most} of them are read, and nothing is cut where \
                 two answers are compared; shorten it",
                TEXTS[at],
                ids.len()
            );
            return Err(Rejection::new(Code::TooLong, what));
        }
        Ok((ids.to_vec(), own))
    }
}

/// Refuses anchors that are not a token each in a text.
pub(super) fn check(comparison: &Comparison, tokenizer: &Tokenizer) -> Result<(), String> {
    for anchor in &comparison.anchors {
        let encoding =
            tokenizer.encode_fast(anchor.as_str(), false).map_err(|e| format!("the model's tokenizer: {e}"))?;
        let id = tokenizer.token_to_id(anchor);
        if id.is_none_or(|id| encoding.get_ids() != [id]) {
            return Err(format!(
                "compare.anchors has '{anchor}', and the model's tokenizer does not make one token of it"
            ));
        }
    }
    Ok(())
}

/// What the completion is compared with: the contents of the rollout's reference, or of its messages of that role.
fn reference(conversation: &Conversation) -> Result<String, Rejection> {
    let inside = conversation.turns().iter().filter(|turn| turn.role() == REFERENCE);
    let mut contents: Vec<Option<&str>> = inside.map(|turn| turn.content()).collect();
    if let Some(Value::List(messages)) = &conversation.given.reference {
        if !contents.is_empty() {
            return Err(bad(
                "the reference answer is given twice: send the rollout's reference or messages of the role reference",
            ));
        }
        contents = messages.iter().map(content).collect();
    }
    if contents.is_empty() {
        return Err(bad(
            "this model compares with another answer: send it as the rollout's reference, or as a message of the role reference",
        ));
    }
    let texts: Option<Vec<&str>> = contents.into_iter().collect();
    let texts = texts.ok_or_else(|| bad("a message of the reference has no content that is a text"))?;
    Ok(texts.join("\n"))
}

fn content<'a>(message: &'a Value) -> Option<&'a str> {
    if let Value::Object(message) = message { message.get("content")?.as_text() } else { None }
}

fn bad(what: &str) -> Rejection {
    Rejection::new(Code::BadMessages, format!("chat: {what}"))
}
