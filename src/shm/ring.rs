//! One ring: records of any length from one producer to one consumer.
//!
//! Invariant: a record is read whole, in order and once, or not at all. It exists from the moment its producer stores the
//! write position behind it, and its words are the producer's again once the consumer stores the read position behind it.
//!
//! Each end counts for itself. What it loads of the other's count is checked against its own before it is used, and a
//! payload's word is loaded once.

use std::sync::Arc;

use super::error::Broken;
use super::layout::{HEADER, Place, REWIND, SKIP};
use super::region::Region;
use super::sync::{AtomicU64, Ordering};

/// A ring in its region.
#[derive(Debug)]
struct Ring {
    region: Arc<Region>,
    place: Place,
}

impl Ring {
    fn tail(&self) -> &AtomicU64 {
        &self.region.words()[self.place.tail]
    }

    fn head(&self) -> &AtomicU64 {
        &self.region.words()[self.place.head]
    }

    fn capacity(&self) -> u64 {
        self.place.capacity as u64
    }

    fn offset(&self, position: u64) -> usize {
        (position % self.capacity()) as usize
    }

    /// The words from `position` on: those up to the ring's end, and those after it, from its beginning.
    fn words(&self, position: u64, words: usize) -> (&[AtomicU64], &[AtomicU64]) {
        let data = &self.region.words()[self.place.data..][..self.place.capacity];
        let offset = self.offset(position);
        let first = words.min(data.len() - offset);
        (&data[offset..offset + first], &data[..words - first])
    }

    fn word(&self, position: u64) -> &AtomicU64 {
        &self.region.words()[self.place.data + self.offset(position)]
    }
}

/// Writes records.
#[derive(Debug)]
pub struct Producer {
    ring: Ring,
    /// Words written and published.
    position: u64,
    /// The consumer's position when last looked at.
    read: u64,
    /// Records published.
    records: u64,
}

impl Producer {
    /// The producer of an empty ring. There must be no other.
    pub fn new(region: Arc<Region>, place: Place) -> Self {
        Self { ring: Ring { region, place }, position: 0, read: 0, records: 0 }
    }

    /// Words of the whole ring.
    pub fn capacity(&self) -> usize {
        self.ring.place.capacity
    }

    /// Where the records end that were published, in words since the ring was made.
    pub fn published(&self) -> u64 {
        self.position
    }

    /// How far the consumer has read, in the same count.
    pub fn read(&mut self) -> Result<u64, Broken> {
        let found = self.ring.head().load(Ordering::Acquire);
        if !(self.read..=self.position).contains(&found) {
            return Err(Broken::Position { end: "read", found, from: self.read, to: self.position });
        }
        self.read = found;
        Ok(found)
    }

    /// Words that are written and not yet read.
    pub fn used(&mut self) -> Result<usize, Broken> {
        let read = self.read()?;
        Ok((self.position - read) as usize)
    }

    /// Whether a record of so many words after its header would find room.
    pub fn has_room(&mut self, words: usize) -> Result<bool, Broken> {
        Ok(self.used()? + HEADER + words <= self.capacity())
    }

    /// Begins a record of exactly so many words after its header; `None` where there is no room for it yet.
    pub fn begin(&mut self, kind: u16, words: usize) -> Result<Option<Writer<'_>>, Broken> {
        if !self.has_room(words)? {
            return Ok(None);
        }
        self.rewind(words);
        let at = self.position;
        self.header(at, kind, words);
        let (at, end) = (at + HEADER as u64, at + (HEADER + words) as u64);
        Ok(Some(Writer { producer: self, at, end }))
    }

    /// Where the ring is empty and far from its front, and this leaves room enough, the next record begins at the front.
    fn rewind(&mut self, words: usize) {
        let offset = self.ring.offset(self.position);
        let rest = self.capacity() - offset;
        if self.read == self.position && offset >= REWIND && HEADER + words <= offset && rest >= HEADER {
            self.header(self.position, SKIP, rest - HEADER);
            self.publish(self.position + rest as u64);
        }
    }

    fn header(&self, at: u64, kind: u16, words: usize) {
        self.ring.word(at).store(words as u64 | u64::from(kind) << 32, Ordering::Relaxed);
        self.ring.word(at + 1).store(self.records, Ordering::Relaxed);
    }

    fn publish(&mut self, position: u64) {
        self.position = position;
        self.records += 1;
        self.ring.tail().store(position, Ordering::Release);
    }
}

