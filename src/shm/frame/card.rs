//! The announcement of a model generation: its number, and its card.
//!
//! ```text
//!   card     0 │ number of the generation
//!            1 │ bytes of the card (32) │ bytes of this part (32)
//!            2 │ the part
//! ```
//!
//! A card may be larger than the ring, so it comes in parts, which follow each other in their order; with the last one the
//! generation is announced. What the card says is a matter of the two ends.

use super::kind;
use crate::shm::Broken;
use crate::shm::layout::{MAX_CARD_BYTES, WORD};
use crate::shm::ring::{Producer, Record};

/// Words of the record of so many bytes of a card, after its header.
pub fn card_words(bytes: usize) -> usize {
    2 + bytes.div_ceil(WORD)
}

/// Writes a part of the card of generation `generation`, once there is room. `Ok(false)`: not yet. `bytes` are those of the
/// whole card, at most [`MAX_CARD_BYTES`].
pub fn write_card(producer: &mut Producer, generation: u64, bytes: usize, part: &[u8]) -> Result<bool, Broken> {
    let Some(mut writer) = producer.begin(kind::CARD, card_words(part.len()))? else { return Ok(false) };
    writer.word(generation);
    writer.halves(bytes as u32, part.len() as u32);
    writer.bytes(part);
    writer.publish();
    Ok(true)
}

/// A part of a card.
#[derive(Debug, PartialEq, Eq)]
pub struct CardPart {
    /// The generation that the card describes.
    pub generation: u64,
    /// Bytes of the whole card.
    pub card_bytes: usize,
    /// The part.
    pub part: Vec<u8>,
}

/// Reads a part of a card.
pub fn read_card(record: &mut Record) -> Result<CardPart, Broken> {
    let generation = record.word("generation")?;
    let (card_bytes, bytes) = record.halves("card")?;
    if card_bytes as usize > MAX_CARD_BYTES || bytes > card_bytes {
        let why = format!("{bytes} bytes of {card_bytes}; a card has at most {MAX_CARD_BYTES}");
        return Err(Broken::field("card", why));
    }
    let part = record.bytes(bytes as usize, "card")?;
    Ok(CardPart { generation, card_bytes: card_bytes as usize, part })
}

/// Puts a card together. Keeps no more bytes than have come.
#[derive(Debug)]
pub struct CardAssembly {
    /// The latest generation that was announced.
    latest: u64,
    /// The one that is being announced, and how long its card is.
    coming: Option<(u64, usize)>,
    bytes: Vec<u8>,
}

impl CardAssembly {
    /// For the generations after `first`, which the handshake has announced.
    pub fn after(first: u64) -> Self {
        Self { latest: first, coming: None, bytes: Vec::new() }
    }

    /// Takes the next part; with the last one, the generation and its whole card.
    pub fn add(&mut self, part: CardPart) -> Result<Option<(u64, Vec<u8>)>, Broken> {
        let CardPart { generation, card_bytes, part } = part;
        if self.coming.is_none() && generation <= self.latest {
            let why = format!("{generation} is announced after {}", self.latest);
            return Err(Broken::field("generation", why));
        }
        if *self.coming.get_or_insert((generation, card_bytes)) != (generation, card_bytes) {
            return Err(Broken::field("card", "a part of another card follows before the last one is whole"));
        }
        let missing = card_bytes - self.bytes.len();
        if part.len() > missing || (part.is_empty() && missing > 0) {
            let why = format!("a part of {} bytes, where {missing} are missing", part.len());
            return Err(Broken::field("card", why));
        }
        self.bytes.extend(part);
        if self.bytes.len() < card_bytes {
            return Ok(None);
        }
        (self.latest, self.coming) = (generation, None);
        Ok(Some((generation, std::mem::take(&mut self.bytes))))
    }
}
