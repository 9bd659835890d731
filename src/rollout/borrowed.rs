//! A rollout as its owner holds it: borrowed, so that whoever sends it copies its tokens once, to where they go.

use std::sync::Arc;

use super::{AggregationSpec, AnswerOnly, Extras, FinishReason, Input, Message, Rollout};
use crate::limits::{MAX_ID_BYTES, MAX_NAME_BYTES};
use crate::reward::{Code, Rejection};

/// Rollouts that somebody owns for as long as they may be asked, and asked again over another connection.
pub trait Rollouts: Send + Sync {
    /// How many.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number `index`, the same each time.
    fn get(&self, index: usize) -> RolloutRef<'_>;
}

/// A [`Rollout`], borrowed.
#[derive(Debug, Clone, Copy)]
pub struct RolloutRef<'a> {
    /// See [`Rollout::id`].
    pub id: &'a str,
    /// See [`Rollout::model`].
    pub model: &'a str,
    /// See [`Rollout::input`].
    pub input: Option<InputRef<'a>>,
    /// See [`Rollout::finish_reason`].
    pub finish_reason: FinishReason,
    /// See [`Rollout::group`].
    pub group: &'a str,
    /// See [`Rollout::priority`].
    pub priority: i32,
    /// See [`Rollout::deadline_ms`].
    pub deadline_ms: Option<u64>,
    /// See [`Rollout::aggregation`].
    pub aggregation: &'a Arc<AggregationSpec>,
    /// See [`Rollout::require_completion`].
    pub require_completion: bool,
    /// See [`Rollout::answer_only`].
    pub answer_only: Option<&'a AnswerOnly>,
    /// See [`Rollout::model_version`].
    pub model_version: &'a str,
    /// See [`Rollout::traceparent`].
    pub traceparent: &'a str,
}

