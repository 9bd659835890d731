//! Conversations of models that read several texts, each of which the tokenizer takes by itself.
//!
//! Invariant: nothing is cut of them.

use super::Rules;
use super::input::Source;
use crate::engine::Texts;
use crate::reward::{Code, Rejection};
use crate::sidecar::tokenize::SeveralTexts;

impl Rules {
    /// The tokens of such a conversation; `None` where the model reads one text, or ids were sent.
    pub(super) fn several(&self, source: &Source) -> Result<Option<SeveralTexts>, Rejection> {
        let what = match (&self.card.text.texts, source) {
            (Texts::One, _) | (_, Source::TokenIds(_) | Source::PromptCompletionIds { .. }) => return Ok(None),
            (Texts::Pair, Source::Chat(conversation)) => return self.text.encode_pair(conversation).map(Some),
            (Texts::Comparison(comparison), Source::Chat(conversation)) => {
                return self.text.encode_comparison(conversation, comparison, self.context()).map(Some);
            }
            (Texts::Pair, Source::Text(_)) => "a pair of texts, a question and its answer; send chat",
            (Texts::Comparison(_), Source::Text(_)) => {
                "three texts, a prompt and two answers to it; send chat with a reference"
            }
        };
        let what = format!("text: this model reads {what}, or token ids of all as its tokenizer puts them together");
        Err(Rejection::new(Code::UnsupportedInput, what))
    }

    /// Why nothing is cut of a rollout that is too long; `None` where the model reads one text.
    pub(super) fn cut_of_none(&self) -> Option<&'static str> {
        match self.card.text.texts {
            Texts::One => None,
            Texts::Pair => Some("nothing is cut of a pair of texts; shorten it"),
            Texts::Comparison(_) => Some("nothing is cut where two answers are compared; shorten it"),
        }
    }
}
