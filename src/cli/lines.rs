//! Lines of any input, of bounded length: a file without line breaks must not fill the memory.

use std::io::{self, BufRead};

/// Reads line after line.
pub struct Lines<R> {
    input: R,
    max_bytes: usize,
    number: u64,
    consumed: u64,
}

/// One line, without its line feed.
#[derive(Debug, PartialEq)]
pub struct Line {
    /// Counted from 1.
    pub number: u64,
    /// Bytes of the input up to the line's end.
    pub consumed: u64,
    /// `None`: longer than allowed, and thrown away.
    pub bytes: Option<Vec<u8>>,
}

impl<R: BufRead> Lines<R> {
    /// Lines of at most `max_bytes`.
    pub fn new(input: R, max_bytes: usize) -> Self {
        Self { input, max_bytes, number: 0, consumed: 0 }
    }

    /// The next line that holds anything but white space.
    pub fn next(&mut self) -> io::Result<Option<Line>> {
        while let Some(line) = self.any()? {
            if line.bytes.as_ref().is_none_or(|bytes| !bytes.trim_ascii().is_empty()) {
                return Ok(Some(line));
            }
        }
        Ok(None)
    }

    fn any(&mut self) -> io::Result<Option<Line>> {
        let mut bytes = Some(Vec::new());
        let mut begun = false;
        loop {
            let available = match self.input.fill_buf() {
                Ok(available) => available,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            if available.is_empty() && !begun {
                return Ok(None);
            }
            begun = true;
            let end = available.iter().position(|&byte| byte == b'\n');
            let part = &available[..end.unwrap_or(available.len())];
            bytes = bytes.filter(|line| line.len() + part.len() <= self.max_bytes);
            if let Some(line) = &mut bytes {
                line.extend_from_slice(part);
            }
            let used = part.len() + usize::from(end.is_some());
            self.input.consume(used);
            self.consumed += used as u64;
            if end.is_some() || used == 0 {
                self.number += 1;
                if let Some(line) = &mut bytes
                    && self.number == 1
                    && line.starts_with("\u{feff}".as_bytes())
                {
                    // A byte-order mark, as some editors write.
                    line.drain(..3);
                }
                return Ok(Some(Line { number: self.number, consumed: self.consumed, bytes }));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(input: &[u8], buffer: usize, max_bytes: usize) -> Vec<(u64, Option<String>)> {
        let mut lines = Lines::new(io::BufReader::with_capacity(buffer, input), max_bytes);
        let mut found = Vec::new();
        while let Some(line) = lines.next().unwrap() {
            found.push((line.number, line.bytes.map(|bytes| String::from_utf8(bytes).unwrap())));
        }
        assert_eq!(lines.consumed, input.len() as u64);
        found
    }

    fn some(number: u64, text: &str) -> (u64, Option<String>) {
        (number, Some(text.to_owned()))
    }

    #[test]
    fn whatever_the_buffer() {
        for buffer in 1..20 {
            assert_eq!(all(b"", buffer, 9), vec![]);
            assert_eq!(all(b"one\ntwo", buffer, 9), vec![some(1, "one"), some(2, "two")]);
            assert_eq!(all(b"one\n\n  \r\ntwo\n", buffer, 9), vec![some(1, "one"), some(4, "two")]);
            assert_eq!(all(b"one\n0123456789\ntwo\n", buffer, 9), vec![some(1, "one"), (2, None), some(3, "two")]);
            assert_eq!(all(b"0123456789", buffer, 9), vec![(1, None)]);
            assert_eq!(all("\u{feff}one".as_bytes(), buffer, 9), vec![some(1, "one")]);
        }
    }
}
