//! The methods of Python's types that the sandbox lets a template call.
//!
//! The invariant: a method is found by the type of its value and its name alone.

mod case;
mod class;
mod find;
mod layout;
mod others;
mod split;

use std::rc::Rc;

pub(super) use self::case::{capitalized, lowered, uppered};
pub(super) use self::find::replaced;
pub(super) use self::layout::centered;
pub(super) use self::others::{escape, modulo};
pub(super) use self::split::{lines, strip_text};
use super::budget::Result;
use super::value::{Args, Cx, Native, Text, Value};

/// The method of a value, if its type has one of that name.
pub(super) fn find(value: &Value, name: &str) -> Option<Native> {
    match value {
        Value::Text(text) => of_text(name).or_else(|| if text.is_markup() { others::of_markup(name) } else { None }),
        Value::List(_) | Value::Tuple(_) | Value::Range(_) => others::of_sequence(value, name),
        Value::Dict(_) => others::of_dict(name),
        Value::View(..) => others::of_view(value, name),
        Value::Int(_) | Value::Bool(_) => others::of_integer(name),
        Value::Float(_) => others::of_float(name),
        _ => None,
    }
}

macro_rules! table {
    ($name:expr, $($known:literal => $function:expr,)*) => {
        match $name {
            $($known => Some($function as Native),)*
            _ => None,
        }
    };
}
pub(super) use table;

fn of_text(name: &str) -> Option<Native> {
    table!(name,
        "strip" => split::strip,
        "split" => split::split,
        "startswith" => find::starts_with,
        "endswith" => find::ends_with,
        "replace" => find::replace,
        "lstrip" => split::lstrip,
        "rstrip" => split::rstrip,
        "upper" => case::upper,
        "lower" => case::lower,
        "find" => find::find,
        "rfind" => find::rfind,
        "index" => find::index,
        "rindex" => find::rindex,
        "count" => find::count,
        "join" => others::join,
        "format" => others::format,
        "format_map" => others::format_map,
        "title" => case::title,
        "capitalize" => case::capitalize,
        "swapcase" => case::swapcase,
        "casefold" => case::casefold,
        "rsplit" => split::rsplit,
        "splitlines" => split::splitlines,
        "partition" => split::partition,
        "rpartition" => split::rpartition,
        "removeprefix" => split::removeprefix,
        "removesuffix" => split::removesuffix,
        "center" => layout::center,
        "ljust" => layout::ljust,
        "rjust" => layout::rjust,
        "zfill" => layout::zfill,
        "expandtabs" => layout::expandtabs,
        "translate" => others::translate,
        "isalpha" => class::isalpha,
        "isdigit" => class::isdigit,
        "isdecimal" => class::isdecimal,
        "isnumeric" => class::isnumeric,
        "isalnum" => class::isalnum,
        "isspace" => class::isspace,
        "isupper" => class::isupper,
        "islower" => class::islower,
        "istitle" => class::istitle,
        "isidentifier" => class::isidentifier,
        "isascii" => class::isascii,
        "isprintable" => class::isprintable,
    )
}

/// The text that a method is of, charged for going through it.
fn receiver<'a>(cx: &Rc<Cx>, value: &'a Value) -> Result<&'a Text> {
    let text = value.expect_text()?;
    cx.budget.search(text.len())?;
    Ok(text)
}

/// An argument that is not `None`.
fn given(value: Option<Value>) -> Option<Value> {
    value.filter(|value| !matches!(value, Value::None))
}
fn none(args: Args, function: &str) -> Result<()> {
    args.positional::<0>(function, 0).map(|_| ())
}
