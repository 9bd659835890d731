//! Filters for HTML and URLs.
//!
//! The invariant: what is safe for HTML is escaped once.

use std::rc::Rc;

use super::super::budget::{Error, Result};
use super::super::html;
use super::super::methods;
use super::super::value::{Args, Cx, Out, Text, Value, collect, to_text};

pub(super) fn escape(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    args.positional::<0>("escape", 0)?;
    Ok(Value::Text(methods::escape(cx, &to_text(cx, &value)?)?))
}

pub(super) fn forceescape(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    args.bind("forceescape", [], 0)?;
    Ok(Value::Text(methods::escape(cx, &to_text(cx, &value)?.as_markup(cx, false)?)?))
}

pub(super) fn safe(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    args.bind("safe", [], 0)?;
    Ok(Value::Text(to_text(cx, &value)?.as_markup(cx, true)?))
}

pub(super) fn striptags(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    args.bind("striptags", [], 0)?;
    Ok(Value::Text(html::strip_tags(cx, &to_text(cx, &value)?)?))
}

pub(super) fn xmlattr(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    let [space] = args.bind("xmlattr", ["autospace"], 0)?;
    value.defined()?;
    let Value::Dict(dict) = &value else { return Err(Error::type_error("xmlattr takes a mapping")) };
    let mut out = Out::new(cx)?;
    let space = space.map_or(Ok(true), |space| space.truth(cx))?;
    for (key, value) in dict.entries() {
        if matches!(value, Value::None | Value::Undefined(_)) {
            continue;
        }
        let key = key.expect_text()?;
        if key.contains([' ', '\t', '\n', '\r', '\u{b}', '\u{c}', '/', '>', '=']) {
            return Err(Error::value_error("xmlattr: a key holds a character that ends it"));
        }
        if space || out.len() > 0 {
            out.push(" ")?;
        }
        out.push_text(&methods::escape(cx, key)?)?;
        out.push("=\"")?;
        out.push_text(&methods::escape(cx, &to_text(cx, value)?)?)?;
        out.push("\"")?;
    }
    Ok(Value::Text(out.finish()?))
}

/// Percent-encodes a text, as a path, or as a part of a query.
fn quote(text: &Text, query: bool, out: &mut Out) -> Result<()> {
    for byte in text.bytes() {
        match byte {
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'_' | b'.' | b'-' | b'~' => {
                out.push(char::from(byte).encode_utf8(&mut [0; 4]))?
            }
            b'/' if !query => out.push("/")?,
            b' ' if query => out.push("+")?,
            other => out.push(&format!("%{other:02X}"))?,
        }
    }
    Ok(())
}

pub(super) fn urlencode(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    args.bind("urlencode", [], 0)?;
    let mut out = Out::new(cx)?;
    let mut marked = false;
    let pairs = match &value {
        Value::Dict(dict) => dict.entries().to_vec(),
        Value::Text(_)
        | Value::None
        | Value::Bool(_)
        | Value::Int(_)
        | Value::Float(_)
        | Value::Namespace(_)
        | Value::Method(_)
        | Value::Object(_) => {
            let text = to_text(cx, &value)?;
            quote(&text, false, &mut out)?;
            out.mark_since(0, text.is_marked());
            return Ok(Value::Text(out.finish()?));
        }
        other => {
            let mut pairs = Vec::new();
            for pair in collect(cx, other)? {
                match <[Value; 2]>::try_from(collect(cx, &pair)?) {
                    Ok([key, value]) => pairs.push((key, value)),
                    Err(_) => return Err(Error::value_error("urlencode takes pairs")),
                }
            }
            pairs
        }
    };
    for (n, (key, value)) in pairs.iter().enumerate() {
        if n > 0 {
            out.push("&")?;
        }
        let (key, value) = (to_text(cx, key)?, to_text(cx, value)?);
        marked |= key.is_marked() || value.is_marked();
        quote(&key, true, &mut out)?;
        out.push("=")?;
        quote(&value, true, &mut out)?;
    }
    out.mark_since(0, marked);
    Ok(Value::Text(out.finish()?))
}
