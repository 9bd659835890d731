//! The inputs of rollouts as they are read: texts are bytes yet.
//!
//! Invariant: nothing is allocated by a number that the record itself does not bear out.

use super::chat::{self, RawChat};
use super::length;
use crate::limits::MAX_MESSAGES;
use crate::shm::Broken;
use crate::shm::ring::Record;

pub(super) const NONE: u8 = 0;
pub(super) const TEXT: u8 = 1;
pub(super) const IDS: u8 = 2;
pub(super) const PROMPT_COMPLETION: u8 = 3;
pub(super) const CHAT: u8 = 4;
pub(super) const CHAT_WITH_JSON: u8 = 5;

/// An input whose texts are bytes yet.
pub(super) enum Raw {
    None,
    Text(Vec<u8>),
    Ids(Vec<u32>),
    PromptCompletion(Vec<u32>, Vec<u32>),
    Chat(Vec<(Vec<u8>, Vec<u8>, bool)>, Vec<u8>),
    ChatWithJson(RawChat),
    Unknown,
}

impl Raw {
    /// Reads an input of this form. One of an unknown form is passed over.
    pub(super) fn read(record: &mut Record, form: u8) -> Result<Self, Broken> {
        Ok(match form {
            NONE => Raw::None,
            TEXT => {
                let bytes = record.word("text")?;
                Raw::Text(record.bytes(length(bytes), "text")?)
            }
            IDS => {
                let ids = record.word("input_ids")?;
                Raw::Ids(record.values(length(ids), "input_ids", |id| id)?)
            }
            PROMPT_COMPLETION => {
                let (prompt, completion) = record.halves("prompt_ids")?;
                let prompt = record.values(prompt as usize, "prompt_ids", |id| id)?;
                Raw::PromptCompletion(prompt, record.values(completion as usize, "completion_ids", |id| id)?)
            }
            CHAT => {
                let (count, completion) = record.halves("messages")?;
                // Each has at least its word of lengths, so a count beyond what the record holds is found before it is
                // believed. More than the limit are not kept, since here they may be much larger than in the ring: intake
                // rejects one above.
                let mut messages = Vec::with_capacity((count as usize).min(MAX_MESSAGES + 1).min(record.remaining()));
                for _ in 0..count {
                    let (role, content) = record.halves("messages")?;
                    let role = record.bytes(role as usize, "messages: role")?;
                    let message = (role, record.bytes((content >> 1) as usize, "messages: content")?, content & 1 != 0);
                    if messages.len() <= MAX_MESSAGES {
                        messages.push(message);
                    }
                }
                Raw::Chat(messages, record.bytes(completion as usize, "completion")?)
            }
            CHAT_WITH_JSON => Raw::ChatWithJson(chat::read(record)?),
            _ => {
                // It is passed over: the next record begins where its length says.
                while record.remaining() > 0 {
                    record.word("input")?;
                }
                Raw::Unknown
            }
        })
    }
}
