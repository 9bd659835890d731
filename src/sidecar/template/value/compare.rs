//! Python's `==`, `<` and `in`.
//!
//! The invariant: equality never fails but for a limit; ordering fails where Python's does.

use std::cmp::Ordering;
use std::rc::Rc;

use super::super::budget::{Error, Result};
use super::iter::iterate;
use super::{Cx, Value, View};

pub(in super::super) fn equal(cx: &Rc<Cx>, a: &Value, b: &Value) -> Result<bool> {
    Ok(match (a, b) {
        (Value::Text(a), Value::Text(b)) => {
            if a.len() != b.len() {
                return Ok(false);
            }
            cx.budget.copy(a.len())?;
            **a == **b
        }
        (Value::Undefined(_), Value::Undefined(_)) => true,
        (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => {
            if Rc::ptr_eq(a, b) {
                return Ok(true);
            }
            if a.items.len() != b.items.len() {
                return Ok(false);
            }
            for (a, b) in a.items.iter().zip(&b.items) {
                cx.budget.steps(1)?;
                if !a.same(b) && !equal(cx, a, b)? {
                    return Ok(false);
                }
            }
            true
        }
        (Value::Dict(a), Value::Dict(b)) => {
            if Rc::ptr_eq(a, b) {
                return Ok(true);
            }
            if a.len() != b.len() {
                return Ok(false);
            }
            for (key, value) in a.entries() {
                cx.budget.steps(1)?;
                match b.get(cx, key)? {
                    Some(other) if value.same(other) || equal(cx, value, other)? => {}
                    _ => return Ok(false),
                }
            }
            true
        }
        (Value::View(View::Keys, a), Value::View(View::Keys, b)) => {
            let mut all = a.len() == b.len();
            for (key, _) in a.entries() {
                all = all && b.get(cx, key)?.is_some();
            }
            all
        }
        (Value::View(View::Items, a), Value::View(View::Items, b)) => {
            equal(cx, &Value::Dict(a.clone()), &Value::Dict(b.clone()))?
        }
        (Value::Range(a), Value::Range(b)) => {
            a.length == b.length && (a.length == 0 || a.start == b.start && (a.length == 1 || a.step == b.step))
        }
        _ => match number_order(a, b) {
            Some(order) => order == Some(Ordering::Equal),
            None => a.same(b),
        },
    })
}

/// The order of two numbers: `None` if one is none, `Some(None)` if one is not a number in the float's sense.
fn number_order(a: &Value, b: &Value) -> Option<Option<Ordering>> {
    match (a, b) {
        (Value::Float(a), Value::Float(b)) => Some(a.partial_cmp(b)),
        (Value::Float(a), b) => Some(integer_order(b.integer()?, *a).map(Ordering::reverse)),
        (a, Value::Float(b)) => Some(integer_order(a.integer()?, *b)),
        (a, b) => Some(Some(a.integer()?.cmp(&b.integer()?))),
    }
}

/// Exact, as Python's.
fn integer_order(a: i128, b: f64) -> Option<Ordering> {
    const BEYOND: f64 = 170_141_183_460_469_231_731_687_303_715_884_105_728.0;
    if b.is_nan() {
        return None;
    }
    if b >= BEYOND {
        return Some(Ordering::Less);
    }
    if b < -BEYOND {
        return Some(Ordering::Greater);
    }
    let order = a.cmp(&(b.trunc() as i128));
    Some(order.then(0.0.partial_cmp(&b.fract())?))
}

/// The order of two values; `None` where neither is less (a float that is no number).
pub(in super::super) fn order(cx: &Rc<Cx>, a: &Value, b: &Value) -> Result<Option<Ordering>> {
    match (a, b) {
        (Value::Text(a), Value::Text(b)) => {
            cx.budget.copy(a.len().min(b.len()))?;
            Ok(Some((**a).cmp(b)))
        }
        (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => {
            for (a, b) in a.items.iter().zip(&b.items) {
                cx.budget.steps(1)?;
                if !a.same(b) && !equal(cx, a, b)? {
                    return order(cx, a, b);
                }
            }
            Ok(Some(a.items.len().cmp(&b.items.len())))
        }
        _ => match number_order(a, b) {
            Some(order) => Ok(order),
            None => {
                a.defined()?;
                b.defined()?;
                Err(Error::type_error(format!("'{}' and '{}' have no order", a.type_name(), b.type_name())))
            }
        },
    }
}

/// Python's `<`.
pub(in super::super) fn less(cx: &Rc<Cx>, a: &Value, b: &Value) -> Result<bool> {
    Ok(order(cx, a, b)? == Some(Ordering::Less))
}

/// Python's `in`.
pub(in super::super) fn contains(cx: &Rc<Cx>, container: &Value, item: &Value) -> Result<bool> {
    match container {
        Value::Text(text) => {
            let part = item.expect_text()?;
            cx.budget.search(text.len() + part.len())?;
            Ok(text.contains(&**part))
        }
        Value::Dict(dict) | Value::View(View::Keys, dict) => Ok(dict.get(cx, item)?.is_some()),
        Value::Range(range) => Ok(match item {
            Value::Int(_) | Value::Bool(_) | Value::Float(_) => {
                let Some(number) = whole(item) else { return Ok(false) };
                let distance = number.checked_sub(range.start);
                let within = |distance: i128| {
                    distance % range.step == 0 && (0..range.length as i128).contains(&(distance / range.step))
                };
                distance.is_some_and(within)
            }
            _ => false,
        }),
        other => {
            if let Value::View(View::Items, _) = other {
                hashable(cx, item)?;
            }
            let mut items = iterate(other).map_err(|_| {
                other.defined().err().unwrap_or_else(|| {
                    Error::type_error(format!("argument of type '{}' is not iterable", other.type_name()))
                })
            })?;
            while let Some(other) = items.next(cx)? {
                if other.same(item) || equal(cx, &other, item)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
    }
}

/// The whole number that a value equals.
fn whole(value: &Value) -> Option<i128> {
    match value {
        Value::Float(number) if number.fract() == 0.0 && number.abs() < 1e38 => Some(*number as i128),
        other => other.integer(),
    }
}

/// Refuses what Python cannot hash.
pub(in super::super) fn hashable(cx: &Rc<Cx>, key: &Value) -> Result<()> {
    match key {
        Value::List(_) | Value::Dict(_) | Value::View(View::Keys | View::Items, _) => {
            Err(Error::type_error(format!("unhashable type: '{}'", key.type_name())))
        }
        Value::Tuple(tuple) => {
            cx.budget.steps(tuple.items.len() as u64)?;
            tuple.items.iter().try_for_each(|item| hashable(cx, item))
        }
        _ => Ok(()),
    }
}
