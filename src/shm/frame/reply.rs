//! Answers.
//!
//! ```text
//!   rewards    0 │ number
//!              1 │ number of the model generation that scored it
//!              2 │ reward (float32) │ tokens (32)
//!              3 │ queue in nanoseconds
//!              4 │ forward pass in nanoseconds
//!              5 │ attributes (16) │ flags (16) │ reads (32)
//!              6 │ attributes (float32, two to a word)
//!              . │ per read, without gaps, two to a word: tokens (32), reward (float32), attributes (float32); with ENDS
//!                │ unit and number of its end behind them (32 each)
//!              . │ with THINKING: parts (32) │ unclosed (32), then begin and end of each, two to a word
//!
//!   rejection  0 │ number
//!              1 │ code (32) │ bytes of the message (32)
//!              2 │ the message
//! ```
//!
//! The model's version does not travel with each answer: it stands in the card of the generation, which the handshake or a
//! [card record](super::card) has announced before.

use std::sync::Arc;

use super::card::{CardPart, read_card};
use super::kind;
use crate::limits::{MAX_ATTRIBUTES, MAX_READS, MAX_REJECTION_BYTES, MAX_TEXT_BYTES};
use crate::reward::{ReadEnd, ReadRewards, Rewards, Thinking, shortened};
use crate::shm::Broken;
use crate::shm::layout::{HEADER, WORD};
use crate::shm::ring::{Producer, Record};

/// The rewards' flags: the prompt was cut; reads have ends; thinking was taken out.
const TRUNCATED: u32 = 1 << 16;
const ENDS: u32 = 1 << 17;
const THINKING: u32 = 1 << 18;
const ATTRIBUTES: u32 = TRUNCATED - 1;

/// Most parts of a thinking: no completion holds more, and a reader must not take more memory than that.
const MAX_PARTS: usize = MAX_TEXT_BYTES / 2;

/// Longest message of a rejection: one that was cut has a few bytes more than its limit.
const MAX_MESSAGE_BYTES: usize = MAX_REJECTION_BYTES + 8;

/// Words, header included, that hold either answer to a rollout with one read: what a lane sets aside for each rollout
/// it admits.
pub fn ordinary_reply_words(attributes: usize) -> usize {
    HEADER + (6 + attributes.div_ceil(2)).max(2 + MAX_MESSAGE_BYTES.div_ceil(WORD))
}

/// Words of the record, after its header.
pub fn rewards_words(rewards: &Rewards) -> usize {
    let attributes = rewards.attributes.len();
    let thinking = rewards.thinking.as_ref().map_or(0, |thinking| 1 + thinking.taken.len());
    6 + attributes.div_ceil(2) + (rewards.reads.len() * read_values(attributes, flags(rewards))).div_ceil(2) + thinking
}

fn flags(rewards: &Rewards) -> u32 {
    let flag = |flag, set| if set { flag } else { 0 };
    flag(TRUNCATED, rewards.truncated)
        | flag(ENDS, rewards.reads.iter().any(|read| read.end.is_some()))
        | flag(THINKING, rewards.thinking.is_some())
}

/// 32-bit values of one read.
fn read_values(attributes: usize, flags: u32) -> usize {
    2 + attributes + if flags & ENDS == 0 { 0 } else { 2 }
}

/// Writes rewards, once there is room. `Ok(false)`: not yet.
///
/// # Panics
/// If a read has not as many attributes as the rollout: a mistake of this program's.
pub fn write_rewards(producer: &mut Producer, number: u64, rewards: &Rewards) -> Result<bool, Broken> {
    let Some(mut writer) = producer.begin(kind::REWARDS, rewards_words(rewards))? else { return Ok(false) };
    writer.word(number);
    writer.word(rewards.generation);
    writer.halves(rewards.reward.to_bits(), rewards.tokens);
    writer.word(rewards.queue_ns);
    writer.word(rewards.forward_ns);
    let attributes = rewards.attributes.len();
    let flags = flags(rewards);
    writer.halves(attributes as u32 | flags, rewards.reads.len() as u32);
    writer.values(&rewards.attributes, f32::to_bits);
    if !rewards.reads.is_empty() {
        let mut values = Vec::with_capacity(rewards.reads.len() * read_values(attributes, flags));
        rewards.reads.iter().for_each(|read| put_read(read, flags, &mut values));
        writer.values(&values, |value| value);
    }
    if let Some(thinking) = &rewards.thinking {
        writer.halves(thinking.taken.len() as u32, thinking.unclosed.into());
        thinking.taken.iter().for_each(|part| writer.halves(part.start, part.end));
    }
    writer.publish();
    Ok(true)
}

fn put_read(read: &ReadRewards, flags: u32, values: &mut Vec<u32>) {
    values.extend([read.tokens, read.reward.to_bits()]);
    values.extend(read.attributes.iter().map(|value| value.to_bits()));
    if flags & ENDS != 0 {
        values.extend(match read.end {
            None => [0, 0],
            Some(ReadEnd::Characters(end)) => [1, end],
            Some(ReadEnd::Tokens(end)) => [2, end],
        });
    }
}

