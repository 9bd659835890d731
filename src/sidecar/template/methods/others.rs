//! Methods of lists, dictionaries and numbers, and those of texts that make a text of values.
//!
//! The invariant: nothing here changes its value.

use std::rc::Rc;

use super::super::budget::{Error, Result};
use super::super::format::{Escape, format as braces, percent};
use super::super::value::{Args, Cx, Native, Out, Text, Value, View, equal, iterate};
use super::{none, receiver, table};

/// markupsafe's `escape`: the text, safe for HTML.
pub(in super::super) fn escape(cx: &Rc<Cx>, text: &Text) -> Result<Text> {
    if text.is_markup() {
        return Ok(text.clone());
    }
    let mut out = Out::new(cx)?;
    let mut at = 0;
    for (found, sign) in text.match_indices(['&', '<', '>', '\'', '"']) {
        out.push_part(text, at..found)?;
        let start = out.len();
        out.push(match sign {
            "&" => "&amp;",
            "<" => "&lt;",
            ">" => "&gt;",
            "'" => "&#39;",
            _ => "&#34;",
        })?;
        if text.is_marked_at(found) {
            out.mark(start..out.len());
        }
        at = found + 1;
    }
    out.push_part(text, at..text.len())?;
    out.finish_as(true)
}

pub(super) fn join(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    let between = receiver(cx, &value)?;
    let [items] = args.positional("join", 1)?;
    let mut items = iterate(&items.unwrap_or(Value::None))?;
    let mut out = Out::new(cx)?;
    let mut first = true;
    while let Some(item) = items.next(cx)? {
        if !first {
            out.push_text(between)?;
        }
        first = false;
        match (&item, between.is_markup()) {
            (Value::Text(text), false) => out.push_text(text)?,
            (item, true) => out.push_text(&escape(cx, &super::super::value::to_text(cx, item)?)?)?,
            (other, false) => {
                return Err(Error::type_error(format!("join expects texts, '{}' found", other.type_name())));
            }
        }
    }
    Ok(Value::Text(out.finish_as(between.is_markup())?))
}

pub(super) fn format(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    let text = receiver(cx, &value)?;
    let escaping: Escape = if text.is_markup() { Some(escape) } else { None };
    Ok(Value::Text(braces(cx, text, &args, escaping)?))
}

pub(super) fn format_map(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    let [map] = args.positional("format_map", 1)?;
    // What is no mapping has none of the names that are asked for.
    let Some(Value::Dict(dict)) = map else { return format(cx, value, Args::default()) };
    let name = |key: &Value| key.expect_text().map(|text| (&**text).into());
    let named = dict.entries().iter().filter(|(key, _)| matches!(key, Value::Text(_)));
    let named = named.map(|(key, value)| Ok((name(key)?, value.clone()))).collect::<Result<_>>()?;
    format(cx, value, Args { places: Vec::new(), named })
}

/// `text % values`.
pub(in super::super) fn modulo(cx: &Rc<Cx>, text: &Text, values: &Value) -> Result<Value> {
    let escaping: Escape = if text.is_markup() { Some(escape) } else { None };
    Ok(Value::Text(percent(cx, text, values, escaping)?))
}

pub(super) fn translate(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    let text = receiver(cx, &value)?;
    let [Some(table)] = args.positional("translate", 1)? else {
        return Err(Error::type_error("translate takes a table"));
    };
    table.defined()?;
    let mut out = Out::new(cx)?;
    for (at, c) in text.char_indices() {
        let found = match &table {
            Value::Dict(dict) => dict.get(cx, &Value::Int(i128::from(u32::from(c))))?.cloned(),
            other => {
                return Err(Error::type_error(format!("'{}' object is no table of characters", other.type_name())));
            }
        };
        match found {
            None => out.push_part(text, at..at + c.len_utf8())?,
            Some(Value::None) => {}
            Some(Value::Text(other)) => out.push_text(&other)?,
            Some(other) => {
                let c = other.integer().and_then(|n| u32::try_from(n).ok()).and_then(char::from_u32);
                let c = c.ok_or_else(|| Error::type_error("a table of characters holds integers, texts and None"))?;
                out.push(c.encode_utf8(&mut [0; 4]))?;
            }
        }
    }
    Ok(Value::Text(out.finish_as(text.is_markup())?))
}

pub(super) fn of_markup(name: &str) -> Option<Native> {
    table!(name, "striptags" => |cx, value, args| {
        none(args, "striptags")?;
        super::super::html::strip_tags(cx, value.expect_text()?).map(Value::Text)
    }, "unescape" => |cx, value, args| {
        none(args, "unescape")?;
        super::super::html::unescape(cx, value.expect_text()?).map(Value::Text)
    },)
}

pub(super) fn of_sequence(value: &Value, name: &str) -> Option<Native> {
    match name {
        "copy" if !matches!(value, Value::List(_)) => None,
        _ => table!(name,
            "index" => sequence_index,
            "count" => sequence_count,
            "copy" => copy,
        ),
    }
}

