//! Values as Python prints them (`str` and `repr`).

use std::fmt::{self, Write as _};
use std::sync::Arc;

use minijinja::value::{Enumerator, Kwargs, Object, ObjectRepr, ValueKind};
use minijinja::{Error, Value};

/// The same value, whose lists and objects print as Python's do wherever the engine itself prints them, as for `~`.
pub(super) fn as_python(value: &Value) -> Value {
    match value.kind() {
        ValueKind::Seq => {
            let items = value.try_iter().into_iter().flatten();
            list(items.map(|item| as_python(&item)).collect())
        }
        ValueKind::Map => {
            let entry = |key: Value| value.get_item(&key).map(|item| (key, as_python(&item))).ok();
            Value::from_object(Dict(value.try_iter().into_iter().flatten().filter_map(entry).collect()))
        }
        _ => value.clone(),
    }
}

/// A list of values that print as Python's already.
pub(super) fn list(items: Vec<Value>) -> Value {
    Value::from_object(Sequence { items, is_tuple: false })
}

/// A tuple of values: a list that prints in round brackets.
pub(super) fn tuple(items: Vec<Value>) -> Value {
    Value::from_object(Sequence { items, is_tuple: true })
}

#[derive(Debug)]
struct Sequence {
    items: Vec<Value>,
    is_tuple: bool,
}

impl Object for Sequence {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.items.get(key.as_usize()?).cloned()
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.items.len())
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        printed(&Value::from_dyn_object(self.clone()), f)
    }
}

/// Python's `dict.items()`.
pub(super) fn items(map: &Value) -> Result<Value, Error> {
    let pairs: Result<Vec<_>, _> =
        map.try_iter()?.map(|key| map.get_item(&key).map(|item| tuple(vec![key, item]))).collect();
    Ok(list(pairs?))
}

/// In order; messages have a handful of fields.
#[derive(Debug)]
struct Dict(Vec<(Value, Value)>);

impl Object for Dict {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, value)| value.clone())
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.0.iter().map(|(key, _)| key.clone()).collect())
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        printed(&Value::from_dyn_object(self.clone()), f)
    }
}

fn printed(value: &Value, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut out = String::new();
    repr(value, &mut out).map_err(|_| fmt::Error)?;
    f.write_str(&out)
}

/// Python's `str(value)`.
pub(super) fn text(value: &Value) -> Result<String, Error> {
    match value.as_str() {
        Some(text) => Ok(text.to_owned()),
        None if value.is_undefined() => Ok(String::new()),
        None => {
            let mut out = String::new();
            repr(value, &mut out)?;
            Ok(out)
        }
    }
}

/// Python's `repr(value)`.
fn repr(value: &Value, out: &mut String) -> Result<(), Error> {
    match value.kind() {
        ValueKind::String => quoted(value.as_str().unwrap_or_default(), out),
        ValueKind::Undefined => out.push_str("Undefined"),
        ValueKind::Number if !value.is_integer() => out.push_str(&float(f64::try_from(value.clone())?)),
        // What slices and filters make is a list here.
        ValueKind::Seq | ValueKind::Iterable => {
            let is_tuple = value.downcast_object_ref::<Sequence>().is_some_and(|sequence| sequence.is_tuple);
            out.push(if is_tuple { '(' } else { '[' });
            let mut length = 0;
            for (n, item) in value.try_iter()?.enumerate() {
                out.push_str(if n == 0 { "" } else { ", " });
                repr(&item, out)?;
                length = n + 1;
            }
            out.push_str(match (is_tuple, length) {
                (true, 1) => ",)",
                (true, _) => ")",
                (false, _) => "]",
            });
        }
        ValueKind::Map if Kwargs::try_from(value.clone()).is_err() => {
            out.push('{');
            for (n, key) in value.try_iter()?.enumerate() {
                out.push_str(if n == 0 { "" } else { ", " });
                repr(&key, out)?;
                out.push_str(": ");
                repr(&value.get_item(&key)?, out)?;
            }
            out.push('}');
        }
        _ => _ = write!(out, "{value}"),
    }
    Ok(())
}

/// Python's way of writing a float: the shortest digits that give it back, with an exponent below 1e-4 and from 1e16 on.
pub(super) fn float(number: f64) -> String {
    if number.is_nan() {
        return "nan".into();
    }
    if number.is_infinite() {
        return if number > 0.0 { "inf" } else { "-inf" }.into();
    }
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if number != 0.0 && !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.unsigned_abs());
    }
    let plain = format!("{number}");
    if plain.contains('.') { plain } else { plain + ".0" }
}

fn quoted(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            c if c == quote => out.extend(['\\', c]),
            // As Python: what does not print is written by its number. Controls, separators and format signs are here.
            c if c.is_control() || (c.is_whitespace() && c != ' ') || is_format(c) => {
                _ = match u32::from(c) {
                    n @ ..=0xff => write!(out, "\\x{n:02x}"),
                    n @ ..=0xffff => write!(out, "\\u{n:04x}"),
                    n => write!(out, "\\U{n:08x}"),
                }
            }
            c => out.push(c),
        }
    }
    out.push(quote);
}

/// Characters of Unicode's category Cf and private ones, which Python does not print.
fn is_format(c: char) -> bool {
    matches!(u32::from(c),
        0xad | 0x600..=0x605 | 0x61c | 0x6dd | 0x70f | 0x890..=0x891 | 0x8e2 | 0x180e | 0x200b..=0x200f | 0x202a..=0x202e
        | 0x2060..=0x206f | 0xe000..=0xf8ff | 0xfeff | 0xfff9..=0xfffb | 0x110bd | 0x110cd | 0x13430..=0x1343f
        | 0x1bca0..=0x1bca3 | 0x1d173..=0x1d17a | 0xe0001 | 0xe0020..=0xe007f | 0xf0000..=0x10ffff)
}
