//! Classes of characters and case mappings as CPython 3.11 has them (Unicode 14).
//!
//! The invariant: what a method says of a character is what Python says. The tables in `unicode.txt` are made by
//! `tools/templates/unicode_tables.py`.

use std::collections::HashMap;
use std::sync::LazyLock;

/// Whether Python's `str.isspace` holds for this character, which is also what `\s` means in its patterns.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// Whether a line ends with this character, for Python's `splitlines`.
pub(super) fn ends_line(c: char) -> bool {
    matches!(c, '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}' | '\u{1d}' | '\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

type Ranges = Vec<(u32, u32)>;
type Mapping = HashMap<char, String>;

struct Tables {
    classes: HashMap<&'static str, Ranges>,
    title: Mapping,
    fold: Mapping,
}

static TABLES: LazyLock<Tables> = LazyLock::new(|| {
    let mut tables = Tables { classes: HashMap::new(), title: HashMap::new(), fold: HashMap::new() };
    for line in include_str!("unicode.txt").lines() {
        let mut words = line.split(' ');
        match words.next().unwrap_or_default() {
            "title_of" => tables.title = words.filter_map(mapping).collect(),
            "fold_of" => tables.fold = words.filter_map(mapping).collect(),
            name => _ = tables.classes.insert(name, words.filter_map(range).collect()),
        }
    }
    tables
});

fn range(word: &str) -> Option<(u32, u32)> {
    let (first, last) = word.split_once('-').unwrap_or((word, word));
    Some((u32::from_str_radix(first, 16).ok()?, u32::from_str_radix(last, 16).ok()?))
}

fn character(digits: &str) -> Option<char> {
    char::from_u32(u32::from_str_radix(digits, 16).ok()?)
}

fn mapping(word: &str) -> Option<(char, String)> {
    let (from, to) = word.split_once('=')?;
    Some((character(from)?, to.split('+').filter_map(character).collect()))
}

fn is(class: &str, c: char) -> bool {
    let code = u32::from(c);
    TABLES.classes.get(class).is_some_and(|ranges| {
        let at = ranges.partition_point(|(_, last)| *last < code);
        ranges.get(at).is_some_and(|(first, _)| *first <= code)
    })
}

pub(super) fn is_printable(c: char) -> bool {
    if c.is_ascii() { (' '..='~').contains(&c) } else { !is("unprintable", c) }
}

pub(super) fn is_alpha(c: char) -> bool {
    if c.is_ascii() { c.is_ascii_alphabetic() } else { is("alpha", c) }
}

pub(super) fn is_decimal(c: char) -> bool {
    if c.is_ascii() { c.is_ascii_digit() } else { is("decimal", c) }
}

pub(super) fn is_digit(c: char) -> bool {
    if c.is_ascii() { c.is_ascii_digit() } else { is("digit", c) }
}

pub(super) fn is_numeric(c: char) -> bool {
    if c.is_ascii() { c.is_ascii_digit() } else { is("numeric", c) }
}

pub(super) fn is_alphanumeric(c: char) -> bool {
    is_alpha(c) || is_decimal(c) || is_digit(c) || is_numeric(c)
}

pub(super) fn is_lower(c: char) -> bool {
    if c.is_ascii() { c.is_ascii_lowercase() } else { is("lower", c) }
}

pub(super) fn is_upper(c: char) -> bool {
    if c.is_ascii() { c.is_ascii_uppercase() } else { is("upper", c) }
}

pub(super) fn is_title(c: char) -> bool {
    !c.is_ascii() && is("title", c)
}

/// Whether it may stand in a name, behind the first character.
pub(super) fn is_identifier(c: char) -> bool {
    if c.is_ascii() { c == '_' || c.is_ascii_alphanumeric() } else { is("identifier", c) }
}

pub(super) fn starts_identifier(c: char) -> bool {
    if c.is_ascii() { c == '_' || c.is_ascii_alphabetic() } else { is("identifier_start", c) }
}

/// Pushes a character as it is written at a word's beginning.
pub(super) fn push_title(c: char, out: &mut String) {
    match TABLES.title.get(&c).filter(|_| !c.is_ascii()) {
        Some(title) => out.push_str(title),
        None => out.extend(c.to_uppercase()),
    }
}

pub(super) fn folded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match TABLES.fold.get(&c).filter(|_| !c.is_ascii()) {
            Some(folded) => out.push_str(folded),
            None => out.extend(c.to_lowercase()),
        }
    }
    out
}
