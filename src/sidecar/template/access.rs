//! Attributes, items and slices, in the order in which Jinja2's sandbox looks for them.
//!
//! The invariant: what the sandbox does not let a template reach is undefined.

use std::rc::Rc;

use super::budget::{Error, Result};
use super::methods;
use super::value::{Cx, Method, Out, Range, Undefined, Value};

/// `value.name`: the attribute, or else the item.
pub(super) fn attribute(cx: &Rc<Cx>, value: &Value, name: &str) -> Result<Value> {
    if !(value.is_undefined() && HIDDEN.contains(&name)) {
        value.defined()?;
    }
    match own_attribute(cx, value, name)? {
        Some(found) => Ok(found),
        None => match value {
            Value::Dict(dict) => match dict.get_text(cx, name)? {
                Some(item) => Ok(item.clone()),
                None => Ok(missing(cx, value, name)),
            },
            _ => Ok(missing(cx, value, name)),
        },
    }
}

/// `value[key]`: the item, or else the attribute of that name.
pub(super) fn item(cx: &Rc<Cx>, value: &Value, key: &Value) -> Result<Value> {
    value.defined()?;
    let found = match (value, key) {
        (Value::Dict(dict), key) if !matches!(key, Value::List(_) | Value::Dict(_)) => match dict.get(cx, key) {
            Ok(found) => found.cloned(),
            Err(error) if error.kind() == super::budget::Kind::Type => None,
            Err(error) => return Err(error),
        },
        (_, key) => match key.integer() {
            Some(at) => at_index(cx, value, at)?,
            None => None,
        },
    };
    if let Some(found) = found {
        return Ok(found);
    }
    if let Value::Text(name) = key {
        return Ok(own_attribute(cx, value, name)?.unwrap_or_else(|| missing(cx, value, name)));
    }
    let shown = match key {
        Value::Int(number) => number.to_string(),
        other => format!("of type '{}'", other.type_name()),
    };
    Ok(cx.undefined(Undefined::Element(value.type_name(), shown)))
}

/// The filter `attr`: the attribute, and no item.
pub(super) fn only_attribute(cx: &Rc<Cx>, value: &Value, name: &str) -> Result<Value> {
    value.defined()?;
    Ok(own_attribute(cx, value, name)?.unwrap_or_else(|| missing(cx, value, name)))
}

fn missing(cx: &Rc<Cx>, value: &Value, name: &str) -> Value {
    cx.undefined(Undefined::Attribute(value.type_name(), crate::reward::shortened(name, 100).to_owned()))
}

/// What every object in Python has, and the sandbox hides.
const HIDDEN: [&str; 23] = [
    "__class__",
    "__delattr__",
    "__dir__",
    "__doc__",
    "__eq__",
    "__format__",
    "__ge__",
    "__getattribute__",
    "__getstate__",
    "__gt__",
    "__hash__",
    "__init__",
    "__init_subclass__",
    "__le__",
    "__lt__",
    "__ne__",
    "__new__",
    "__reduce__",
    "__reduce_ex__",
    "__repr__",
    "__setattr__",
    "__sizeof__",
    "__str__",
];

/// The attribute that a value has in Python; undefined where the sandbox hides it.
fn own_attribute(cx: &Rc<Cx>, value: &Value, name: &str) -> Result<Option<Value>> {
    if name.starts_with('_') && !matches!(value, Value::Namespace(_)) {
        let hint = format!("access to attribute '{name}' is unsafe");
        return Ok(HIDDEN.contains(&name).then(|| cx.undefined(Undefined::Hint(hint))));
    }
    let mutating = match value {
        Value::Dict(_) => ["clear", "pop", "popitem", "setdefault", "update"].contains(&name),
        Value::List(_) => ["append", "clear", "pop", "reverse", "insert", "sort", "extend", "remove"].contains(&name),
        _ => false,
    };
    if mutating {
        return Ok(Some(cx.undefined(Undefined::Hint(format!("access to attribute '{name}' is unsafe")))));
    }
    Ok(match value {
        Value::Namespace(namespace) => Value::namespace_attribute(namespace, name),
        Value::Object(object) => object.attribute(cx, name)?,
        Value::Int(_) | Value::Bool(_) if matches!(name, "real" | "numerator") => value.integer().map(Value::Int),
        Value::Int(_) | Value::Bool(_) if name == "imag" => Some(Value::Int(0)),
        Value::Int(_) | Value::Bool(_) if name == "denominator" => Some(Value::Int(1)),
        Value::Float(_) if name == "real" => Some(value.clone()),
        Value::Float(_) if name == "imag" => Some(Value::Float(0.0)),
        Value::Range(range) if name == "start" => Some(Value::Int(range.start)),
        Value::Range(range) if name == "stop" => Some(Value::Int(range.stop)),
        Value::Range(range) if name == "step" => Some(Value::Int(range.step)),
        Value::Tuple(group) if group.is_group && name == "grouper" => group.items.first().cloned(),
        Value::Tuple(group) if group.is_group && name == "list" => group.items.get(1).cloned(),
        other => {
            methods::find(other, name).map(|function| Value::Method(Rc::new(Method { value: value.clone(), function })))
        }
    })
}

