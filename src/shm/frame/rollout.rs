//! Rollouts.
//!
//! ```text
//!   rollout  0 │ number
//!            1 │ form (8) │ finish (8) │ deadline given (8) │ flags (8) │ priority (32)
//!            2 │ deadline: when the clock of both ends shows so many nanoseconds ([`clock`](crate::shm::clock))
//!            3 │ options (32) │ bytes of the trace context (16) │ bytes of the id (16)
//!            4 │ bytes of the group (32) │ bytes of the model version (32)
//!            5 │ trace context, id, group, model version: each in whole words
//!            . │ with ANSWER_ONLY: bytes of the opening mark (32) │ of the closing one (32) │ the marks, each in whole words
//!            . │ by form
//!                0 none         nothing
//!                1 text         bytes (64) │ the bytes
//!                2 ids          ids (64)   │ the ids, two to a word
//!                3 prompt and completion  ids (32) │ ids (32) │ the prompt's │ the completion's, each in whole words
//!                4 chat         messages (32) │ bytes of the completion (32)
//!                               per message: bytes of its role (32) │ bytes of its content (31), score (1) │ role │ content
//!                               the completion
//!                5 chat with JSON, or with more than messages and a text
//!                               messages (32) │ messages of the completion (32)
//!                               bytes of the completion (32) │ of the template's name (32)
//!                               bytes of tools (32) │ of documents (32)
//!                               bytes of the template's variables (32) │ of the reference (32)
//!                               completion │ name │ tools │ documents │ variables │ reference; of no bytes where there are none
//!                               per message, those of the completion last:
//!                                 bytes of its role (32) │ bytes of its content (31), score (1)
//!                                 bytes of its JSON (64) │ role │ content │ JSON
//! ```
//!
//! Of the flags the lowest says that the completion must have a token ([`Rollout::require_completion`]), the next, ANSWER_ONLY, that
//! its thinking is to be taken out ([`Rollout::answer_only`]), and the next, beside it, that it is not; the others are 0.
//!
//! The deadline is the one that the caller set when it submitted the rollout: however long the record lay in the ring, or
//! its client was without a lane, that time counts.
//!
//! A record carries no model's name: a lane is scored by the server's first model, and a client refuses a rollout that names one
//! before it is written.
//!
//! What breaks the form of a record breaks the lane. What has the form and makes no sense as a rollout (text that is not
//! UTF-8, an unknown form) is a [`MalformedRollout`]: a rejection of that rollout alone.

use super::chat;
use super::input::{CHAT, CHAT_WITH_JSON, IDS, NONE, PROMPT_COMPLETION, Raw, TEXT};
use super::kind;
use crate::limits::{MAX_ID_BYTES, MAX_NAME_BYTES};
use crate::reward::shortened;
use crate::rollout::{AnswerOnly, FinishReason, Ids, Input, InputRef, Message, Rollout, RolloutRef};
use crate::shm::Broken;
use crate::shm::layout::WORD;
use crate::shm::ring::{Producer, Record, Writer};

const REQUIRE_COMPLETION: u8 = 1;
const ANSWER_ONLY: u8 = 2;
const ANSWER_ONLY_OFF: u8 = 4;

/// Longest trace context in bytes: a W3C `traceparent` of version 00 has 55, later ones may have more.
const MAX_TRACE_BYTES: usize = 512;

/// Ids, groups and trace contexts longer than any that is valid still travel, shortened to one byte more than the limit:
/// intake rejects them with its own words.
fn short(text: &str, limit: usize) -> &str {
    shortened(text, limit + 4)
}

fn in_words(bytes: usize) -> usize {
    bytes.div_ceil(WORD)
}

fn id_words(ids: &Ids) -> usize {
    ids.len().div_ceil(2)
}

/// Words of a rollout's record.
pub fn rollout_words(rollout: &RolloutRef) -> usize {
    let names = [
        short(rollout.traceparent, MAX_TRACE_BYTES),
        short(rollout.id, MAX_ID_BYTES),
        short(rollout.group, MAX_NAME_BYTES),
        short(rollout.model_version, MAX_NAME_BYTES),
    ];
    let mark_words = |mark: &str| in_words(short(mark, MAX_NAME_BYTES).len());
    let marks = rollout.answer_only.map_or(0, |marks| 1 + mark_words(&marks.open) + mark_words(&marks.close));
    5 + names.iter().map(|name| in_words(name.len())).sum::<usize>()
        + marks
        + match &rollout.input {
            None => 0,
            Some(InputRef::Text(text)) => 1 + in_words(text.len()),
            Some(InputRef::TokenIds(ids)) => 1 + id_words(ids),
            Some(InputRef::PromptCompletionIds { prompt, completion }) => 1 + id_words(prompt) + id_words(completion),
            Some(InputRef::Chat { messages, completion, extras }) if chat::has_json(messages, *extras) => {
                chat::words(messages, completion, *extras)
            }
            Some(InputRef::Chat { messages, completion, .. }) => {
                let message = |m: &Message| 1 + in_words(m.role.len()) + in_words(m.content.len());
                1 + messages.iter().map(message).sum::<usize>() + in_words(completion.len())
            }
        }
}

