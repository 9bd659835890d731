//! Methods of texts as Python has them: positions are counted in characters, and white space is Python's, which takes the
//! control characters U+001C to U+001F for blanks. What is not here, minijinja's own methods answer.

use minijinja::value::{Kwargs, Rest, from_args};
use minijinja::{Error, ErrorKind, Value};

/// Whether Python's `str.isspace` holds for this character.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// The result of `text.method(args)`; `None` where the method is not one of these.
pub(super) fn method(text: &str, method: &str, args: &[Value]) -> Option<Result<Value, Error>> {
    Some(match method {
        "find" => find(text, args, false).map(|at| Value::from(at.map_or(-1, signed))),
        "rfind" => find(text, args, true).map(|at| Value::from(at.map_or(-1, signed))),
        "index" => find(text, args, false).and_then(found),
        "rindex" => find(text, args, true).and_then(found),
        "count" => within(text, args).map(|(part, place)| {
            Value::from(match place {
                None => 0,
                Some((_, place)) if part.is_empty() => place.chars().count() + 1,
                Some((_, place)) => place.matches(part).count(),
            })
        }),
        "strip" => strip(text, args, true, true),
        "lstrip" => strip(text, args, true, false),
        "rstrip" => strip(text, args, false, true),
        "removeprefix" => one(args).map(|part| Value::from(text.strip_prefix(part).unwrap_or(text))),
        "removesuffix" => one(args).map(|part| Value::from(text.strip_suffix(part).unwrap_or(text))),
        "partition" => partition(text, args, false),
        "rpartition" => partition(text, args, true),
        "split" => split(text, args, false),
        "rsplit" => split(text, args, true),
        "isspace" => none(args).map(|()| Value::from(!text.is_empty() && text.chars().all(is_space))),
        "isdigit" | "isdecimal" | "isnumeric" if text.is_ascii() => {
            none(args).map(|()| Value::from(!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())))
        }
        "isalnum" | "isalpha" if text.is_empty() => none(args).map(|()| Value::from(false)),
        "zfill" => zfill(text, args),
        _ => return None,
    })
}

/// Python's `str.strip()`.
pub(super) fn trimmed<'a>(text: &'a str, characters: Option<&str>, left: bool, right: bool) -> &'a str {
    let cut = |c: char| characters.map_or_else(|| is_space(c), |set| set.contains(c));
    let text = if left { text.trim_start_matches(cut) } else { text };
    if right { text.trim_end_matches(cut) } else { text }
}

fn signed(at: usize) -> i64 {
    i64::try_from(at).unwrap_or(i64::MAX)
}

fn found(at: Option<usize>) -> Result<Value, Error> {
    at.map(Value::from).ok_or_else(|| Error::new(ErrorKind::InvalidOperation, "substring not found"))
}

fn none(args: &[Value]) -> Result<(), Error> {
    from_args::<()>(args)
}

fn one(args: &[Value]) -> Result<&str, Error> {
    from_args::<(&str,)>(args).map(|(part,)| part)
}

/// The character at which a part stands, counted from the beginning of the whole text.
fn find(text: &str, args: &[Value], last: bool) -> Result<Option<usize>, Error> {
    let (part, place) = within(text, args)?;
    Ok(place.and_then(|(start, place)| {
        let at = if last { place.rfind(part) } else { place.find(part) };
        at.map(|at| start + place[..at].chars().count())
    }))
}

/// A part of a text: the character that it begins with, counted from the text's beginning, and the part.
type Place<'a> = (usize, &'a str);

/// What is looked for, and in what part of the text: its first character and the part itself, if it has a place at all.
fn within<'a>(text: &'a str, args: &'a [Value]) -> Result<(&'a str, Option<Place<'a>>), Error> {
    let (part, start, end): (&str, Option<i64>, Option<i64>) = from_args(args)?;
    let length = text.chars().count();
    let place = |at: i64| {
        let at = if at < 0 { at.saturating_add(signed(length)) } else { at };
        usize::try_from(at.max(0)).unwrap_or(usize::MAX)
    };
    let (start, end) = (start.map_or(0, place), end.map_or(length, place).min(length));
    if start > end {
        return Ok((part, None));
    }
    let byte = |at: usize| text.char_indices().nth(at).map_or(text.len(), |(byte, _)| byte);
    Ok((part, Some((start, &text[byte(start)..byte(end)]))))
}

