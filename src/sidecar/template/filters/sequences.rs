//! Filters on sequences that need all of them at once, or one item.
//!
//! The invariant: a value that cannot be gone through is an error, never an empty sequence.

use std::rc::Rc;

use super::super::access;
use super::super::budget::{Error, Result};
use super::super::operators;
use super::super::value::{Args, Cx, Iterate, Out, Undefined, Value, collect, iterate, write};
use super::keys::Path;

pub(super) fn length(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    args.positional::<0>("length", 0)?;
    match value.length(cx)? {
        Some(length) => Ok(Value::Int(length as i128)),
        None => Err(Error::type_error(format!("object of type '{}' has no len()", value.type_name()))),
    }
}

pub(super) fn list(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    args.bind("list", [], 0)?;
    cx.list(collect(cx, &value)?)
}

pub(super) fn join(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    let [between, attribute] = args.bind("join", ["d", "attribute"], 0)?;
    let between = between.map_or_else(|| cx.text(""), Ok)?;
    let path = attribute.filter(|a| !matches!(a, Value::None)).map(|a| Path::new(cx, &a)).transpose()?;
    let mut items = iterate(&value)?;
    let mut out = Out::new(cx)?;
    let mut first = true;
    while let Some(item) = items.next(cx)? {
        if !first {
            write(cx, &between, &mut out)?;
        }
        first = false;
        match &path {
            Some(path) => write(cx, &path.get(cx, item)?, &mut out)?,
            None => write(cx, &item, &mut out)?,
        }
    }
    Ok(Value::Text(out.finish()?))
}

pub(super) fn default(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    let [usual, boolean] = args.bind("default", ["default_value", "boolean"], 0)?;
    let replaces =
        value.is_undefined() || boolean.map_or(Ok(false), |boolean| boolean.truth(cx))? && !value.truth(cx)?;
    if replaces { usual.map_or_else(|| cx.text(""), Ok) } else { Ok(value) }
}

pub(super) fn first(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    args.bind("first", [], 0)?;
    let first = iterate(&value)?.next(cx)?;
    Ok(first.unwrap_or_else(|| cx.undefined(Undefined::Hint("No first item, sequence was empty.".into()))))
}

/// Python's `reversed`, as a vector; `None` where there is none of the value.
fn reversed(cx: &Rc<Cx>, value: &Value) -> Result<Option<Vec<Value>>> {
    match value {
        Value::Text(_)
        | Value::List(_)
        | Value::Tuple(_)
        | Value::Dict(_)
        | Value::View(..)
        | Value::Range(_)
        | Value::Undefined(_) => {
            let mut items = collect(cx, value)?;
            items.reverse();
            Ok(Some(items))
        }
        _ => Ok(None),
    }
}

pub(super) fn last(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    args.bind("last", [], 0)?;
    if let Value::List(sequence) | Value::Tuple(sequence) = &value
        && let Some(last) = sequence.items.last()
    {
        return Ok(last.clone());
    }
    match reversed(cx, &value)? {
        Some(items) => {
            let last = items.into_iter().next();
            Ok(last.unwrap_or_else(|| cx.undefined(Undefined::Hint("No last item, sequence was empty.".into()))))
        }
        None => Err(Error::type_error(format!("'{}' object is not reversible", value.type_name()))),
    }
}

/// Items that are given once.
struct Once(std::vec::IntoIter<Value>);

impl Iterate for Once {
    fn next(&mut self, _: &Rc<Cx>) -> Result<Option<Value>> {
        Ok(self.0.next())
    }
}

pub(super) fn reverse(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    args.bind("reverse", [], 0)?;
    if let Value::Text(_) = &value {
        return access::slice(cx, &value, [&Value::None, &Value::None, &Value::Int(-1)]);
    }
    match reversed(cx, &value)? {
        Some(items) => {
            let held = cx.list(items)?;
            let depth = held.depth();
            cx.iterator("list_reverseiterator", depth, Once(collect(cx, &held)?.into_iter()))
        }
        None => {
            let mut items = collect(cx, &value)?;
            items.reverse();
            cx.list(items)
        }
    }
}

pub(super) fn attr(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    let [name] = args.bind("attr", ["name"], 1)?;
    access::only_attribute(cx, &value, name.unwrap_or(Value::None).expect_text()?)
}

pub(super) fn sum(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    let [attribute, start] = args.bind("sum", ["attribute", "start"], 0)?;
    let path = attribute.filter(|a| !matches!(a, Value::None)).map(|a| Path::new(cx, &a)).transpose()?;
    let mut total = start.unwrap_or(Value::Int(0));
    if let Value::Text(_) = total {
        return Err(Error::type_error("sum() can't sum strings"));
    }
    let mut items = iterate(&value)?;
    while let Some(item) = items.next(cx)? {
        let item = match &path {
            Some(path) => path.get(cx, item)?,
            None => item,
        };
        total = operators::add(cx, &total, &item)?;
    }
    Ok(total)
}
