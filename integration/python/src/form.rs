//! What is scored of some rollouts, in one of the four forms.
//!
//! Invariant: what is lent of it needs no interpreter.

use std::sync::Arc;

use reward_sidecar::rollout::{InputRef, Message};

use crate::chat::Completions;
use crate::ids::IdRows;

/// See `reward_sidecar::rollout::Input`.
pub enum Form {
    Chat { prompts: Vec<Arc<[Message]>>, completions: Completions },
    Texts(Vec<String>),
    Ids(IdRows),
    Pairs { prompts: IdRows, completions: IdRows },
}

impl Form {
    /// Number of rows.
    pub fn len(&self) -> usize {
        match self {
            Self::Chat { completions, .. } => completions.texts.len(),
            Self::Texts(texts) => texts.len(),
            Self::Ids(ids) => ids.len(),
            Self::Pairs { completions, .. } => completions.len(),
        }
    }

    /// Whether it is token ids, which are of some tokenizer.
    pub fn has_ids(&self) -> bool {
        matches!(self, Self::Ids(_) | Self::Pairs { .. })
    }

    /// One row.
    pub fn get(&self, row: usize) -> InputRef<'_> {
        match self {
            Self::Chat { prompts, completions } => InputRef::Chat {
                messages: &prompts[row],
                completion: &completions.texts[row],
                extras: completions.extras.get(row),
            },
            Self::Texts(texts) => InputRef::Text(&texts[row]),
            Self::Ids(ids) => InputRef::TokenIds(ids.get(row)),
            Self::Pairs { prompts, completions } => {
                InputRef::PromptCompletionIds { prompt: prompts.get(row), completion: completions.get(row) }
            }
        }
    }
}
