//! Values as Python prints them: `str` and `repr`.
//!
//! The invariant: what prints differently in each run (an address in memory) is an error.

use std::fmt::Write as _;
use std::rc::Rc;

use super::super::budget::{Error, Result};
use super::super::unicode::is_printable;
use super::{Cx, Out, Text, Value, View};

/// Writes `str(value)`. A printed list with anything of the completion in it is the completion's as a whole.
pub(in super::super) fn write(cx: &Rc<Cx>, value: &Value, out: &mut Out) -> Result<()> {
    match value {
        Value::Text(text) => out.push_text(text),
        Value::Undefined(_) => Ok(()),
        Value::None => out.push("None"),
        other => {
            let start = out.len();
            let marked = repr(cx, other, out)?;
            out.mark_since(start, marked);
            Ok(())
        }
    }
}

/// Python's `str`, which is a text itself as it is.
pub(in super::super) fn to_text(cx: &Rc<Cx>, value: &Value) -> Result<Text> {
    if let Value::Text(text) = value {
        return Ok(text.clone());
    }
    let mut out = Out::new(cx)?;
    write(cx, value, &mut out)?;
    out.finish()
}

/// Writes `repr(value)`, and says whether anything in it is the completion's.
pub(in super::super) fn repr(cx: &Rc<Cx>, value: &Value, out: &mut Out) -> Result<bool> {
    let _depth = cx.budget.deeper()?;
    match value {
        Value::Undefined(_) => out.push("Undefined")?,
        Value::None => out.push("None")?,
        Value::Bool(true) => out.push("True")?,
        Value::Bool(false) => out.push("False")?,
        Value::Int(number) => out.push(&number.to_string())?,
        Value::Float(number) => out.push(&float(*number))?,
        Value::Text(text) => {
            if text.is_markup() {
                out.push("Markup(")?;
            }
            quoted(text, out)?;
            if text.is_markup() {
                out.push(")")?;
            }
            return Ok(text.is_marked());
        }
        Value::List(sequence) => return items(cx, ["[", "]"], &sequence.items, out),
        Value::Tuple(sequence) => {
            let close = if sequence.items.len() == 1 { ",)" } else { ")" };
            return items(cx, ["(", close], &sequence.items, out);
        }
        Value::Dict(dict) => {
            out.push("{")?;
            let mut marked = false;
            for (at, (key, value)) in dict.entries().iter().enumerate() {
                out.push(if at == 0 { "" } else { ", " })?;
                marked |= repr(cx, key, out)?;
                out.push(": ")?;
                marked |= repr(cx, value, out)?;
            }
            out.push("}")?;
            return Ok(marked);
        }
        Value::View(view, dict) => {
            let values = match view {
                View::Keys => dict.entries().iter().map(|(key, _)| key.clone()).collect(),
                View::Values => dict.entries().iter().map(|(_, value)| value.clone()).collect(),
                View::Items => {
                    let pairs = dict.entries().iter().map(|(key, value)| cx.tuple(vec![key.clone(), value.clone()]));
                    pairs.collect::<Result<Vec<_>>>()?
                }
            };
            out.push(value.type_name())?;
            return items(cx, ["([", "])"], &values, out);
        }
        Value::Range(range) => {
            let step = if range.step == 1 { String::new() } else { format!(", {}", range.step) };
            out.push(&format!("range({}, {}{step})", range.start, range.stop))?;
        }
        Value::Namespace(namespace) => {
            out.push("<Namespace {")?;
            let attributes = namespace.0.borrow().clone();
            let mut marked = false;
            for (at, (name, value)) in attributes.iter().enumerate() {
                out.push(if at == 0 { "" } else { ", " })?;
                quoted(name, out)?;
                out.push(": ")?;
                marked |= repr(cx, value, out)?;
            }
            out.push("}>")?;
            return Ok(marked);
        }
        Value::Object(object) => match object.printed(cx)? {
            Some(text) => out.push(&text)?,
            None => return Err(address(value)),
        },
        Value::Iter(_) | Value::Method(_) => return Err(address(value)),
    }
    Ok(false)
}

fn address(value: &Value) -> Error {
    Error::other(format!(
        "a value of type '{}' prints as an address in memory, another one each time",
        value.type_name()
    ))
}

fn items(cx: &Rc<Cx>, [open, close]: [&str; 2], items: &[Value], out: &mut Out) -> Result<bool> {
    out.push(open)?;
    let mut marked = false;
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            out.push(", ")?;
        }
        marked |= repr(cx, item, out)?;
    }
    out.push(close)?;
    Ok(marked)
}

/// A text in quotes.
fn quoted(text: &str, out: &mut Out) -> Result<()> {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut written = String::with_capacity(text.len() + 2);
    written.push(quote);
    for c in text.chars() {
        match c {
            '\\' => written.push_str("\\\\"),
            '\n' => written.push_str("\\n"),
            '\r' => written.push_str("\\r"),
            '\t' => written.push_str("\\t"),
            c if c == quote => written.extend(['\\', c]),
            c if is_printable(c) => written.push(c),
            c => {
                // Writing into a string cannot fail.
                _ = match u32::from(c) {
                    code @ ..=0xff => write!(written, "\\x{code:02x}"),
                    code @ ..=0xffff => write!(written, "\\u{code:04x}"),
                    code => write!(written, "\\U{code:08x}"),
                };
            }
        }
    }
    written.push(quote);
    out.push(&written)
}

/// Python's `repr` of a float: the shortest digits that read as the same number.
pub(in super::super) fn float(number: f64) -> String {
    if number.is_nan() {
        return "nan".into();
    }
    if number.is_infinite() {
        return if number > 0.0 { "inf" } else { "-inf" }.into();
    }
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let plain = number.to_string();
        return if plain.contains('.') { plain } else { plain + ".0" };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}
