//! Going through values one by one.
//!
//! The invariant: each item costs a step.

use std::rc::Rc;

use super::super::budget::{Error, Result};
use super::{Cx, Dict, Iter, Object, Range, Sequence, Text, Value, View};

/// What gives values one by one.
pub(in super::super) trait Iterate {
    fn next(&mut self, cx: &Rc<Cx>) -> Result<Option<Value>>;
}

/// An iteration over any value that can be gone through.
pub(in super::super) enum Items {
    Empty,
    Sequence(Rc<Sequence>, usize),
    Characters(Text, usize),
    View(View, Rc<Dict>, usize),
    Range(Rc<Range>, usize),
    Iter(Rc<Iter>),
    Object(Rc<dyn Object>),
}

/// Python's `iter`.
pub(in super::super) fn iterate(value: &Value) -> Result<Items> {
    Ok(match value {
        Value::Undefined(_) => Items::Empty,
        Value::Text(text) => Items::Characters(text.clone(), 0),
        Value::List(sequence) | Value::Tuple(sequence) => Items::Sequence(sequence.clone(), 0),
        Value::Dict(dict) => Items::View(View::Keys, dict.clone(), 0),
        Value::View(view, dict) => Items::View(*view, dict.clone(), 0),
        Value::Range(range) => Items::Range(range.clone(), 0),
        Value::Iter(iter) => Items::Iter(iter.clone()),
        Value::Object(object) if object.is_iterable() => Items::Object(object.clone()),
        other => return Err(Error::type_error(format!("'{}' object is not iterable", other.type_name()))),
    })
}

impl Items {
    pub(in super::super) fn next(&mut self, cx: &Rc<Cx>) -> Result<Option<Value>> {
        cx.budget.steps(1)?;
        Ok(match self {
            Self::Empty => None,
            Self::Object(object) => object.next(cx)?,
            Self::Sequence(sequence, at) => {
                *at += 1;
                sequence.items.get(*at - 1).cloned()
            }
            Self::Characters(text, at) => match text[*at..].chars().next() {
                Some(c) => {
                    let start = *at;
                    *at += c.len_utf8();
                    Some(Value::Text(text.part(cx, start..*at)?.as_markup(cx, false)?))
                }
                None => None,
            },
            Self::View(view, dict, at) => {
                *at += 1;
                match dict.entries().get(*at - 1) {
                    Some(entry) => Some(view_item(cx, *view, entry)?),
                    None => None,
                }
            }
            Self::Range(range, at) => {
                *at += 1;
                (*at <= range.length).then(|| Value::Int(range.start + range.step * (*at as i128 - 1)))
            }
            Self::Iter(iter) => {
                let _depth = cx.budget.deeper()?;
                let mut inner =
                    iter.inner.try_borrow_mut().map_err(|_| Error::value_error("generator already executing"))?;
                inner.next(cx)?
            }
        })
    }
}

/// What a view shows of an entry.
fn view_item(cx: &Rc<Cx>, view: View, (key, value): &(Value, Value)) -> Result<Value> {
    match view {
        View::Keys => Ok(key.clone()),
        View::Values => Ok(value.clone()),
        View::Items => cx.tuple(vec![key.clone(), value.clone()]),
    }
}

/// Python's `list`, as a vector.
pub(in super::super) fn collect(cx: &Rc<Cx>, value: &Value) -> Result<Vec<Value>> {
    if let Value::List(sequence) | Value::Tuple(sequence) = value {
        cx.budget.steps(sequence.items.len() as u64 / 4 + 1)?;
        cx.budget.fits(sequence.items.len() * size_of::<Value>())?;
        return Ok(sequence.items.clone());
    }
    let mut items = iterate(value)?;
    let mut all = Vec::new();
    while let Some(item) = items.next(cx)? {
        if all.len() == all.capacity() {
            cx.budget.fits((all.len() + 4) * 2 * size_of::<Value>())?;
        }
        all.push(item);
    }
    Ok(all)
}
