//! Messages out of Python: prompts, completions and whole conversations.
//!
//! Invariant: a message of a role and then a content, both str, is those texts; any other is its JSON, in the order of its keys.

use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyMapping, PyString};
use reward_sidecar::rollout::{ASSISTANT, Message};

use crate::json::{write_field, write_text};
use crate::odd::OddRows;
use crate::text::{plain, text, wrong_type};

/// A prompt: a text, which is what a user says, or a list of messages.
pub fn prompt(object: &Bound<'_, PyAny>, name: impl std::fmt::Display) -> PyResult<Arc<[Message]>> {
    let object = plain(object);
    if object.is_instance_of::<PyString>() {
        return Ok([Message::new("user", text(&object, name)?)].into());
    }
    Ok(messages(&object, &name, "a str or a list of messages")?.into())
}

/// A list of prompts. One that stands there several times is read once, as a group's mostly does.
pub fn prompts(object: &Bound<'_, PyAny>, name: &str, odd: &mut OddRows) -> PyResult<Vec<Arc<[Message]>>> {
    if object.is_instance_of::<PyString>() {
        return Err(wrong_type(object, &name, "a list of prompts"));
    }
    let mut prompts: Vec<Arc<[Message]>> = Vec::new();
    let mut before: Option<Bound<'_, PyAny>> = None;
    for (row, item) in object.try_iter()?.enumerate() {
        let item = item?;
        let same = before.as_ref().is_some_and(|before| before.is(&item));
        match prompts.last().filter(|_| same && !odd.has(row - 1)) {
            Some(prompt_before) => prompts.push(Arc::clone(prompt_before)),
            None => prompts.push(odd.take(row, object.py(), prompt(&item, format_args!("{name}[{row}]")))?),
        }
        before = Some(item);
    }
    Ok(prompts)
}

/// A completion: a text, or messages of which the last is the assistant's. One message that is no more than a text comes as
/// that.
pub fn completion(object: &Bound<'_, PyAny>, name: impl std::fmt::Display) -> PyResult<(String, Vec<Message>)> {
    let object = plain(object);
    if object.is_instance_of::<PyString>() {
        return Ok((text(&object, name)?, Vec::new()));
    }
    let mut messages = messages(&object, &name, "a str or a list of messages")?;
    match messages.last() {
        None => Err(PyValueError::new_err(format!("{name}: no messages; the last one, the {ASSISTANT}'s, is scored"))),
        Some(last) if last.json.is_none() && last.role != ASSISTANT => Err(not_answered(&name, &last.role)),
        Some(last) if last.json.is_none() && messages.len() == 1 => {
            Ok((messages.pop().map(|message| message.content).unwrap_or_default(), Vec::new()))
        }
        Some(_) => Ok((String::new(), messages)),
    }
}

/// A whole conversation: the prompt's messages, and the completion, which is its last message.
pub fn conversation(
    object: &Bound<'_, PyAny>,
    name: impl std::fmt::Display,
) -> PyResult<(Arc<[Message]>, String, Vec<Message>)> {
    let mut messages = messages(object, &name, "a list of messages")?;
    let (text, list) = match messages.pop() {
        None => {
            return Err(PyValueError::new_err(format!(
                "{name}: no messages; the last one, the {ASSISTANT}'s, is scored"
            )));
        }
        Some(last) if last.json.is_some() => (String::new(), vec![last]),
        Some(last) if last.role != ASSISTANT => return Err(not_answered(&name, &last.role)),
        Some(last) => (last.content, Vec::new()),
    };
    Ok((messages.into(), text, list))
}

fn not_answered(name: &dyn std::fmt::Display, role: &str) -> PyErr {
    let message =
        format!("{name}: the last message is of the role '{role}'; it must be the {ASSISTANT}'s, which is scored");
    PyValueError::new_err(message)
}

fn messages(object: &Bound<'_, PyAny>, name: &dyn std::fmt::Display, wanted: &str) -> PyResult<Vec<Message>> {
    if object.is_instance_of::<PyDict>() || object.is_instance_of::<PyString>() {
        return Err(wrong_type(object, name, wanted));
    }
    let messages = object.try_iter().map_err(|_| wrong_type(object, name, wanted))?;
    messages.enumerate().map(|(turn, item)| message(&item?, format_args!("{name}[{turn}]"))).collect()
}

/// One message: role and content, both texts and in this order, or any JSON. `score` is taken out.
fn message(object: &Bound<'_, PyAny>, name: std::fmt::Arguments<'_>) -> PyResult<Message> {
    if let Ok(fields) = object.cast::<PyDict>() {
        return message_of(fields.iter().map(Ok), name);
    }
    if let Ok(fields) = object.cast::<PyMapping>() {
        return message_of(fields.items()?.iter().map(|item| item.extract()), name);
    }
    if object.hasattr(intern!(object.py(), "model_dump"))? {
        return message(&object.call_method0(intern!(object.py(), "model_dump"))?, name);
    }
    Err(wrong_type(object, &name, "a dict with a role"))
}

fn message_of<'py>(
    fields: impl Iterator<Item = PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)>>,
    name: std::fmt::Arguments<'_>,
) -> PyResult<Message> {
    let (mut plain, mut texts, mut json, mut has_role) = (Message::default(), 0, String::new(), false);
    for field in fields {
        let (key, value) = field?;
        let key = key.cast::<PyString>().map_err(|_| wrong_type(&key, &format_args!("a key in {name}"), "a str"))?;
        let key = key.to_str()?;
        let field = format_args!("{name}['{key}']");
        if key == "score" {
            plain.score = !value.is_none() && value.extract().map_err(|_| wrong_type(&value, &field, "a bool"))?;
            continue;
        }
        has_role |= key == "role";
        let is_text = json.is_empty() && value.is_instance_of::<PyString>();
        match (key, texts) {
            ("role", 0) if is_text => plain.role = text(&value, field)?,
            ("content", 1) if is_text => plain.content = text(&value, field)?,
            _ => {
                let read = [("role", &mut plain.role), ("content", &mut plain.content)];
                for (key, text) in read.into_iter().take(std::mem::take(&mut texts)) {
                    json.push(if json.is_empty() { '{' } else { ',' });
                    write_text(key, &mut json);
                    json.push(':');
                    write_text(text, &mut json);
                    text.clear();
                }
                write_field(key, &value, &field, &mut json)?;
                continue;
            }
        }
        texts += 1;
    }
    if !has_role {
        return Err(PyValueError::new_err(format!("{name} has no 'role'")));
    }
    if texts == 2 {
        return Ok(plain);
    }
    if json.is_empty() {
        json.push_str("{\"role\":");
        write_text(&plain.role, &mut json);
    }
    json.push('}');
    Ok(Message { score: plain.score, ..Message::json(json) })
}
