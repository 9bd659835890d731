//! Methods that take parts of a text.
//!
//! The invariant: what they return are parts of the text, which keep its marks.

use std::rc::Rc;

use super::super::budget::{Error, Result};
use super::super::unicode::{ends_line, is_space};
use super::super::value::{Args, Cx, Text, Value};
use super::{given, receiver};

/// Python's `str.strip`, on the sides asked for.
pub(in super::super) fn strip_text(
    cx: &Rc<Cx>,
    text: &Text,
    characters: Option<Value>,
    [left, right]: [bool; 2],
) -> Result<Text> {
    let set = given(characters);
    let set = match &set {
        Some(set) => Some(set.expect_text()?),
        None => None,
    };
    if let Some(set) = set {
        cx.budget.steps((text.len() as u64 / 8 + 1).saturating_mul(set.len() as u64 / 8 + 1))?;
    }
    let cut = |c: char| set.map_or_else(|| is_space(c), |set| set.contains(c));
    let mut part = &**text;
    if left {
        part = part.trim_start_matches(cut);
    }
    if right {
        part = part.trim_end_matches(cut);
    }
    text.sub(cx, part)
}

fn strip_method(cx: &Rc<Cx>, value: &Value, args: Args, function: &str, sides: [bool; 2]) -> Result<Value> {
    let text = value.expect_text()?;
    let [characters] = args.positional(function, 0)?;
    Ok(Value::Text(strip_text(cx, text, characters, sides)?))
}

pub(super) fn strip(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    strip_method(cx, &value, args, "strip", [true, true])
}

pub(super) fn lstrip(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    strip_method(cx, &value, args, "lstrip", [true, false])
}

pub(super) fn rstrip(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    strip_method(cx, &value, args, "rstrip", [false, true])
}

fn parts<'a>(cx: &Rc<Cx>, text: &Text, parts: impl IntoIterator<Item = &'a str>) -> Result<Vec<Value>> {
    parts.into_iter().map(|part| Ok(Value::Text(text.sub(cx, part)?))).collect()
}

fn split_method(cx: &Rc<Cx>, value: &Value, args: Args, function: &str, last: bool) -> Result<Value> {
    let text = receiver(cx, value)?;
    let [by, most] = args.bind(function, ["sep", "maxsplit"], 0)?;
    let most = most.map_or(Ok(-1), |most| most.expect_integer())?;
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let found = match given(by) {
        Some(by) => {
            let by = separator(by.expect_text()?)?.clone();
            let pieces = most.saturating_add(1);
            if last {
                let mut found = parts(cx, text, text.rsplitn(pieces, &*by))?;
                found.reverse();
                found
            } else {
                parts(cx, text, text.splitn(pieces, &*by))?
            }
        }
        None if last => words_from_behind(cx, text, most)?,
        None => words(cx, text, most)?,
    };
    cx.list(found)
}

pub(super) fn split(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    split_method(cx, &value, args, "split", false)
}

pub(super) fn rsplit(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    split_method(cx, &value, args, "rsplit", true)
}

fn separator(by: &Text) -> Result<&Text> {
    if by.is_empty() { Err(Error::value_error("empty separator")) } else { Ok(by) }
}

/// Split at runs of white space; after `most` splits the rest stays whole but for the white space before it.
fn words(cx: &Rc<Cx>, text: &Text, most: usize) -> Result<Vec<Value>> {
    let (mut rest, mut found) = (text.trim_start_matches(is_space), Vec::new());
    while !rest.is_empty() {
        let end = if found.len() < most { rest.find(is_space) } else { None };
        let Some(end) = end else {
            // The last word that is split off ends where white space begins; a rest that was not split keeps its own.
            found.push(Value::Text(text.sub(cx, rest)?));
            break;
        };
        found.push(Value::Text(text.sub(cx, &rest[..end])?));
        rest = rest[end..].trim_start_matches(is_space);
    }
    Ok(found)
}

fn words_from_behind(cx: &Rc<Cx>, text: &Text, most: usize) -> Result<Vec<Value>> {
    let (mut rest, mut found) = (text.trim_end_matches(is_space), Vec::new());
    while !rest.is_empty() {
        let space = if found.len() < most { rest.char_indices().rev().find(|&(_, c)| is_space(c)) } else { None };
        let Some((at, c)) = space else {
            found.push(Value::Text(text.sub(cx, rest)?));
            break;
        };
        found.push(Value::Text(text.sub(cx, &rest[at + c.len_utf8()..])?));
        rest = rest[..at].trim_end_matches(is_space);
    }
    found.reverse();
    Ok(found)
}

/// Python's `str.splitlines`.
pub(in super::super) fn lines(cx: &Rc<Cx>, text: &Text, keep: bool) -> Result<Vec<Text>> {
    cx.budget.copy(text.len())?;
    let mut found = Vec::new();
    let mut start = 0;
    while start < text.len() {
        let rest = &text[start..];
        let (line, end) = match rest.char_indices().find(|&(_, c)| ends_line(c)) {
            Some((at, c)) => (at, at + if rest[at..].starts_with("\r\n") { 2 } else { c.len_utf8() }),
            None => (rest.len(), rest.len()),
        };
        found.push(text.part(cx, start..start + if keep { end } else { line })?);
        start += end;
    }
    Ok(found)
}

pub(super) fn splitlines(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    let [keep] = args.bind("splitlines", ["keepends"], 0)?;
    let keep = match keep {
        Some(keep) => {
            keep.defined()?;
            keep.truth(cx)?
        }
        None => false,
    };
    let lines = lines(cx, value.expect_text()?, keep)?;
    cx.list(lines.into_iter().map(Value::Text).collect())
}

fn partition_method(cx: &Rc<Cx>, value: &Value, args: Args, function: &str, last: bool) -> Result<Value> {
    let text = receiver(cx, value)?;
    let [by] = args.positional(function, 1)?;
    let by = by.unwrap_or(Value::None);
    let by = separator(by.expect_text()?)?;
    let at = if last { text.rfind(&**by) } else { text.find(&**by) };
    let found = match at {
        Some(at) => [&text[..at], &text[at..at + by.len()], &text[at + by.len()..]],
        None if last => [&text[..0], &text[..0], &**text],
        None => [&**text, &text[..0], &text[..0]],
    };
    cx.tuple(parts(cx, text, found)?)
}

pub(super) fn partition(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    partition_method(cx, &value, args, "partition", false)
}

pub(super) fn rpartition(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    partition_method(cx, &value, args, "rpartition", true)
}

fn remove<'a>(
    value: &'a Value,
    args: Args,
    function: &str,
    cut: for<'t> fn(&'t str, &str) -> Option<&'t str>,
) -> Result<(&'a Text, &'a str)> {
    let text = value.expect_text()?;
    let [part] = args.positional(function, 1)?;
    let part = part.unwrap_or(Value::None);
    Ok((text, cut(text, part.expect_text()?).unwrap_or(text)))
}

pub(super) fn removeprefix(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    let (text, part) = remove(&value, args, "removeprefix", |text, part| text.strip_prefix(part))?;
    Ok(Value::Text(text.sub(cx, part)?))
}

pub(super) fn removesuffix(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    let (text, part) = remove(&value, args, "removesuffix", |text, part| text.strip_suffix(part))?;
    Ok(Value::Text(text.sub(cx, part)?))
}
