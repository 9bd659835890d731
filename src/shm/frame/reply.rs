//! Answers.
//!
//! ```text
//!   rewards    0 │ number
//!              1 │ number of the model generation that scored it
//!              2 │ reward (float32) │ tokens (32)
//!              3 │ queue in nanoseconds
//!              4 │ forward pass in nanoseconds
//!              5 │ attributes (16) │ truncated (16) │ reads (32)
//!              6 │ attributes (float32, two to a word)
//!              . │ per read, without gaps, two to a word: tokens (32), reward (float32), attributes (float32)
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
use crate::limits::{MAX_ATTRIBUTES, MAX_READS, MAX_REJECTION_BYTES};
use crate::reward::{ReadRewards, Rewards, shortened};
use crate::shm::Broken;
use crate::shm::layout::{HEADER, WORD};
use crate::shm::ring::{Producer, Record};

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
    6 + attributes.div_ceil(2) + (rewards.reads.len() * (2 + attributes)).div_ceil(2)
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
    writer.halves(attributes as u32 | u32::from(rewards.truncated) << 16, rewards.reads.len() as u32);
    writer.values(&rewards.attributes, f32::to_bits);
    if !rewards.reads.is_empty() {
        let reads: Vec<u32> = rewards.reads.iter().flat_map(read_values).collect();
        writer.values(&reads, |value| value);
    }
    writer.publish();
    Ok(true)
}

fn read_values(read: &ReadRewards) -> impl Iterator<Item = u32> {
    [read.tokens, read.reward.to_bits()].into_iter().chain(read.attributes.iter().map(|value| value.to_bits()))
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
            let (attributes, truncated) = ((flags & 0xffff) as usize, flags >> 16 != 0);
            if flags >> 17 != 0 {
                return Err(Broken::field("rewards", "a field is set that this version does not know"));
            }
            if attributes > MAX_ATTRIBUTES || reads as usize > MAX_READS {
                let why = format!("{attributes} attributes, {reads} reads; at most {MAX_ATTRIBUTES} and {MAX_READS}");
                return Err(Broken::field("rewards", why));
            }
            let of_all = record.values(attributes, "attributes", f32::from_bits)?;
            let values = record.values(reads as usize * (2 + attributes), "reads", |bits| bits)?;
            let reads = values.chunks_exact(2 + attributes).map(|read| ReadRewards {
                tokens: read[0],
                reward: f32::from_bits(read[1]),
                attributes: read[2..].iter().map(|&bits| f32::from_bits(bits)).collect(),
            });
            let rewards = Rewards {
                reward: f32::from_bits(reward),
                attributes: of_all,
                tokens,
                truncated,
                model_version,
                generation,
                queue_ns,
                forward_ns,
                reads: reads.collect(),
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
