//! A rollout as a JSON object. [`parse`] makes a [`Rollout`] of it, or says what is wrong and where.
//!
//! | form | fields |
//! |---|---|
//! | conversation | `prompt` (text, or a list of messages, an assistant's also with `"score": true`) and `completion` (text, or a list of messages that ends with the assistant's) |
//! | conversation | `messages`, the last of them the assistant's, which is what is scored |
//! | templated text | `text` |
//! | token ids | `input_ids` |
//! | token ids, apart | `prompt_ids` and `completion_ids` |
//!
//! A message is any object with a `role`; its JSON is kept as it was written. Beside a conversation: `tools` and `documents`
//! (lists), `chat_template_kwargs` (an object), `chat_template` (a name). The first three may also be texts with such JSON. And
//! `reference`: a text or a list of messages that the completion is compared with, of models that do so.
//!
//! Exactly one form per rollout, beside an `id`. Optional: `group`, `finish_reason` (an engine's word for it:
//! [`finish_reason`]), `require_completion`, `answer_only` (`true`, or an object of `open` and `close`), `model_version`
//! (another version than this one rejects it), `weights`, `weighting`, `deadline_ms`, `priority`, `aggregation` (an [`AggregationSpec`]). `null` counts as absent. Unknown fields
//! are refused.

pub use super::error::RolloutError;
pub use super::finish_reason::finish_reason;
pub use super::form::FORMS;
use super::plain::plain;
use super::row::{self, Content, ExtraColumns, Row};
use crate::reward::{Code, Rejection};
use crate::rollout::{AggregationSpec, Rollout};

/// What was found in the JSON of one rollout.
#[derive(Debug, PartialEq)]
pub struct Parsed {
    /// The rollout's id, as far as there is one: an answer can name the rollout even where the rest of it is wrong.
    pub id: Option<String>,
    /// The rollout, or what is wrong with it.
    pub rollout: Result<Rollout, RolloutError>,
}

/// Parses the JSON object of one rollout, which needs an id of its own.
pub fn parse(json: &[u8]) -> Parsed {
    let Row { id, content, .. } = row::parse(json, ExtraColumns::Refuse, None);
    let rollout = content.and_then(|content| match content {
        Content::One(rollout) => Ok(*rollout),
        Content::Pair { .. } => {
            let message = "chosen, rejected: a preference pair, which is two rollouts; only files take pairs";
            Err(RolloutError::Rejected(Rejection::new(Code::Malformed, message)))
        }
    });
    Parsed { id, rollout }
}

/// The JSON of an aggregation alone. The error says what is wrong, without a place: who calls has no text of the user's.
pub fn parse_aggregation(json: &str) -> Result<AggregationSpec, String> {
    serde_json::from_str(json).map_err(|error| plain(&error))
}

#[cfg(test)]
#[path = "rollout_tests.rs"]
mod tests;