fn sequence_index(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    let [item, start, stop] = args.positional("index", 1)?;
    let item = item.unwrap_or(Value::None);
    let length = value.length(cx)?.unwrap_or(0) as i128;
    if matches!(value, Value::Range(_)) && start.is_some() {
        return Err(Error::type_error("index() takes exactly one argument"));
    }
    let bound = |given: Option<Value>, usual: i128| -> Result<i128> {
        let at = given.map_or(Ok(usual), |at| at.expect_integer())?;
        Ok(if at < 0 { at.saturating_add(length).max(0) } else { at })
    };
    let (start, stop) = (bound(start, 0)?, bound(stop, i128::MAX)?);
    let mut items = iterate(&value)?;
    let mut at = 0;
    while let Some(other) = items.next(cx)? {
        if at >= start && at < stop && (other.same(&item) || equal(cx, &other, &item)?) {
            return Ok(Value::Int(at));
        }
        at += 1;
    }
    Err(Error::value_error("the value is not in the sequence"))
}

fn sequence_count(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    let [item] = args.positional("count", 1)?;
    let item = item.unwrap_or(Value::None);
    let mut items = iterate(&value)?;
    let mut count = 0;
    while let Some(other) = items.next(cx)? {
        count += i128::from(other.same(&item) || equal(cx, &other, &item)?);
    }
    Ok(Value::Int(count))
}

/// What cannot change need not be copied; but Python's copy is another object.
fn copy(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    none(args, "copy")?;
    match value {
        Value::List(sequence) => cx.list(sequence.items.clone()),
        other => Ok(other),
    }
}

pub(super) fn of_dict(name: &str) -> Option<Native> {
    table!(name,
        "items" => |_, value, args| view(value, args, View::Items),
        "get" => get,
        "keys" => |_, value, args| view(value, args, View::Keys),
        "values" => |_, value, args| view(value, args, View::Values),
        "copy" => copy,
        "fromkeys" => |cx, _, args| super::super::globals::from_keys(cx, args),
    )
}

fn view(value: Value, args: Args, view: View) -> Result<Value> {
    none(args, "items")?;
    match value {
        Value::Dict(dict) => Ok(Value::View(view, dict)),
        other => Err(Error::type_error(format!("'{}' object is no dictionary", other.type_name()))),
    }
}

fn get(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    let [key, usual] = args.positional("get", 1)?;
    let Value::Dict(dict) = value else { return Err(Error::type_error("get is a dictionary's")) };
    match dict.get(cx, &key.unwrap_or(Value::None))? {
        Some(found) => Ok(found.clone()),
        None => Ok(usual.unwrap_or(Value::None)),
    }
}

pub(super) fn of_view(value: &Value, name: &str) -> Option<Native> {
    match value {
        Value::View(View::Keys | View::Items, _) => table!(name, "isdisjoint" => |cx, value, args| {
            let [other] = args.positional("isdisjoint", 1)?;
            let mut items = iterate(&other.unwrap_or(Value::None))?;
            while let Some(item) = items.next(cx)? {
                if super::super::value::contains(cx, &value, &item)? {
                    return Ok(Value::Bool(false));
                }
            }
            Ok(Value::Bool(true))
        },),
        _ => None,
    }
}

pub(super) fn of_integer(name: &str) -> Option<Native> {
    table!(name,
        "bit_length" => |_, value, args| {
            none(args, "bit_length")?;
            let size = value.integer().unwrap_or(0).unsigned_abs();
            Ok(Value::Int(i128::from(128 - size.leading_zeros())))
        },
        "bit_count" => |_, value, args| {
            none(args, "bit_count")?;
            Ok(Value::Int(i128::from(value.integer().unwrap_or(0).unsigned_abs().count_ones())))
        },
        "conjugate" => |_, value, args| {
            none(args, "conjugate")?;
            Ok(Value::Int(value.integer().unwrap_or(0)))
        },
        "as_integer_ratio" => |cx, value, args| {
            none(args, "as_integer_ratio")?;
            cx.tuple(vec![Value::Int(value.integer().unwrap_or(0)), Value::Int(1)])
        },
    )
}

pub(super) fn of_float(name: &str) -> Option<Native> {
    table!(name,
        "is_integer" => |_, value, args| {
            none(args, "is_integer")?;
            Ok(Value::Bool(matches!(value, Value::Float(number) if number.is_finite() && number.fract() == 0.0)))
        },
        "conjugate" => |_, value, args| {
            none(args, "conjugate")?;
            Ok(value)
        },
        "as_integer_ratio" => integer_ratio,
    )
}

/// A float as a fraction: a power of two below.
fn integer_ratio(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    none(args, "as_integer_ratio")?;
    let Value::Float(number) = value else { return Err(Error::type_error("as_integer_ratio is a number's")) };
    if !number.is_finite() {
        return Err(Error::value_error("cannot convert this float to an integer ratio"));
    }
    let (mut above, mut below) = (number, 1_i128);
    while above.fract() != 0.0 {
        above *= 2.0;
        below = below.checked_mul(2).ok_or_else(|| Error::other("an integer beyond 127 bits is not supported"))?;
    }
    if above.abs() >= 1.7e38 {
        return Err(Error::other("an integer beyond 127 bits is not supported"));
    }
    cx.tuple(vec![Value::Int(above as i128), Value::Int(below)])
}
