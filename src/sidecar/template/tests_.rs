//! Jinja2's tests (`value is test`).
//!
//! The invariant: a test is found by its name alone, and answers with a truth or, where Jinja2 compares, with what that gives.

use std::rc::Rc;

use super::budget::{Error, Result};
use super::methods::{self, table};
use super::operators::modulo;
use super::value::{Args, Cx, Native, Value, contains, equal, iterate, less, order, to_text};

/// The test of that name.
pub(super) fn find(name: &str) -> Option<Native> {
    of_values(name).or_else(|| of_comparisons(name))
}

/// A test without arguments.
fn plain(args: Args, is: bool) -> Result<Value> {
    args.bind("the test", [], 0)?;
    Ok(Value::Bool(is))
}

fn remainder(cx: &Rc<Cx>, value: &Value, by: &Value, is: i128) -> Result<Value> {
    Ok(Value::Bool(equal(cx, &modulo(cx, value, by)?, &Value::Int(is))?))
}

fn of_values(name: &str) -> Option<Native> {
    table!(name,
        "defined" => |_, value, args| plain(args, !value.is_undefined()),
        "undefined" => |_, value, args| plain(args, value.is_undefined()),
        "none" => |_, value, args| plain(args, matches!(value, Value::None)),
        "string" => |_, value, args| plain(args, matches!(value, Value::Text(_))),
        "mapping" => |_, value, args| plain(args, matches!(value, Value::Dict(_))),
        "iterable" => |_, value, args| {
            let is = iterate(&value).is_ok();
            plain(args, is)
        },
        "sequence" => |cx, value, args| {
            let is = !matches!(value, Value::View(..) | Value::Object(_)) && value.length(cx)?.is_some();
            plain(args, is)
        },
        "boolean" => |_, value, args| plain(args, matches!(value, Value::Bool(_))),
        "true" => |_, value, args| plain(args, matches!(value, Value::Bool(true))),
        "false" => |_, value, args| plain(args, matches!(value, Value::Bool(false))),
        "integer" => |_, value, args| plain(args, matches!(value, Value::Int(_))),
        "float" => |_, value, args| plain(args, matches!(value, Value::Float(_))),
        "number" => |_, value, args| plain(args, matches!(value, Value::Int(_) | Value::Float(_) | Value::Bool(_))),
        "callable" => |_, value, args| {
            args.positional::<0>("callable", 0)?;
            Ok(Value::Bool(value.is_callable()))
        },
        "escaped" => |_, value, args| plain(args, matches!(&value, Value::Text(text) if text.is_markup())),
        "odd" => |cx, value, args| {
            args.bind("odd", [], 0)?;
            remainder(cx, &value, &Value::Int(2), 1)
        },
        "even" => |cx, value, args| {
            args.bind("even", [], 0)?;
            remainder(cx, &value, &Value::Int(2), 0)
        },
        "divisibleby" => |cx, value, args| {
            let [number] = args.bind("divisibleby", ["num"], 1)?;
            remainder(cx, &value, &number.unwrap_or(Value::None), 0)
        },
        "lower" => |cx, value, args| cased(cx, &value, args, "islower"),
        "upper" => |cx, value, args| cased(cx, &value, args, "isupper"),
        "sameas" => |_, value, args| {
            let [other] = args.bind("sameas", ["other"], 1)?;
            Ok(Value::Bool(value.same(&other.unwrap_or(Value::None))))
        },
    )
}

/// A test of a text's letters.
fn cased(cx: &Rc<Cx>, value: &Value, args: Args, method: &str) -> Result<Value> {
    args.bind(method, [], 0)?;
    let text = Value::Text(to_text(cx, value)?);
    match methods::find(&text, method) {
        Some(function) => function(cx, text, Args::default()),
        None => Err(Error::other(format!("there is no method '{method}'"))),
    }
}

fn other(args: Args, name: &str) -> Result<Value> {
    let [other] = args.positional(name, 1)?;
    Ok(other.unwrap_or(Value::None))
}

fn of_comparisons(name: &str) -> Option<Native> {
    let at = |is: &str| is == name;
    if ["eq", "equalto", "=="].into_iter().any(at) {
        return Some(|cx, value, args| Ok(Value::Bool(equal(cx, &value, &other(args, "eq")?)?)));
    }
    if ["ne", "!="].into_iter().any(at) {
        return Some(|cx, value, args| Ok(Value::Bool(!equal(cx, &value, &other(args, "ne")?)?)));
    }
    if ["lt", "lessthan", "<"].into_iter().any(at) {
        return Some(|cx, value, args| Ok(Value::Bool(less(cx, &value, &other(args, "lt")?)?)));
    }
    if ["gt", "greaterthan", ">"].into_iter().any(at) {
        return Some(|cx, value, args| Ok(Value::Bool(less(cx, &other(args, "gt")?, &value)?)));
    }
    if ["le", "<="].into_iter().any(at) {
        return Some(|cx, value, args| {
            Ok(Value::Bool(order(cx, &value, &other(args, "le")?)?.is_some_and(|order| order.is_le())))
        });
    }
    if ["ge", ">="].into_iter().any(at) {
        return Some(|cx, value, args| {
            Ok(Value::Bool(order(cx, &value, &other(args, "ge")?)?.is_some_and(|order| order.is_ge())))
        });
    }
    if name == "in" {
        return Some(|cx, value, args| {
            let [container] = args.bind("in", ["seq"], 1)?;
            Ok(Value::Bool(contains(cx, &container.unwrap_or(Value::None), &value)?))
        });
    }
    None
}