/// An [`Input`], borrowed.
#[derive(Debug, Clone, Copy)]
pub enum InputRef<'a> {
    /// See [`Input::Chat`].
    Chat {
        /// The conversation up to the completion.
        messages: &'a [Message],
        /// What the policy wrote.
        completion: &'a str,
        /// What the conversation has beyond that.
        extras: Option<&'a Extras>,
    },
    /// See [`Input::Text`].
    Text(&'a str),
    /// See [`Input::TokenIds`].
    TokenIds(Ids<'a>),
    /// See [`Input::PromptCompletionIds`].
    PromptCompletionIds {
        /// The prompt's ids.
        prompt: Ids<'a>,
        /// The completion's ids.
        completion: Ids<'a>,
    },
}

/// Token ids in the type in which their owner has them: trainers keep 64-bit ones.
#[derive(Debug, Clone, Copy)]
pub enum Ids<'a> {
    /// Our own.
    U32(&'a [u32]),
    /// Signed; none may be negative.
    I32(&'a [i32]),
    /// PyTorch's and NumPy's default; none may be negative, or above [`u32::MAX`].
    I64(&'a [i64]),
}

/// An id that no vocabulary has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("id {value} at position {position} is no token id (0 to {})", u32::MAX)]
pub struct BadId {
    /// Counted from 0.
    pub position: usize,
    /// What stands there.
    pub value: i64,
}

impl Ids<'_> {
    /// How many.
    pub fn len(&self) -> usize {
        match self {
            Ids::U32(ids) => ids.len(),
            Ids::I32(ids) => ids.len(),
            Ids::I64(ids) => ids.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The first that is none, if any.
    pub fn check(&self) -> Result<(), BadId> {
        let bad = match self {
            Ids::U32(_) => None,
            Ids::I32(ids) => ids.iter().position(|&id| id < 0).map(|at| (at, i64::from(ids[at]))),
            Ids::I64(ids) => ids.iter().position(|&id| u32::try_from(id).is_err()).map(|at| (at, ids[at])),
        };
        bad.map_or(Ok(()), |(position, value)| Err(BadId { position, value }))
    }

    /// A copy in our own type.
    pub fn to_vec(&self) -> Result<Vec<u32>, BadId> {
        self.check()?;
        // Checked: nothing is cut off.
        Ok(match self {
            Ids::U32(ids) => ids.to_vec(),
            Ids::I32(ids) => ids.iter().map(|&id| id as u32).collect(),
            Ids::I64(ids) => ids.iter().map(|&id| id as u32).collect(),
        })
    }
}

impl RolloutRef<'_> {
    /// Whether its names keep to the limits. An empty id is not for this to refuse: on some ways a rollout needs none.
    ///
    /// # Errors
    /// Which name is too long, by how much: `BAD_ID` for the id, `BAD_OPTION` for the group.
    pub fn check_names(&self) -> Result<(), Rejection> {
        let names =
            [("id", self.id, MAX_ID_BYTES, Code::BadId), ("group", self.group, MAX_NAME_BYTES, Code::BadOption)];
        match names.into_iter().find(|(_, name, most, _)| name.len() > *most) {
            None => Ok(()),
            Some((field, name, most, code)) => {
                Err(Rejection::new(code, format!("{field}: {} bytes; at most {most}", name.len())))
            }
        }
    }

    /// Whether all its ids can be token ids.
    pub fn check_ids(&self) -> Result<(), BadId> {
        match &self.input {
            Some(InputRef::TokenIds(ids)) => ids.check(),
            Some(InputRef::PromptCompletionIds { prompt, completion }) => {
                prompt.check().and_then(|()| completion.check())
            }
            _ => Ok(()),
        }
    }

    /// A copy.
    pub fn to_owned(&self) -> Result<Rollout, BadId> {
        let input = match self.input {
            None => None,
            Some(InputRef::Chat { messages, completion, extras }) => Some(Input::Chat {
                messages: messages.to_vec(),
                completion: completion.to_owned(),
                extras: extras.cloned().map(Box::new),
            }),
            Some(InputRef::Text(text)) => Some(Input::Text(text.to_owned())),
            Some(InputRef::TokenIds(ids)) => Some(Input::TokenIds(ids.to_vec()?)),
            Some(InputRef::PromptCompletionIds { prompt, completion }) => {
                Some(Input::PromptCompletionIds { prompt: prompt.to_vec()?, completion: completion.to_vec()? })
            }
        };
        Ok(Rollout {
            id: self.id.to_owned(),
            model: self.model.to_owned(),
            input,
            finish_reason: self.finish_reason,
            group: self.group.to_owned(),
            priority: self.priority,
            deadline_ms: self.deadline_ms,
            aggregation: Arc::clone(self.aggregation),
            require_completion: self.require_completion,
            answer_only: self.answer_only.cloned(),
            model_version: self.model_version.to_owned(),
            traceparent: self.traceparent.to_owned(),
            tracestate: String::new(),
        })
    }
}

impl Rollout {
    /// The same, borrowed.
    pub fn borrowed(&self) -> RolloutRef<'_> {
        let input = self.input.as_ref().map(|input| match input {
            Input::Chat { messages, completion, extras } => {
                InputRef::Chat { messages, completion, extras: extras.as_deref() }
            }
            Input::Text(text) => InputRef::Text(text),
            Input::TokenIds(ids) => InputRef::TokenIds(Ids::U32(ids)),
            Input::PromptCompletionIds { prompt, completion } => {
                InputRef::PromptCompletionIds { prompt: Ids::U32(prompt), completion: Ids::U32(completion) }
            }
        });
        RolloutRef {
            id: &self.id,
            model: &self.model,
            input,
            finish_reason: self.finish_reason,
            group: &self.group,
            priority: self.priority,
            deadline_ms: self.deadline_ms,
            aggregation: &self.aggregation,
            require_completion: self.require_completion,
            answer_only: self.answer_only.as_ref(),
            model_version: &self.model_version,
            traceparent: &self.traceparent,
        }
    }
}

impl Rollouts for Vec<Rollout> {
    fn len(&self) -> usize {
        self.as_slice().len()
    }

    fn get(&self, index: usize) -> RolloutRef<'_> {
        self[index].borrowed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rollout_survives_being_borrowed() {
        let inputs = [
            None,
            Some(Input::Text("t".into())),
            Some(Input::TokenIds(vec![1, u32::MAX])),
            Some(Input::PromptCompletionIds { prompt: vec![1], completion: vec![] }),
            Some(Input::chat([Message::new("user", "u")], "c")),
            Some(Input::Chat {
                messages: vec![Message::json("{}")],
                completion: String::new(),
                extras: Some(Box::new(Extras { completion: vec![Message::json("{}")], ..Extras::default() })),
            }),
        ];
        for input in inputs {
            let rollout = Rollout {
                id: "a".into(),
                model: "m".into(),
                input,
                finish_reason: FinishReason::Length,
                group: "g".into(),
                priority: -3,
                deadline_ms: Some(7),
                aggregation: AggregationSpec { offset: Some(1.0), ..AggregationSpec::default() }.into(),
                require_completion: true,
                answer_only: Some(AnswerOnly { open: "[".into(), close: "]".into(), ..AnswerOnly::default() }),
                model_version: "v".into(),
                traceparent: "tp".into(),
                tracestate: String::new(),
            };
            assert_eq!(vec![rollout.clone()].get(0).to_owned(), Ok(rollout));
        }
    }

    #[test]
    fn what_is_no_token_id_is_named() {
        assert_eq!(Ids::I64(&[0, 1 << 31, (1 << 32) - 1]).to_vec(), Ok(vec![0, 1 << 31, u32::MAX]));
        assert_eq!(Ids::I32(&[0, i32::MAX]).to_vec(), Ok(vec![0, i32::MAX as u32]));
        assert_eq!(Ids::I64(&[5, 1 << 32]).to_vec(), Err(BadId { position: 1, value: 1 << 32 }));
        assert_eq!(Ids::I64(&[-1]).to_vec(), Err(BadId { position: 0, value: -1 }));
        assert_eq!(Ids::I32(&[1, 2, -100]).to_vec(), Err(BadId { position: 2, value: -100 }));
    }
}
