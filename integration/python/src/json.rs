//! Python's values as JSON, in their order, without going through Python's own `json`.
//!
//! Invariant: what is written is JSON of at most [`MAX_JSON_DEPTH`] levels, with whole numbers of any size as they are.

use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyFloat, PyInt, PyList, PyMapping, PyString, PyTuple};
use reward_sidecar::limits::MAX_JSON_DEPTH;

use crate::text::wrong_type;

/// What may stand in a message, for messages about what may not.
const JSON: &str = "a str, a number, a bool, None, a list or a dict";

/// A value as JSON. `name` is for messages.
pub fn json(value: &Bound<'_, PyAny>, name: &dyn std::fmt::Display) -> PyResult<String> {
    let mut out = String::new();
    write(value, name, 0, &mut out)?;
    Ok(out)
}

/// Appends a field of an object that is being written; the first one opens it.
pub fn write_field(
    key: &str,
    value: &Bound<'_, PyAny>,
    name: &dyn std::fmt::Display,
    out: &mut String,
) -> PyResult<()> {
    out.push(if out.is_empty() { '{' } else { ',' });
    write_text(key, out);
    out.push(':');
    write(value, name, 1, out)
}

/// Appends a text in quotes.
pub fn write_text(text: &str, out: &mut String) {
    out.push('"');
    let mut rest = text;
    while let Some(at) = rest.bytes().position(|byte| byte < 0x20 || matches!(byte, b'"' | b'\\')) {
        out.push_str(&rest[..at]);
        match rest.as_bytes()[at] {
            b'\n' => out.push_str("\\n"),
            byte @ (b'"' | b'\\') => out.extend(['\\', char::from(byte)]),
            byte => out.push_str(&format!("\\u{byte:04x}")),
        }
        rest = &rest[at + 1..];
    }
    out.push_str(rest);
    out.push('"');
}

fn write(value: &Bound<'_, PyAny>, name: &dyn std::fmt::Display, depth: usize, out: &mut String) -> PyResult<()> {
    let py = value.py();
    if value.is_none() {
        out.push_str("null");
    } else if let Ok(text) = value.cast::<PyString>() {
        let text = text.to_str().map_err(|error| PyValueError::new_err(format!("{name}: {error}")))?;
        write_text(text, out);
    } else if let Ok(truth) = value.cast::<PyBool>() {
        out.push_str(if truth.is_true() { "true" } else { "false" });
    } else if value.is_instance_of::<PyInt>() {
        // An enum's member prints as its name.
        let number = py.get_type::<PyInt>().call_method1(intern!(py, "__repr__"), (value,))?;
        out.push_str(number.cast::<PyString>()?.to_str()?);
    } else if let Ok(number) = value.cast::<PyFloat>() {
        write_float(number.value(), name, out)?;
    } else if let Ok(items) = value.cast::<PyList>() {
        write_list(items.iter().map(Ok), name, depth, out)?;
    } else if let Ok(items) = value.cast::<PyTuple>() {
        write_list(items.iter().map(Ok), name, depth, out)?;
    } else if let Ok(fields) = value.cast::<PyDict>() {
        write_object(fields.iter().map(Ok), name, depth, out)?;
    } else if let Ok(fields) = value.cast::<PyMapping>() {
        let items = fields.items()?;
        write_object(items.iter().map(|item| item.extract()), name, depth, out)?;
    } else if value.hasattr(intern!(py, "model_dump"))? {
        // A message of an API's library.
        check_depth(depth, name)?;
        write(&value.call_method0(intern!(py, "model_dump"))?, name, depth + 1, out)?;
    } else if value.hasattr(intern!(py, "dtype"))? && value.getattr(intern!(py, "ndim"))?.eq(0)? {
        // A number of NumPy's or PyTorch's, which are no numbers to Python.
        let number = value.call_method0(intern!(py, "item"))?;
        if !(number.is_instance_of::<PyInt>() || number.is_instance_of::<PyFloat>()) {
            return Err(wrong_type(value, name, JSON));
        }
        write(&number, name, depth, out)?;
    } else {
        return Err(wrong_type(value, name, JSON));
    }
    Ok(())
}

fn write_float(number: f64, name: &dyn std::fmt::Display, out: &mut String) -> PyResult<()> {
    if !number.is_finite() {
        return Err(PyValueError::new_err(format!("{name}: {number} has no form in JSON")));
    }
    // The shortest that reads back the same, with a fraction or an exponent, which keeps it a float.
    out.push_str(&format!("{number:?}"));
    Ok(())
}

fn check_depth(depth: usize, name: &dyn std::fmt::Display) -> PyResult<()> {
    if depth < MAX_JSON_DEPTH {
        return Ok(());
    }
    let message = format!("{name}: more than {MAX_JSON_DEPTH} levels of lists and dicts within each other");
    Err(PyValueError::new_err(message))
}

fn write_list<'py>(
    items: impl Iterator<Item = PyResult<Bound<'py, PyAny>>>,
    name: &dyn std::fmt::Display,
    depth: usize,
    out: &mut String,
) -> PyResult<()> {
    check_depth(depth, name)?;
    out.push('[');
    for (at, item) in items.enumerate() {
        if at > 0 {
            out.push(',');
        }
        write(&item?, &format_args!("{name}[{at}]"), depth + 1, out)?;
    }
    out.push(']');
    Ok(())
}

fn write_object<'py>(
    fields: impl Iterator<Item = PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)>>,
    name: &dyn std::fmt::Display,
    depth: usize,
    out: &mut String,
) -> PyResult<()> {
    check_depth(depth, name)?;
    out.push('{');
    for (at, field) in fields.enumerate() {
        let (key, value) = field?;
        let text = key.cast::<PyString>().map_err(|_| wrong_type(&key, &format_args!("a key in {name}"), "a str"))?;
        let text = text.to_str().map_err(|error| PyValueError::new_err(format!("a key in {name}: {error}")))?;
        if at > 0 {
            out.push(',');
        }
        write_text(text, out);
        out.push(':');
        write(&value, &format_args!("{name}['{text}']"), depth + 1, out)?;
    }
    out.push('}');
    Ok(())
}
