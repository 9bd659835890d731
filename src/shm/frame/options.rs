//! What rollouts have in common or need no more than a number for: their options, and their withdrawal.
//!
//! ```text
//!   options  0 │ number (32) │ bytes (32)
//!            1 │ the bytes
//!
//!   cancel   0 │ number of the rollout
//! ```

use super::{MAX_OPTIONS, MAX_OPTIONS_BYTES, kind};
use crate::shm::Broken;
use crate::shm::layout::WORD;
use crate::shm::ring::{Producer, Record};

/// An entry of the table of options.
#[derive(Debug, PartialEq, Eq)]
pub struct OptionsRecord {
    /// Below [`MAX_OPTIONS`].
    pub number: u32,
    /// What they mean.
    pub bytes: Vec<u8>,
}

/// Words of the record of so many bytes of options.
pub fn options_words(bytes: usize) -> usize {
    1 + bytes.div_ceil(WORD)
}

/// Registers options under a number, once there is room. `Ok(false)`: not yet.
///
/// # Panics
/// If the number or the bytes are beyond the limits: a mistake of this program's.
pub fn write_options(producer: &mut Producer, number: u32, bytes: &[u8]) -> Result<bool, Broken> {
    assert!((number as usize) < MAX_OPTIONS && bytes.len() <= MAX_OPTIONS_BYTES);
    let Some(mut writer) = producer.begin(kind::OPTIONS, options_words(bytes.len()))? else { return Ok(false) };
    writer.halves(number, bytes.len() as u32);
    writer.bytes(bytes);
    writer.publish();
    Ok(true)
}

/// Reads an entry of the table of options.
pub fn read_options(mut record: Record) -> Result<OptionsRecord, Broken> {
    let (number, bytes) = record.halves("options")?;
    if number as usize >= MAX_OPTIONS || bytes as usize > MAX_OPTIONS_BYTES {
        let why = format!("number {number} of {bytes} bytes; at most {MAX_OPTIONS} of {MAX_OPTIONS_BYTES} bytes");
        return Err(Broken::field("options", why));
    }
    let bytes = record.bytes(bytes as usize, "options")?;
    match record.remaining() {
        0 => Ok(OptionsRecord { number, bytes }),
        words => Err(Broken::field("options", format!("{words} words follow their end"))),
    }
}

/// Words of the record that withdraws a rollout, after its header.
pub const CANCEL_WORDS: usize = 1;

/// Withdraws the rollout of this number, once there is room for the record. `Ok(false)`: not yet.
pub fn write_cancel(producer: &mut Producer, number: u64) -> Result<bool, Broken> {
    let Some(mut writer) = producer.begin(kind::CANCEL, CANCEL_WORDS)? else { return Ok(false) };
    writer.word(number);
    writer.publish();
    Ok(true)
}

/// Reads the number of the rollout that is withdrawn.
pub fn read_cancel(mut record: Record) -> Result<u64, Broken> {
    let number = record.word("number")?;
    match record.remaining() {
        0 => Ok(number),
        words => Err(Broken::field("cancel", format!("{words} words follow its end"))),
    }
}
