//! markupsafe's `striptags` and Python's `html.unescape`.
//!
//! The invariant: entities are those of HTML 5 (`entities.txt`, made by `tools/templates/unicode_tables.py`).

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::LazyLock;

use super::budget::Result;
use super::unicode::is_space;
use super::value::{Cx, Text};

static ENTITIES: LazyLock<HashMap<&'static str, String>> = LazyLock::new(|| {
    let entity = |line: &'static str| {
        let (name, codes) = line.split_once(' ')?;
        let code = |digits: &str| u32::from_str_radix(digits, 16).ok().and_then(char::from_u32);
        Some((name, codes.split('+').filter_map(code).collect()))
    };
    include_str!("entities.txt").lines().filter_map(entity).collect()
});

/// The text without comments and tags, its white space made single, its entities as characters.
pub(super) fn strip_tags(cx: &Rc<Cx>, text: &Text) -> Result<Text> {
    let without = without(&without(text, "<!--", "-->"), "<", ">");
    cx.budget.copy(text.len() * 4)?;
    let words: Vec<&str> = without.split(is_space).filter(|word| !word.is_empty()).collect();
    Text::whole(cx, unescaped(&words.join(" ")), text.is_marked(), false)
}

pub(super) fn unescape(cx: &Rc<Cx>, text: &Text) -> Result<Text> {
    cx.budget.copy(text.len() * 4)?;
    Text::whole(cx, unescaped(text), text.is_marked(), false)
}

fn without(text: &str, open: &str, close: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(start) = rest.find(open) {
        let Some(end) = rest[start..].find(close) else { break };
        out.push_str(&rest[..start]);
        rest = &rest[start + end + close.len()..];
    }
    out.push_str(rest);
    out
}

fn unescaped(text: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let (length, written) = entity(rest);
        match written {
            Some(written) => out.push_str(&written),
            None => out.push('&'),
        }
        rest = &rest[length..];
    }
    out.push_str(rest);
    out
}

/// What an entity is, and how long its name; `None` where there is none.
fn entity(rest: &str) -> (usize, Option<String>) {
    if let Some(number) = rest.strip_prefix('#') {
        let (digits, radix) = match number.strip_prefix(['x', 'X']) {
            Some(digits) => (digits, 16),
            None => (number, 10),
        };
        let count = digits.len() - digits.trim_start_matches(|c: char| c.is_digit(radix)).len();
        if count == 0 {
            return (0, None);
        }
        let end = usize::from(digits[count..].starts_with(';'));
        let length = 1 + (number.len() - digits.len()) + count + end;
        return (length, Some(numeric(u32::from_str_radix(&digits[..count], radix).unwrap_or(u32::MAX))));
    }
    let name_end = |c: char| matches!(c, '\t' | '\n' | '\u{c}' | ' ' | '<' | '&' | '#' | ';');
    let name: usize = rest.chars().take(32).take_while(|c| !name_end(*c)).map(char::len_utf8).sum();
    if name == 0 {
        return (0, None);
    }
    let whole = name + usize::from(rest[name..].starts_with(';'));
    if let Some(written) = ENTITIES.get(&rest[..whole]) {
        return (whole, Some(written.clone()));
    }
    for end in (2..whole).rev() {
        if let Some(written) = rest.get(..end).and_then(|name| ENTITIES.get(name)) {
            return (end, Some(written.clone()));
        }
    }
    (0, None)
}

/// A character by its number, as HTML 5 corrects it.
fn numeric(code: u32) -> String {
    const WINDOWS: [u32; 32] = [
        0x20ac, 0x81, 0x201a, 0x192, 0x201e, 0x2026, 0x2020, 0x2021, 0x2c6, 0x2030, 0x160, 0x2039, 0x152, 0x8d, 0x17d,
        0x8f, 0x90, 0x2018, 0x2019, 0x201c, 0x201d, 0x2022, 0x2013, 0x2014, 0x2dc, 0x2122, 0x161, 0x203a, 0x153, 0x9d,
        0x17e, 0x178,
    ];
    let code = match code {
        0 => 0xfffd,
        0xd => 0xd,
        0x80..=0x9f => WINDOWS[(code - 0x80) as usize],
        0xd800..=0xdfff => 0xfffd,
        code if code > 0x10ffff => 0xfffd,
        0x1..=0x8 | 0xb | 0xe..=0x1f | 0x7f | 0xfdd0..=0xfdef => return String::new(),
        code if code & 0xfffe == 0xfffe => return String::new(),
        code => code,
    };
    char::from_u32(code).map(String::from).unwrap_or_default()
}