/// A record that is being written. Dropped before [`Writer::publish`], it never was.
#[derive(Debug)]
pub struct Writer<'p> {
    producer: &'p mut Producer,
    at: u64,
    end: u64,
}

impl Writer<'_> {
    /// One word.
    pub fn word(&mut self, word: u64) {
        let (first, _) = self.take(1);
        first[0].store(word, Ordering::Relaxed);
    }

    /// Two halves of a word.
    pub fn halves(&mut self, low: u32, high: u32) {
        self.word(u64::from(low) | u64::from(high) << 32);
    }

    /// 32-bit values, two to a word; the last word may be half empty.
    pub fn values<T: Copy>(&mut self, values: &[T], bits: impl Fn(T) -> u32) {
        let (first, second) = self.take(values.len().div_ceil(2));
        let cut = (2 * first.len()).min(values.len());
        for (values, words) in [(&values[..cut], first), (&values[cut..], second)] {
            let pairs = values.chunks_exact(2);
            let last = pairs.remainder().first().map(|&last| u64::from(bits(last)));
            let pairs = pairs.map(|pair| u64::from(bits(pair[0])) | u64::from(bits(pair[1])) << 32);
            for (word, value) in words.iter().zip(pairs.chain(last)) {
                word.store(value, Ordering::Relaxed);
            }
        }
    }

    /// Bytes; the last word may be partly empty.
    pub fn bytes(&mut self, bytes: &[u8]) {
        let (first, second) = self.take(bytes.len().div_ceil(8));
        for (word, bytes) in first.iter().chain(second).zip(bytes.chunks(8)) {
            let mut whole = [0; 8];
            whole[..bytes.len()].copy_from_slice(bytes);
            word.store(u64::from_ne_bytes(whole), Ordering::Relaxed);
        }
    }

    /// Makes the record exist.
    ///
    /// # Panics
    /// If it has not the length that was announced: a mistake of this program's.
    pub fn publish(self) {
        assert_eq!(self.at, self.end, "a record of another length than announced");
        self.producer.publish(self.end);
    }

    /// # Panics
    /// Beyond the length that was announced: a mistake of this program's.
    fn take(&mut self, words: usize) -> (&[AtomicU64], &[AtomicU64]) {
        assert!(words as u64 <= self.end - self.at, "a record longer than announced");
        let at = self.at;
        self.at += words as u64;
        self.producer.ring.words(at, words)
    }
}

/// Reads records.
#[derive(Debug)]
pub struct Consumer {
    ring: Ring,
    /// Words read.
    position: u64,
    /// The producer's position when last looked at.
    written: u64,
    /// Records read.
    records: u64,
    /// The next record's header, where it was looked at: what was checked then is what is read later.
    next: Option<Header>,
    /// The last record was one to be passed over.
    skipped: bool,
}

impl Consumer {
    /// The consumer of an empty ring. There must be no other.
    pub fn new(region: Arc<Region>, place: Place) -> Self {
        Self { ring: Ring { region, place }, position: 0, written: 0, records: 0, next: None, skipped: false }
    }

    /// Whether there is something to read, or something wrong with what is there.
    pub fn is_waiting(&self) -> bool {
        self.ring.tail().load(Ordering::Acquire) != self.position
    }

    /// The kind of the record that [`Self::next`] would give, if there is one.
    pub fn peek(&mut self) -> Result<Option<u16>, Broken> {
        while self.next.is_none() {
            let Some(header) = self.header()? else { return Ok(None) };
            if header.kind != SKIP {
                self.next = Some(header);
            } else if self.skipped {
                // A producer begins at the front to write something there, and not twice in a row.
                return Err(Broken::Kind { sequence: self.records, kind: SKIP });
            } else {
                self.release(header.end);
                self.skipped = true;
            }
        }
        Ok(self.next.as_ref().map(|header| header.kind))
    }

