//! JSON as Python's `json` writes it unless told otherwise, which is not JSON everywhere: `NaN`, `Infinity`, `-Infinity`, and
//! escapes of unpaired surrogates (json.JSONEncoder, `allow_nan`, `ensure_ascii`).
//!
//! Invariants: JSON stays as it is, byte for byte. A number that is none becomes text of that name, so that no field of ours takes
//! it for one; an unpaired surrogate becomes a character that stands nowhere else in the body, so that a text with it is told from
//! every other.

use std::borrow::Cow;

/// A body, and what stands in it for an unpaired surrogate, if there was one.
#[derive(Debug, PartialEq)]
pub(super) struct Cleaned<'a> {
    pub json: Cow<'a, [u8]>,
    pub unpaired: Option<char>,
}

/// Numbers that JSON has none of. The longer ones first.
const NUMBERS: [&[u8]; 3] = [b"-Infinity", b"Infinity", b"NaN"];

/// See the module. `None` where every character that could stand for an unpaired surrogate is in the body already.
pub(super) fn clean(body: &[u8]) -> Option<Cleaned<'_>> {
    let unusual = [b"NaN".as_slice(), b"Infinity", b"\\ud", b"\\uD"];
    if !unusual.iter().any(|bytes| contains(body, bytes)) {
        return Some(Cleaned { json: Cow::Borrowed(body), unpaired: None });
    }
    let mut scan = Scan { rest: body, json: Vec::with_capacity(body.len() + 16), marker: None };
    while let Some(&byte) = scan.rest.first() {
        match byte {
            b'"' => scan.string(body)?,
            b'-' | b'I' | b'N' => scan.number(),
            _ => scan.copy(1),
        }
    }
    Some(Cleaned { json: Cow::Owned(scan.json), unpaired: scan.marker })
}

/// Numbers alone: unpaired surrogates stay, for a parser to refuse.
pub(super) fn numbers(body: &[u8]) -> Cow<'_, [u8]> {
    if !NUMBERS[1..].iter().any(|bytes| contains(body, bytes)) {
        return Cow::Borrowed(body);
    }
    let mut scan = Scan { rest: body, json: Vec::with_capacity(body.len() + 16), marker: None };
    while let Some(&byte) = scan.rest.first() {
        match byte {
            b'"' => scan.plain_string(),
            b'-' | b'I' | b'N' => scan.number(),
            _ => scan.copy(1),
        }
    }
    Cow::Owned(scan.json)
}

struct Scan<'a> {
    rest: &'a [u8],
    json: Vec<u8>,
    marker: Option<char>,
}

impl Scan<'_> {
    fn copy(&mut self, bytes: usize) {
        let (copied, rest) = self.rest.split_at(bytes.min(self.rest.len()));
        self.json.extend_from_slice(copied);
        self.rest = rest;
    }

    fn number(&mut self) {
        match NUMBERS.iter().find(|number| self.rest.starts_with(number)) {
            Some(number) => {
                self.json.push(b'"');
                self.copy(number.len());
                self.json.push(b'"');
            }
            None => self.copy(1),
        }
    }

    /// A string, from its first quotation mark to behind its last.
    fn string(&mut self, body: &[u8]) -> Option<()> {
        self.copy(1);
        while let Some(&byte) = self.rest.first() {
            match (byte, self.surrogate(0)) {
                (b'"', _) => {
                    self.copy(1);
                    break;
                }
                (b'\\', None) => self.copy(2),
                (b'\\', Some(Half::First)) if self.surrogate(ESCAPE) == Some(Half::Second) => self.copy(2 * ESCAPE),
                (b'\\', Some(_)) => {
                    let marker = match self.marker {
                        Some(marker) => marker,
                        None => unused(body)?,
                    };
                    self.marker = Some(marker);
                    self.json.extend_from_slice(marker.encode_utf8(&mut [0; 4]).as_bytes());
                    self.rest = &self.rest[ESCAPE..];
                }
                _ => self.copy(1),
            }
        }
        Some(())
    }

    fn plain_string(&mut self) {
        self.copy(1);
        while let Some(&byte) = self.rest.first() {
            self.copy(if byte == b'\\' { 2 } else { 1 });
            if byte == b'"' {
                break;
            }
        }
    }

    /// Which half of a pair is escaped `at` bytes from here.
    fn surrogate(&self, at: usize) -> Option<Half> {
        let escape = self.rest.get(at..at + ESCAPE)?.strip_prefix(b"\\u")?;
        let code = u16::from_str_radix(std::str::from_utf8(escape).ok()?, 16).ok()?;
        match code {
            0xd800..=0xdbff => Some(Half::First),
            0xdc00..=0xdfff => Some(Half::Second),
            _ => None,
        }
    }
}

/// Bytes of `\u` and four digits.
const ESCAPE: usize = 6;

#[derive(Debug, PartialEq)]
enum Half {
    First,
    Second,
}

/// A character that no text should hold (a noncharacter of Unicode, section 23.7) and that this body does not hold, written out or
/// escaped.
fn unused(body: &[u8]) -> Option<char> {
    let lower = body.to_ascii_lowercase();
    ('\u{fdd0}'..='\u{fdef}').find(|&c| {
        let escape = format!("\\u{:04x}", u32::from(c));
        !contains(body, c.encode_utf8(&mut [0; 4]).as_bytes()) && !contains(&lower, escape.as_bytes())
    })
}

fn contains(body: &[u8], bytes: &[u8]) -> bool {
    body.windows(bytes.len()).any(|window| window == bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cleaned(body: &str) -> (String, Option<char>) {
        let Cleaned { json, unpaired } = clean(body.as_bytes()).unwrap();
        (String::from_utf8(json.into_owned()).unwrap(), unpaired)
    }

    #[test]
    fn json_stays_as_it_is() {
        for json in [
            r#"{"a":[1,-2.5e3,null],"b":"\ud83d\ude00 \\ud800 \"NaN\" Infinity"}"#,
            "{\"labels\":\"NaN\"}",
            "not JSON: \"NaN",
            "[1, 2]",
        ] {
            assert_eq!(cleaned(json), (json.to_owned(), None));
        }
    }

    #[test]
    fn numbers_that_are_none_are_text() {
        let (body, json) = ("[NaN, -Infinity,Infinity,-1]", r#"["NaN", "-Infinity","Infinity",-1]"#);
        assert_eq!((cleaned(body).0.as_str(), &*numbers(body.as_bytes())), (json, json.as_bytes()));
        let body = r#"["\ud83d \" NaN",1]"#;
        assert_eq!(&*numbers(body.as_bytes()), body.as_bytes());
    }

    #[test]
    fn unpaired_surrogates_are_one_character_that_is_nowhere_else() {
        let (json, marker) = cleaned(r#"["a\ud83d","\uDE00b","\ud83d\ud83d\ude00"]"#);
        let marker = marker.unwrap();
        assert_eq!(json, format!("[\"a{marker}\",\"{marker}b\",\"{marker}\\ud83d\\ude00\"]"));
        let (_, other) = cleaned("[\"\\ud83d\",\"\u{fdd0}\",\"\\uFDD1\"]");
        assert_eq!(other, Some('\u{fdd2}'));
        let all: String = ('\u{fdd0}'..='\u{fdef}').collect();
        assert_eq!(clean(format!("[\"\\ud83d{all}\"]").as_bytes()), None);
    }
}
