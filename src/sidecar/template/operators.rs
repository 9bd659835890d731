//! Python's binary operators.
//!
//! The invariant: how large a result is, is known and charged before it is made.

use std::rc::Rc;

use super::budget::{Error, Result};
use super::methods;
use super::syntax::Binary;
use super::value::{self, Cx, Out, Text, Value};

pub(super) fn binary(cx: &Rc<Cx>, operator: Binary, a: &Value, b: &Value) -> Result<Value> {
    let numbers = match operator {
        Binary::Add => return add(cx, a, b),
        Binary::Mul => return multiply(cx, a, b),
        Binary::Mod => return modulo(cx, a, b),
        Binary::Sub => value::subtract(a, b),
        Binary::Div => value::divide(a, b),
        Binary::FloorDiv => value::floor_divide(a, b),
        Binary::Pow => value::power(a, b),
    };
    let sign = match operator {
        Binary::Sub => "-",
        Binary::Div => "/",
        Binary::FloorDiv => "//",
        _ => "**",
    };
    numbers.unwrap_or_else(|| Err(unsupported(sign, a, b)))
}

fn unsupported(sign: &str, a: &Value, b: &Value) -> Error {
    if let Some(error) = a.defined().err().or(b.defined().err()) {
        return error;
    }
    Error::type_error(format!("'{}' {sign} '{}' is not supported", a.type_name(), b.type_name()))
}

pub(super) fn add(cx: &Rc<Cx>, a: &Value, b: &Value) -> Result<Value> {
    match (a, b) {
        (Value::Text(a), Value::Text(b)) => Ok(Value::Text(joined(cx, a, b)?)),
        (Value::List(a), Value::List(b)) => cx.list(chained(cx, &a.items, &b.items)?),
        (Value::Tuple(a), Value::Tuple(b)) => cx.tuple(chained(cx, &a.items, &b.items)?),
        _ => value::add(a, b).unwrap_or_else(|| Err(unsupported("+", a, b))),
    }
}

/// Two texts; one that is safe for HTML escapes the other.
fn joined(cx: &Rc<Cx>, a: &Text, b: &Text) -> Result<Text> {
    let markup = a.is_markup() || b.is_markup();
    let mut out = Out::new(cx)?;
    for part in [a, b] {
        if markup {
            out.push_text(&methods::escape(cx, part)?)?;
        } else {
            out.push_text(part)?;
        }
    }
    out.finish_as(markup)
}

fn chained(cx: &Rc<Cx>, a: &[Value], b: &[Value]) -> Result<Vec<Value>> {
    cx.budget.steps((a.len() + b.len()) as u64 / 4 + 1)?;
    cx.budget.fits((a.len() + b.len()) * size_of::<Value>())?;
    Ok([a, b].concat())
}

fn multiply(cx: &Rc<Cx>, a: &Value, b: &Value) -> Result<Value> {
    if let Some(product) = value::multiply(a, b) {
        return product;
    }
    let (many, times) = match (a.integer(), b.integer()) {
        (None, Some(times)) => (a, times),
        (Some(times), None) => (b, times),
        _ => return Err(unsupported("*", a, b)),
    };
    let times = usize::try_from(times.max(0)).unwrap_or(usize::MAX);
    match many {
        Value::Text(text) => {
            let mut out = Out::new(cx)?;
            if text.is_marked() {
                cx.budget.fits(text.len().saturating_mul(times))?;
                for _ in 0..if text.is_empty() { 0 } else { times } {
                    out.push_text(text)?;
                }
            } else if !text.is_empty() {
                out.repeat(text, times)?;
            }
            Ok(Value::Text(out.finish_as(text.is_markup())?))
        }
        Value::List(sequence) => cx.list(repeated(cx, &sequence.items, times)?),
        Value::Tuple(sequence) => cx.tuple(repeated(cx, &sequence.items, times)?),
        _ => Err(unsupported("*", a, b)),
    }
}

fn repeated(cx: &Rc<Cx>, items: &[Value], times: usize) -> Result<Vec<Value>> {
    if items.is_empty() {
        return Ok(Vec::new());
    }
    let count = items.len().saturating_mul(times);
    cx.budget.fits(count.saturating_mul(size_of::<Value>()))?;
    cx.budget.steps(count as u64 / 4 + 1)?;
    Ok(items.iter().cycle().take(count).cloned().collect())
}

pub(super) fn modulo(cx: &Rc<Cx>, a: &Value, b: &Value) -> Result<Value> {
    match a {
        Value::Text(text) => methods::modulo(cx, text, b),
        _ => value::modulo(a, b).unwrap_or_else(|| Err(unsupported("%", a, b))),
    }
}

pub(super) fn positive(value: &Value) -> Result<Value> {
    match value {
        Value::Float(_) => Ok(value.clone()),
        other => {
            other.defined()?;
            let number = other.integer().map(Value::Int);
            number.ok_or_else(|| Error::type_error(format!("bad operand type for unary +: '{}'", other.type_name())))
        }
    }
}