/// Writes a rollout, once there is room for it. `Ok(false)`: not yet. The ids must have been checked ([`Ids::check`]). Its
/// own `deadline_ms` counts from nowhere in particular and does not travel; `deadline_ns` does.
pub fn write_rollout(
    producer: &mut Producer,
    number: u64,
    options: u32,
    deadline_ns: Option<u64>,
    rollout: &RolloutRef,
) -> Result<bool, Broken> {
    let Some(mut writer) = producer.begin(kind::ROLLOUT, rollout_words(rollout))? else { return Ok(false) };
    let form = match rollout.input {
        None => NONE,
        Some(InputRef::Text(_)) => TEXT,
        Some(InputRef::TokenIds(_)) => IDS,
        Some(InputRef::PromptCompletionIds { .. }) => PROMPT_COMPLETION,
        Some(InputRef::Chat { messages, extras, .. }) if chat::has_json(messages, extras) => CHAT_WITH_JSON,
        Some(InputRef::Chat { .. }) => CHAT,
    };
    let finish = match rollout.finish_reason {
        FinishReason::Unspecified => 0,
        FinishReason::Stop => 1,
        FinishReason::Length => 2,
    };
    let (trace, id) = (short(rollout.traceparent, MAX_TRACE_BYTES), short(rollout.id, MAX_ID_BYTES));
    let group = short(rollout.group, MAX_NAME_BYTES);
    let version = short(rollout.model_version, MAX_NAME_BYTES);
    writer.word(number);
    let flag = |flag, set| if set { flag } else { 0 };
    let wishes = flag(REQUIRE_COMPLETION, rollout.require_completion)
        | flag(ANSWER_ONLY, rollout.answer_only.is_some())
        | flag(ANSWER_ONLY_OFF, rollout.answer_only.is_some_and(|wish| wish.off));
    let flags = u32::from_le_bytes([form, finish, u8::from(deadline_ns.is_some()), wishes]);
    writer.halves(flags, rollout.priority as u32);
    writer.word(deadline_ns.unwrap_or(0));
    writer.halves(options, trace.len() as u32 | (id.len() as u32) << 16);
    writer.halves(group.len() as u32, version.len() as u32);
    for name in [trace, id, group, version] {
        writer.bytes(name.as_bytes());
    }
    if let Some(marks) = rollout.answer_only {
        let [open, close] = [&marks.open, &marks.close].map(|mark| short(mark, MAX_NAME_BYTES));
        writer.halves(open.len() as u32, close.len() as u32);
        writer.bytes(open.as_bytes());
        writer.bytes(close.as_bytes());
    }
    match &rollout.input {
        None => {}
        Some(InputRef::Text(text)) => {
            writer.word(text.len() as u64);
            writer.bytes(text.as_bytes());
        }
        Some(InputRef::TokenIds(ids)) => {
            writer.word(ids.len() as u64);
            write_ids(&mut writer, ids);
        }
        Some(InputRef::PromptCompletionIds { prompt, completion }) => {
            writer.halves(prompt.len() as u32, completion.len() as u32);
            write_ids(&mut writer, prompt);
            write_ids(&mut writer, completion);
        }
        Some(InputRef::Chat { messages, completion, extras }) if form == CHAT_WITH_JSON => {
            chat::write(&mut writer, messages, completion, *extras);
        }
        Some(InputRef::Chat { messages, completion, .. }) => {
            writer.halves(messages.len() as u32, completion.len() as u32);
            for message in *messages {
                writer
                    .halves(message.role.len() as u32, (message.content.len() as u32) << 1 | u32::from(message.score));
                writer.bytes(message.role.as_bytes());
                writer.bytes(message.content.as_bytes());
            }
            writer.bytes(completion.as_bytes());
        }
    }
    writer.publish();
    Ok(true)
}

fn write_ids(writer: &mut Writer, ids: &Ids) {
    match ids {
        Ids::U32(ids) => writer.values(ids, |id| id),
        Ids::I32(ids) => writer.values(ids, |id| id as u32),
        Ids::I64(ids) => writer.values(ids, |id| id as u32),
    }
}

/// A rollout as a client sent it.
#[derive(Debug, PartialEq)]
pub struct RolloutRecord {
    /// The client's number for it.
    pub number: u64,
    /// Its options, or [`NO_OPTIONS`](super::NO_OPTIONS).
    pub options: u32,
    /// When it is too late to score it, in nanoseconds of the [`clock`](crate::shm::clock).
    pub deadline_ns: Option<u64>,
    /// The rollout, without aggregation and deadline; or why it is none.
    pub rollout: Result<Rollout, MalformedRollout>,
}

