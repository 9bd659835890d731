//! Texts out of Python.

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyList, PyString};

use crate::odd::OddRows;

/// An object as Python has it: Arrow's columns have scalars of their own.
pub fn plain<'py>(object: &Bound<'py, PyAny>) -> Bound<'py, PyAny> {
    // The common ones are not asked: to find nothing costs an exception.
    if object.is_instance_of::<PyString>() || object.is_instance_of::<PyList>() {
        return object.clone();
    }
    object.call_method0(intern!(object.py(), "as_py")).unwrap_or_else(|_| object.clone())
}

/// A text. `name` is for messages.
pub fn text(object: &Bound<'_, PyAny>, name: impl std::fmt::Display) -> PyResult<String> {
    let Ok(text) = object.cast::<PyString>() else {
        let plain = plain(object);
        return if plain.is_instance_of::<PyString>() {
            text(&plain, name)
        } else {
            Err(wrong_type(object, &name, "a str"))
        };
    };
    let text = text.to_str().map_err(|error| PyValueError::new_err(format!("{name}: {error}")))?;
    Ok(text.to_owned())
}

/// A list of texts.
pub fn texts(object: &Bound<'_, PyAny>, name: &str, odd: &mut OddRows) -> PyResult<Vec<String>> {
    listed(object, name, odd, |item, place| text(item, place))
}

/// A name, of a rollout or a group: a text, or a whole number of any kind, which stands for its decimal digits.
pub fn name(object: &Bound<'_, PyAny>, place: impl std::fmt::Display) -> PyResult<String> {
    let not_a_number = object.is_instance_of::<PyString>() || object.is_instance_of::<PyBool>();
    match object.call_method0(intern!(object.py(), "__index__")) {
        Ok(number) if !not_a_number => Ok(number.to_string()),
        _ => text(object, place),
    }
}

/// A list of names.
pub fn names(object: &Bound<'_, PyAny>, place: &str, odd: &mut OddRows) -> PyResult<Vec<String>> {
    listed(object, place, odd, |item, place| name(item, place))
}

fn listed(
    object: &Bound<'_, PyAny>,
    name: &str,
    odd: &mut OddRows,
    read: impl Fn(&Bound<'_, PyAny>, std::fmt::Arguments<'_>) -> PyResult<String>,
) -> PyResult<Vec<String>> {
    if object.is_instance_of::<PyString>() {
        return Err(wrong_type(object, &name, "a list of str"));
    }
    let items = object.try_iter()?.enumerate();
    items.map(|(row, item)| odd.take(row, object.py(), read(&item?, format_args!("{name}[{row}]")))).collect()
}

/// What is said where an object is of a wrong type.
pub fn wrong_type(object: &Bound<'_, PyAny>, name: &dyn std::fmt::Display, wanted: &str) -> PyErr {
    let found = object.get_type().name().map_or_else(|_| "?".to_owned(), |name| name.to_string());
    PyTypeError::new_err(format!("{name} is of type {found}; give {wanted}"))
}