    /// The next record, if there is one. Its words are given back to the producer when it is dropped.
    #[expect(clippy::should_implement_trait, reason = "an iterator cannot lend its items")]
    pub fn next(&mut self) -> Result<Option<Record<'_>>, Broken> {
        self.peek()?;
        let Some(Header { kind, end }) = self.next.take() else { return Ok(None) };
        self.skipped = false;
        let at = self.position + HEADER as u64;
        Ok(Some(Record { consumer: self, kind, at, end }))
    }

    /// The header at the present position, checked.
    fn header(&mut self) -> Result<Option<Header>, Broken> {
        if self.written == self.position {
            let (found, to) = (self.ring.tail().load(Ordering::Acquire), self.position + self.ring.capacity());
            if !(self.written..=to).contains(&found) {
                return Err(Broken::Position { end: "write", found, from: self.written, to });
            }
            self.written = found;
        }
        let published = self.written - self.position;
        if published == 0 {
            return Ok(None);
        }
        let sequence = self.records;
        if published < HEADER as u64 {
            return Err(Broken::Length { sequence, claimed: 0, published });
        }
        let word = self.ring.word(self.position).load(Ordering::Relaxed);
        let found = self.ring.word(self.position + 1).load(Ordering::Relaxed);
        if found != sequence {
            return Err(Broken::Sequence { expected: sequence, found });
        }
        let (claimed, kind) = (word & u64::from(u32::MAX), (word >> 32) as u16);
        if claimed > published - HEADER as u64 || word >> 48 != 0 {
            return Err(Broken::Length { sequence, claimed, published });
        }
        Ok(Some(Header { kind, end: self.position + HEADER as u64 + claimed }))
    }

    fn release(&mut self, position: u64) {
        self.position = position;
        self.records += 1;
        self.ring.head().store(position, Ordering::Release);
    }
}

/// A checked header: what the memory says by now does not matter any more.
#[derive(Debug)]
struct Header {
    kind: u16,
    end: u64,
}

/// A record that is being read, from front to back; each word is loaded once.
#[derive(Debug)]
pub struct Record<'c> {
    consumer: &'c mut Consumer,
    kind: u16,
    at: u64,
    end: u64,
}

impl Record<'_> {
    /// Its kind.
    pub fn kind(&self) -> u16 {
        self.kind
    }

    /// Its number in the ring.
    pub fn sequence(&self) -> u64 {
        self.consumer.records
    }

    /// Words not yet read.
    pub fn remaining(&self) -> usize {
        (self.end - self.at) as usize
    }

    /// One word.
    pub fn word(&mut self, field: &'static str) -> Result<u64, Broken> {
        let (first, _) = self.take(1, field)?;
        Ok(first[0].load(Ordering::Relaxed))
    }

    /// Two halves of a word, the low one first.
    pub fn halves(&mut self, field: &'static str) -> Result<(u32, u32), Broken> {
        self.word(field).map(|word| (word as u32, (word >> 32) as u32))
    }

    /// So many 32-bit values. Nothing is allocated that the record does not hold.
    pub fn values<T>(&mut self, values: usize, field: &'static str, of: impl Fn(u32) -> T) -> Result<Vec<T>, Broken> {
        let (first, second) = self.take(values.div_ceil(2), field)?;
        let mut read = Vec::with_capacity(values + 1);
        for words in [first, second] {
            read.extend(words.iter().flat_map(|word| {
                let word = word.load(Ordering::Relaxed);
                [of(word as u32), of((word >> 32) as u32)]
            }));
        }
        read.truncate(values);
        Ok(read)
    }

    /// So many bytes. Nothing is allocated that the record does not hold.
    pub fn bytes(&mut self, bytes: usize, field: &'static str) -> Result<Vec<u8>, Broken> {
        let (first, second) = self.take(bytes.div_ceil(8), field)?;
        let mut read = Vec::with_capacity(bytes.next_multiple_of(8));
        for word in first.iter().chain(second) {
            read.extend_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
        }
        read.truncate(bytes);
        Ok(read)
    }

    fn take(&mut self, words: usize, field: &'static str) -> Result<(&[AtomicU64], &[AtomicU64]), Broken> {
        let remaining = self.remaining();
        if words > remaining {
            return Err(Broken::field(field, format!("needs {words} words, the record has {remaining} left")));
        }
        let at = self.at;
        self.at += words as u64;
        Ok(self.consumer.ring.words(at, words))
    }
}

impl Drop for Record<'_> {
    fn drop(&mut self) {
        self.consumer.release(self.end);
    }
}

#[cfg(all(test, loom))]
mod models;

#[cfg(all(test, not(loom)))]
mod tests;