fn read_of(values: &[u32], attributes: usize) -> Result<ReadRewards, Broken> {
    let (of_read, end) = values.split_at(2 + attributes);
    Ok(ReadRewards {
        tokens: of_read[0],
        reward: f32::from_bits(of_read[1]),
        attributes: of_read[2..].iter().map(|&bits| f32::from_bits(bits)).collect(),
        end: match end {
            [] | [0, _] => None,
            [1, end] => Some(ReadEnd::Characters(*end)),
            [2, end] => Some(ReadEnd::Tokens(*end)),
            other => return Err(Broken::field("reads", format!("{other:?} is no end of a read"))),
        },
    })
}

fn read_thinking(record: &mut Record) -> Result<Thinking, Broken> {
    let (parts, unclosed) = record.halves("thinking")?;
    if parts as usize > MAX_PARTS || unclosed > 1 {
        return Err(Broken::field("thinking", format!("{parts} parts, unclosed {unclosed}")));
    }
    let bounds = record.values(parts as usize * 2, "thinking", |bound| bound)?;
    let taken = bounds.chunks_exact(2).map(|part| part[0]..part[1]).collect();
    Ok(Thinking { taken, unclosed: unclosed == 1 })
}

/// Words of the record, after its header.
pub fn rejection_words(message: &str) -> usize {
    2 + shortened(message, MAX_MESSAGE_BYTES).len().div_ceil(WORD)
}

/// Writes a rejection, once there is room. `Ok(false)`: not yet. What the code means is a matter of the two ends.
pub fn write_rejection(producer: &mut Producer, number: u64, code: u32, message: &str) -> Result<bool, Broken> {
    let message = shortened(message, MAX_MESSAGE_BYTES);
    let Some(mut writer) = producer.begin(kind::REJECTION, rejection_words(message))? else { return Ok(false) };
    writer.word(number);
    writer.halves(code, message.len() as u32);
    writer.bytes(message.as_bytes());
    writer.publish();
    Ok(true)
}

/// What a sidecar says: an answer, or which model it serves from now on.
#[derive(Debug, PartialEq)]
pub enum Reply {
    /// The rollout was scored.
    Rewards {
        /// The client's number for the rollout.
        number: u64,
        /// The rewards.
        rewards: Rewards,
    },
    /// The rollout was not scored.
    Rejection {
        /// The client's number for the rollout.
        number: u64,
        /// A code.
        code: u32,
        /// For a person.
        message: String,
    },
    /// A part of a new generation's card.
    Card(CardPart),
}

/// Reads a record of the reward ring. `version_of` knows the model version of each generation that was announced.
pub fn read_reply(mut record: Record, version_of: impl FnOnce(u64) -> Option<Arc<str>>) -> Result<Reply, Broken> {
    let sequence = record.sequence();
    let kind = record.kind();
    let record = &mut record;
    let reply = match kind {
        kind::REWARDS => {
            let number = record.word("number")?;
            let generation = record.word("generation")?;
            let model_version = version_of(generation).ok_or_else(|| {
                Broken::field("generation", format!("rewards bear number {generation}, which was not announced"))
            })?;
            let (reward, tokens) = record.halves("reward")?;
            let queue_ns = record.word("queue_ns")?;
            let forward_ns = record.word("forward_ns")?;
            let (flags, reads) = record.halves("attributes")?;
            let attributes = (flags & ATTRIBUTES) as usize;
            if flags & !(ATTRIBUTES | TRUNCATED | ENDS | THINKING) != 0 {
                return Err(Broken::field("rewards", "a field is set that this version does not know"));
            }
            if attributes > MAX_ATTRIBUTES || reads as usize > MAX_READS {
                let why = format!("{attributes} attributes, {reads} reads; at most {MAX_ATTRIBUTES} and {MAX_READS}");
                return Err(Broken::field("rewards", why));
            }
            let of_all = record.values(attributes, "attributes", f32::from_bits)?;
            let per_read = read_values(attributes, flags);
            let values = record.values(reads as usize * per_read, "reads", |bits| bits)?;
            let reads = values.chunks_exact(per_read).map(|read| read_of(read, attributes));
            let reads = reads.collect::<Result<_, _>>()?;
            let thinking = if flags & THINKING == 0 { None } else { Some(read_thinking(record)?) };
            let rewards = Rewards {
                reward: f32::from_bits(reward),
                attributes: of_all,
                tokens,
                truncated: flags & TRUNCATED != 0,
                model_version,
                generation,
                queue_ns,
                forward_ns,
                reads,
                thinking,
            };
            Reply::Rewards { number, rewards }
        }
        kind::REJECTION => {
            let number = record.word("number")?;
            let (code, bytes) = record.halves("code")?;
            let message = record.bytes(bytes as usize, "message")?;
            let message = String::from_utf8(message).map_err(|_| Broken::field("message", "not UTF-8"))?;
            Reply::Rejection { number, code, message }
        }
        kind::CARD => Reply::Card(read_card(record)?),
        kind => return Err(Broken::Kind { sequence, kind }),
    };
    match record.remaining() {
        0 => Ok(reply),
        words => Err(Broken::field("reply", format!("{words} words follow its end"))),
    }
}
