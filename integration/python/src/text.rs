//! Text and conversations out of Python.

use std::sync::Arc;

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};
use reward_sidecar::rollout::Message;

/// A text. `name` is for messages.
pub fn text(object: &Bound<'_, PyAny>, name: impl std::fmt::Display) -> PyResult<String> {
    let Ok(text) = object.cast::<PyString>() else {
        // Arrow's columns have scalars of their own.
        return match object.call_method0(intern!(object.py(), "as_py")) {
            Ok(plain) if plain.is_instance_of::<PyString>() => self::text(&plain, name),
            _ => Err(wrong_type(object, &name, "a str")),
        };
    };
    let text = text.to_str().map_err(|error| PyValueError::new_err(format!("{name}: {error}")))?;
    Ok(text.to_owned())
}

/// A list of texts.
pub fn texts(object: &Bound<'_, PyAny>, name: &str) -> PyResult<Vec<String>> {
    if object.is_instance_of::<PyString>() {
        return Err(wrong_type(object, &name, "a list of str"));
    }
    object.try_iter()?.enumerate().map(|(row, item)| text(&item?, format_args!("{name}[{row}]"))).collect()
}

/// A prompt: a text, which is what a user says, or a list of messages.
pub fn prompt(object: &Bound<'_, PyAny>, name: impl std::fmt::Display) -> PyResult<Arc<[Message]>> {
    if object.is_instance_of::<PyString>() {
        return Ok([Message::new("user", text(object, name)?)].into());
    }
    if object.is_instance_of::<PyDict>() {
        return Err(wrong_type(object, &name, "a str or a list of messages"));
    }
    let messages = object.try_iter().map_err(|_| wrong_type(object, &name, "a str or a list of messages"))?;
    messages.enumerate().map(|(turn, item)| message(&item?, format_args!("{name}[{turn}]"))).collect()
}

/// A list of prompts. One that stands there several times is read once, as a group's mostly does.
pub fn prompts(object: &Bound<'_, PyAny>, name: &str) -> PyResult<Vec<Arc<[Message]>>> {
    if object.is_instance_of::<PyString>() {
        return Err(wrong_type(object, &name, "a list of prompts"));
    }
    let mut prompts: Vec<Arc<[Message]>> = Vec::new();
    let mut before: Option<Bound<'_, PyAny>> = None;
    for (row, item) in object.try_iter()?.enumerate() {
        let item = item?;
        let same = before.as_ref().is_some_and(|before| before.is(&item));
        match prompts.last().filter(|_| same) {
            Some(prompt_before) => prompts.push(Arc::clone(prompt_before)),
            None => prompts.push(prompt(&item, format_args!("{name}[{row}]"))?),
        }
        before = Some(item);
    }
    Ok(prompts)
}

fn message(object: &Bound<'_, PyAny>, name: std::fmt::Arguments<'_>) -> PyResult<Message> {
    let fields = object.cast::<PyDict>().map_err(|_| wrong_type(object, &name, "a dict with role and content"))?;
    let (mut role, mut content, mut score) = (None, None, false);
    for (key, value) in fields {
        match key.cast::<PyString>()?.to_str()? {
            "role" => role = Some(text(&value, format_args!("{name}['role']"))?),
            "content" => content = Some(text(&value, format_args!("{name}['content']"))?),
            "score" => {
                score = value.extract().map_err(|_| wrong_type(&value, &format!("{name}['score']"), "a bool"))?
            }
            other => {
                let message = format!("{name}: there is no '{other}' in a message; there are: role, content, score");
                return Err(PyValueError::new_err(message));
            }
        }
    }
    match (role, content) {
        (Some(role), Some(content)) => Ok(Message { role, content, score }),
        (None, _) => Err(PyValueError::new_err(format!("{name} has no 'role'"))),
        (_, None) => Err(PyValueError::new_err(format!("{name} has no 'content'"))),
    }
}

/// What is said where an object is of a wrong type.
pub fn wrong_type(object: &Bound<'_, PyAny>, name: &dyn std::fmt::Display, wanted: &str) -> PyErr {
    let found = object.get_type().name().map_or_else(|_| "?".to_owned(), |name| name.to_string());
    PyTypeError::new_err(format!("{name} is of type {found}; give {wanted}"))
}
