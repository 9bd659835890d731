//! JSON that a caller claims something in.
//!
//! Invariant: what is wrong with it is said by the field that it came in.

use crate::json::value::{JsonError, Object, Value};
use crate::reward::{Code, Rejection};

/// What the type of a part is called that a text model cannot read.
const MEDIA: [&str; 3] = ["image", "audio", "video"];

/// A value of any kind.
pub(super) fn read<'a>(json: &'a str, field: &str) -> Result<Value<'a>, Rejection> {
    Value::parse(json).map_err(|error| {
        let code = match error {
            JsonError::Malformed { .. } => Code::Malformed,
            JsonError::TooDeep => Code::TooLong,
        };
        Rejection::new(code, format!("{field}: {error}"))
    })
}

/// An object.
pub(super) fn object<'a>(json: &'a str, field: &str) -> Result<Object<'a>, Rejection> {
    match read(json, field)? {
        Value::Object(object) => Ok(object),
        other => Err(Rejection::new(
            Code::Malformed,
            format!("{field}: JSON that is {}; it must be an object", other.kind()),
        )),
    }
}

/// A list.
pub(super) fn list<'a>(json: &'a str, field: &str) -> Result<Value<'a>, Rejection> {
    match read(json, field)? {
        list @ Value::List(_) => Ok(list),
        other => {
            Err(Rejection::new(Code::Malformed, format!("{field}: JSON that is {}; it must be a list", other.kind())))
        }
    }
}

/// The first part of a content that is no text, with its type.
pub(super) fn medium(content: &Value) -> Option<(usize, String)> {
    let Value::List(parts) = content else { return None };
    parts.iter().enumerate().find_map(|(at, part)| {
        let Value::Object(part) = part else { return None };
        let is_medium = |name: &str| MEDIA.iter().any(|medium| name.contains(medium));
        let kind = match part.get("type") {
            Some(kind) => kind.as_text().filter(|kind| is_medium(kind)),
            None => part.iter().map(|(name, _)| name).find(|name| is_medium(name)),
        };
        kind.map(|kind| (at, kind.to_owned()))
    })
}