/// The item at an index, which counts from behind where it is negative.
fn at_index(cx: &Rc<Cx>, value: &Value, at: i128) -> Result<Option<Value>> {
    let length = match value {
        Value::Text(_) | Value::List(_) | Value::Tuple(_) | Value::Range(_) => value.length(cx)?.unwrap_or(0),
        _ => return Ok(None),
    };
    let at = if at < 0 { at.saturating_add(length as i128) } else { at };
    let Some(at) = usize::try_from(at).ok().filter(|at| *at < length) else { return Ok(None) };
    Ok(match value {
        Value::Text(text) => {
            cx.budget.copy(text.len() / 8)?;
            let start = text.byte(at);
            let end = start + text[start..].chars().next().map_or(0, char::len_utf8);
            Some(Value::Text(text.part(cx, start..end)?))
        }
        Value::List(sequence) | Value::Tuple(sequence) => sequence.items.get(at).cloned(),
        Value::Range(range) => Some(Value::Int(range.start + range.step * at as i128)),
        _ => None,
    })
}

fn bound(value: &Value) -> Result<Option<i128>> {
    match value {
        Value::None => Ok(None),
        other => other
            .integer()
            .map(Some)
            .ok_or_else(|| Error::type_error("slice indices must be integers or None or have an __index__ method")),
    }
}

/// `value[start:stop:step]`, as Python does it, without the sandbox.
pub(super) fn slice(cx: &Rc<Cx>, value: &Value, [start, stop, step]: [&Value; 3]) -> Result<Value> {
    value.defined()?;
    if !matches!(value, Value::Text(_) | Value::List(_) | Value::Tuple(_) | Value::Range(_)) {
        return Err(Error::type_error(format!("'{}' object cannot be sliced", value.type_name())));
    }
    let (start, stop, step) = (bound(start)?, bound(stop)?, bound(step)?.unwrap_or(1));
    if step == 0 {
        return Err(Error::value_error("slice step cannot be zero"));
    }
    let length = value.length(cx)?.unwrap_or(0) as i128;
    let (lowest, highest) = if step > 0 { (0, length) } else { (-1, length - 1) };
    let place = |at: i128| if at < 0 { (at.saturating_add(length)).max(lowest) } else { at.min(highest) };
    let start = start.map_or(if step > 0 { lowest } else { highest }, place);
    let stop = stop.map_or(if step > 0 { highest } else { lowest }, place);
    let distance = if step > 0 { stop - start } else { start - stop };
    let count =
        if distance <= 0 { 0 } else { usize::try_from((distance - 1) / step.saturating_abs() + 1).unwrap_or(0) };
    let at = |n: usize| usize::try_from(start + step * n as i128).unwrap_or(0);
    match value {
        Value::Text(text) if step == 1 => {
            cx.budget.copy(text.len() / 8)?;
            let from = text.byte(at(0).min(length as usize));
            let to = if count == 0 { from } else { text.byte(at(0) + count) };
            Ok(Value::Text(text.part(cx, from..to)?))
        }
        Value::Text(text) => {
            cx.budget.copy(text.len() * 4)?;
            cx.budget.fits(text.count() * size_of::<usize>())?;
            let places: Vec<usize> = text.char_indices().map(|(place, _)| place).chain([text.len()]).collect();
            let mut out = Out::new(cx)?;
            let mut marked = Vec::new();
            for n in 0..count {
                let range = places[at(n)]..places[at(n) + 1];
                if text.is_marked_at(range.start) {
                    marked.push(out.len()..out.len() + range.len());
                }
                out.push(&text[range])?;
            }
            marked.into_iter().for_each(|range| out.mark(range));
            Ok(Value::Text(out.finish_as(text.is_markup())?))
        }
        Value::List(sequence) | Value::Tuple(sequence) => {
            cx.budget.steps(count as u64 / 4 + 1)?;
            cx.budget.fits(count * size_of::<Value>())?;
            let items = (0..count).map(|n| sequence.items[at(n)].clone()).collect();
            if matches!(value, Value::List(_)) { cx.list(items) } else { cx.tuple(items) }
        }
        Value::Range(range) => Ok(Value::Range(Rc::new(Range {
            start: range.start + start * range.step,
            stop: range.start + stop * range.step,
            step: range.step.saturating_mul(step),
            length: count,
        }))),
        _ => Err(Error::type_error("this cannot be sliced")),
    }
}