/// Why a record holds no rollout that makes sense; see the module.
#[derive(Debug, PartialEq, Eq)]
pub struct MalformedRollout {
    /// The caller's id, as far as it can be read.
    pub id: String,
    /// Field and reason, for a person.
    pub why: String,
}

/// Reads a rollout.
pub fn read_rollout(mut record: Record) -> Result<RolloutRecord, Broken> {
    let record = &mut record;
    let number = record.word("number")?;
    let (flags, priority) = record.halves("form")?;
    let [form, finish, has_deadline, wishes] = flags.to_le_bytes();
    let deadline_ns = record.word("deadline")?;
    let (options, names) = record.halves("options")?;
    let (group, version) = record.halves("group")?;
    let off = wishes & ANSWER_ONLY_OFF != 0;
    if has_deadline > 1
        || wishes & !(REQUIRE_COMPLETION | ANSWER_ONLY | ANSWER_ONLY_OFF) != 0
        || (off && wishes & ANSWER_ONLY == 0)
    {
        return Err(Broken::field("rollout", "a field is set that this version does not know"));
    }
    let trace = record.bytes((names & 0xffff) as usize, "traceparent")?;
    let id = record.bytes((names >> 16) as usize, "id")?;
    let group = record.bytes(group as usize, "group")?;
    let version = record.bytes(version as usize, "model_version")?;
    let marks = if wishes & ANSWER_ONLY == 0 { None } else { Some(read_marks(record)?) };
    let input = Raw::read(record, form)?;
    if record.remaining() > 0 {
        return Err(Broken::field("rollout", format!("{} words follow its end", record.remaining())));
    }
    let mut malformed = None;
    let mut note = |field: &str, why: &str| {
        malformed.get_or_insert_with(|| format!("{field}: {why}"));
    };
    let mut text = |bytes: Vec<u8>, field: &str| {
        String::from_utf8(bytes).unwrap_or_else(|error| {
            note(field, "not UTF-8");
            String::from_utf8_lossy(error.as_bytes()).into_owned()
        })
    };
    let (id, group, model_version) = (text(id, "id"), text(group, "group"), text(version, "model_version"));
    let answer_only = marks.map(|[open, close]| AnswerOnly {
        off,
        open: text(open, "answer_only: open"),
        close: text(close, "answer_only: close"),
    });
    // A malformed trace context does not count, as on every transport.
    let traceparent = String::from_utf8(trace).unwrap_or_default();
    let input = match input {
        Raw::None => None,
        Raw::Text(bytes) => Some(Input::Text(text(bytes, "text"))),
        Raw::Ids(ids) => Some(Input::TokenIds(ids)),
        Raw::PromptCompletion(prompt, completion) => Some(Input::PromptCompletionIds { prompt, completion }),
        Raw::Chat(messages, completion) => Some(Input::Chat {
            messages: messages
                .into_iter()
                .map(|(role, content, score)| Message {
                    role: text(role, "messages: role"),
                    content: text(content, "messages: content"),
                    score,
                    json: None,
                })
                .collect(),
            completion: text(completion, "completion"),
            extras: None,
        }),
        Raw::ChatWithJson(chat) => {
            let (messages, completion, extras) = chat.into_texts(&mut text);
            Some(Input::Chat { messages, completion, extras })
        }
        Raw::Unknown => {
            note("input", &format!("form {form} is none of this version"));
            None
        }
    };
    let finish_reason = match finish {
        0 => FinishReason::Unspecified,
        1 => FinishReason::Stop,
        2 => FinishReason::Length,
        _ => {
            note("finish_reason", &format!("{finish} is none; send 0 (unspecified), 1 (stop) or 2 (length)"));
            FinishReason::Unspecified
        }
    };
    let rollout = match malformed {
        Some(why) => Err(MalformedRollout { id, why }),
        None => Ok(Rollout {
            id,
            model: String::new(),
            input,
            finish_reason,
            group,
            priority: priority as i32,
            deadline_ms: None,
            aggregation: Default::default(),
            require_completion: wishes & REQUIRE_COMPLETION != 0,
            answer_only,
            model_version,
            traceparent,
            tracestate: String::new(),
        }),
    };
    Ok(RolloutRecord { number, options, deadline_ns: (has_deadline != 0).then_some(deadline_ns), rollout })
}

/// The marks of a thinking.
fn read_marks(record: &mut Record) -> Result<[Vec<u8>; 2], Broken> {
    let (open, close) = record.halves("answer_only")?;
    Ok([record.bytes(open as usize, "answer_only: open")?, record.bytes(close as usize, "answer_only: close")?])
}
