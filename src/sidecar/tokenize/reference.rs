//! An answer that a completion is compared with, as a template is to see it.
//!
//! Invariant: it is at least one message, each with a role and without a part that is an image, audio or video.

use super::claimed::{medium, read};
use crate::json::value::{Object, Value};
use crate::reward::{Code, Rejection};
use crate::rollout::ASSISTANT;

/// What a template calls an answer that the completion is compared with.
pub(super) const REFERENCE: &str = "reference";

/// The messages of a reference: those of a list, or the one that a text stands for.
pub(super) fn messages(json: &str) -> Result<Value<'_>, Rejection> {
    let bad = |what: String| Err(Rejection::new(Code::BadMessages, format!("{REFERENCE}{what}")));
    match read(json, REFERENCE)? {
        Value::Text(text) => {
            let mut message = Object::default();
            message.insert("role", Value::Text(ASSISTANT.into()));
            message.insert("content", Value::Text(text));
            Ok(Value::List(vec![Value::Object(message)]))
        }
        Value::List(items) if items.is_empty() => bad(": a list without messages".into()),
        Value::List(items) => {
            for (at, item) in items.iter().enumerate() {
                let Value::Object(message) = item else {
                    return bad(format!("[{at}]: {}; a message is an object", item.kind()));
                };
                if message.get("role").and_then(Value::as_text).is_none() {
                    return bad(format!("[{at}]: there is no role that is a text; every message needs one"));
                }
                if let Some((part, kind)) = message.get("content").and_then(medium) {
                    return bad(format!(
                        "[{at}].content[{part}]: a part of the type '{kind}'; the model reads text alone"
                    ));
                }
            }
            Ok(Value::List(items))
        }
        other => bad(format!(": {}; it must be a text or a list of messages", other.kind())),
    }
}