fn strip(text: &str, args: &[Value], left: bool, right: bool) -> Result<Value, Error> {
    let (characters,): (Option<Value>,) = from_args(args)?;
    let characters = characters.filter(|c| !c.is_none());
    let characters = match &characters {
        Some(set) => Some(set.as_str().ok_or_else(|| wrong("strip takes a text of characters"))?),
        None => None,
    };
    Ok(Value::from(trimmed(text, characters, left, right)))
}

fn partition(text: &str, args: &[Value], last: bool) -> Result<Value, Error> {
    let separator = separator(one(args)?)?;
    let parts = if last { text.rsplit_once(separator) } else { text.split_once(separator) };
    let parts = match parts {
        Some((before, after)) => [before, separator, after],
        None if last => ["", "", text],
        None => [text, "", ""],
    };
    Ok(super::print::tuple(parts.into_iter().map(Value::from).collect()))
}

fn split(text: &str, args: &[Value], last: bool) -> Result<Value, Error> {
    let (places, named): (Rest<Value>, Kwargs) = from_args(args)?;
    let given = |at: usize, name: &str| match places.get(at) {
        Some(value) => Ok(Some(value.clone())),
        None => named.get::<Option<Value>>(name),
    };
    let (by, most) = (given(0, "sep")?.filter(|v| !v.is_none()), given(1, "maxsplit")?);
    named.assert_all_used()?;
    if places.len() > 2 {
        return Err(wrong("split takes a separator and a number of splits"));
    }
    let most = match most {
        Some(most) => usize::try_from(i64::try_from(most)?).ok(),
        None => None,
    };
    let parts = match &by {
        Some(by) => {
            let by = separator(by.as_str().ok_or_else(|| wrong("split takes a text to split by"))?)?;
            let pieces = most.map_or(usize::MAX, |most| most.saturating_add(1));
            if last {
                let mut parts: Vec<&str> = text.rsplitn(pieces, by).collect();
                parts.reverse();
                parts
            } else {
                text.splitn(pieces, by).collect()
            }
        }
        None if last => words_from_behind(text, most),
        None => words(text, most),
    };
    Ok(list(parts))
}

fn list(parts: Vec<&str>) -> Value {
    super::print::list(parts.into_iter().map(Value::from).collect())
}

/// Split at runs of white space; after `most` splits the rest stays whole but for the white space before it.
fn words(text: &str, most: Option<usize>) -> Vec<&str> {
    let (mut rest, mut parts) = (text.trim_start_matches(is_space), Vec::new());
    while !rest.is_empty() {
        match rest.find(is_space).filter(|_| most.is_none_or(|most| parts.len() < most)) {
            Some(end) => {
                parts.push(&rest[..end]);
                rest = rest[end..].trim_start_matches(is_space);
            }
            None => {
                parts.push(rest);
                break;
            }
        }
    }
    parts
}

fn words_from_behind(text: &str, most: Option<usize>) -> Vec<&str> {
    let (mut rest, mut parts) = (text.trim_end_matches(is_space), Vec::new());
    while !rest.is_empty() {
        let space = rest.char_indices().rev().find(|&(_, c)| is_space(c));
        match space.filter(|_| most.is_none_or(|most| parts.len() < most)) {
            Some((at, c)) => {
                parts.push(&rest[at + c.len_utf8()..]);
                rest = rest[..at].trim_end_matches(is_space);
            }
            None => {
                parts.push(rest);
                break;
            }
        }
    }
    parts.reverse();
    parts
}

fn zfill(text: &str, args: &[Value]) -> Result<Value, Error> {
    let (width,): (i64,) = from_args(args)?;
    let width = usize::try_from(width).unwrap_or(0);
    if width > crate::limits::MAX_TEXT_BYTES {
        return Err(wrong("zfill: the width is beyond the longest text"));
    }
    let zeros = "0".repeat(width.saturating_sub(text.chars().count()));
    let sign = if text.starts_with(['+', '-']) { 1 } else { 0 };
    Ok(Value::from(format!("{}{zeros}{}", &text[..sign], &text[sign..])))
}

fn separator(separator: &str) -> Result<&str, Error> {
    if separator.is_empty() { Err(wrong("empty separator")) } else { Ok(separator) }
}

fn wrong(message: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}
