//! The bytes of a pickle, piece by piece.

use super::Span;

/// A place in a pickle.
pub struct Input<'a> {
    /// The whole pickle.
    pub bytes: &'a [u8],
    at: usize,
}

impl<'a> Input<'a> {
    /// The beginning of a pickle.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// How far it is read.
    pub fn at(&self) -> usize {
        self.at
    }

    /// An integer of up to eight bytes, little-endian, signed, with its length in front.
    pub fn long(&mut self) -> Result<i64, String> {
        let length = self.length(1)?;
        let bytes = self.take(length)?;
        if bytes.len() > 8 {
            return Err(format!("an integer has {} bytes", bytes.len()));
        }
        let negative = bytes.last().is_some_and(|&top| top >= 0x80);
        let mut wide = [if negative { 0xff } else { 0 }; 8];
        wide[..bytes.len()].copy_from_slice(bytes);
        Ok(i64::from_le_bytes(wide))
    }

    /// A text of some bytes.
    pub fn text(&mut self, length: usize) -> Result<Span, String> {
        let start = self.at;
        str::from_utf8(self.take(length)?).map_err(|_| "a text is no UTF-8")?;
        span(start, length)
    }

    /// A text up to the end of the line.
    pub fn line(&mut self) -> Result<Span, String> {
        let start = self.at;
        let length = self.bytes[start..].iter().position(|&b| b == b'\n').ok_or("a name has no end")?;
        str::from_utf8(&self.bytes[start..start + length]).map_err(|_| "a name is no UTF-8")?;
        self.at = start + length + 1;
        span(start, length)
    }

    /// An unsigned little-endian number of some bytes.
    pub fn length(&mut self, bytes: usize) -> Result<usize, String> {
        let mut wide = [0; 8];
        wide[..bytes].copy_from_slice(self.take(bytes)?);
        usize::try_from(u64::from_le_bytes(wide)).map_err(|_| "a length is beyond memory".into())
    }

    /// Some bytes, as many as the type says.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        Ok(self.take(N)?.try_into().expect("take gives as many bytes as asked for"))
    }

    /// A byte.
    pub fn byte(&mut self) -> Result<u8, String> {
        Ok(self.take(1)?[0])
    }

    /// Some bytes.
    pub fn take(&mut self, length: usize) -> Result<&'a [u8], String> {
        let end = self.at.checked_add(length).ok_or("a length is beyond memory")?;
        let bytes = self.bytes.get(self.at..end).ok_or("it ends in the middle")?;
        self.at = end;
        Ok(bytes)
    }
}

fn span(start: usize, length: usize) -> Result<Span, String> {
    let small = |n: usize| u32::try_from(n).map_err(|_| "it is longer than 4 GiB");
    Ok(Span { start: small(start)?, length: small(length)? })
}
