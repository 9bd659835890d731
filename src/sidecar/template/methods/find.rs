//! Methods that look for a text in another: positions are counted in characters.
//!
//! The invariant: a search costs no more than the two texts' lengths.

use std::ops::Range;
use std::rc::Rc;

use super::super::budget::{Error, Result};
use super::super::value::{Args, Cx, Out, Text, Value};
use super::receiver;

/// Where a part of a text is looked for: its first character, and its bytes. `None`: nowhere.
fn place(text: &Text, start: Option<Value>, end: Option<Value>) -> Result<Option<(usize, Range<usize>)>> {
    let bound = |value: Option<Value>| match value {
        None | Some(Value::None) => Ok(None),
        Some(value) => value.expect_integer().map(Some),
    };
    let (start, end) = (bound(start)?, bound(end)?);
    if start.is_none() && end.is_none() {
        return Ok(Some((0, 0..text.len())));
    }
    let length = text.count();
    let at = |at: i128| {
        let at = if at < 0 { at.saturating_add(length as i128) } else { at };
        usize::try_from(at.max(0)).unwrap_or(usize::MAX)
    };
    let (start, end) = (start.map_or(0, at), end.map_or(length, at).min(length));
    Ok((start <= end).then(|| (start, text.byte(start)..text.byte(end))))
}

fn position(cx: &Rc<Cx>, value: &Value, args: Args, function: &str, last: bool) -> Result<Option<usize>> {
    let text = receiver(cx, value)?;
    let [part, start, end] = args.positional(function, 1)?;
    let part = part.unwrap_or(Value::None);
    let part = part.expect_text()?;
    cx.budget.copy(part.len())?;
    Ok(place(text, start, end)?.and_then(|(first, range)| {
        let place = &text[range];
        let at = if last { place.rfind(&**part) } else { place.find(&**part) };
        at.map(|at| first + if place.is_ascii() { at } else { place[..at].chars().count() })
    }))
}

fn number(at: Option<usize>) -> Result<Value> {
    Ok(Value::Int(at.map_or(-1, |at| at as i128)))
}

fn found(at: Option<usize>) -> Result<Value> {
    at.map(|at| Value::Int(at as i128)).ok_or_else(|| Error::value_error("substring not found"))
}

pub(super) fn find(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    number(position(cx, &value, args, "find", false)?)
}

pub(super) fn rfind(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    number(position(cx, &value, args, "rfind", true)?)
}

pub(super) fn index(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    found(position(cx, &value, args, "index", false)?)
}

pub(super) fn rindex(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    found(position(cx, &value, args, "rindex", true)?)
}

pub(super) fn count(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    let text = receiver(cx, &value)?;
    let [part, start, end] = args.positional("count", 1)?;
    let part = part.unwrap_or(Value::None);
    let part = part.expect_text()?;
    let count = match place(text, start, end)? {
        None => 0,
        Some((_, range)) if part.is_empty() => text[range].chars().count() + 1,
        Some((_, range)) => text[range].matches(&**part).count(),
    };
    Ok(Value::Int(count as i128))
}

fn stands(cx: &Rc<Cx>, value: &Value, args: Args, function: &str, is: fn(&str, &str) -> bool) -> Result<Value> {
    let text = value.expect_text()?;
    let [part, start, end] = args.positional(function, 1)?;
    let parts = match part.unwrap_or(Value::None) {
        Value::Tuple(parts) => parts.items.clone(),
        part => vec![part],
    };
    if start.is_some() || end.is_some() {
        cx.budget.copy(text.len())?;
    }
    let place = place(text, start, end)?.map(|(_, range)| &text[range]);
    for part in &parts {
        let part = part.expect_text()?;
        cx.budget.copy(part.len())?;
        if place.is_some_and(|place| is(place, part)) {
            return Ok(Value::Bool(true));
        }
    }
    Ok(Value::Bool(false))
}

pub(super) fn starts_with(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    stands(cx, &value, args, "startswith", |place, part| place.starts_with(part))
}

pub(super) fn ends_with(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    stands(cx, &value, args, "endswith", |place, part| place.ends_with(part))
}

pub(super) fn replace(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    let text = receiver(cx, &value)?;
    let [old, new, most] = args.positional("replace", 2)?;
    let (old, new) = (old.unwrap_or(Value::None), new.unwrap_or(Value::None));
    let most = most.map_or(Ok(-1), |most| most.expect_integer())?;
    let new = if text.is_markup() { super::escape(cx, new.expect_text()?)? } else { new.expect_text()?.clone() };
    Ok(Value::Text(replaced(cx, text, old.expect_text()?, &new, most)?))
}

/// Python's `str.replace`; what is not replaced keeps its marks.
pub(in super::super) fn replaced(cx: &Rc<Cx>, text: &Text, old: &Text, new: &Text, most: i128) -> Result<Text> {
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let mut out = Out::new(cx)?;
    let mut at = 0;
    if old.is_empty() {
        // Before each character, and behind the last.
        let ends = text.char_indices().map(|(at, _)| at).skip(1).chain([text.len()]);
        let mut done = 0;
        for end in ends.take(if text.is_empty() { 0 } else { usize::MAX }) {
            if done == most {
                break;
            }
            out.push_text(new)?;
            out.push_part(text, at..end)?;
            at = end;
            done += 1;
        }
        out.push_part(text, at..text.len())?;
        if done < most {
            out.push_text(new)?;
        }
        return out.finish_as(text.is_markup());
    }
    cx.budget.search(text.len() + old.len())?;
    for (start, _) in text.match_indices(&**old).take(most) {
        out.push_part(text, at..start)?;
        out.push_text(new)?;
        at = start + old.len();
    }
    if at == 0 && out.len() == 0 {
        return Ok(text.clone());
    }
    out.push_part(text, at..text.len())?;
    out.finish_as(text.is_markup())
}
