//! Jinja2's filters, with their parameters' names.
//!
//! The invariant: a filter is found by its name alone; those that are refused have no function here.

mod keys;
mod lazy;
mod markup;
mod numbers;
mod sequences;
mod texts;
mod wrap;

use std::rc::Rc;

use super::budget::Result;
use super::methods::table;
use super::tests_;
use super::value::{Args, Cx, Native, Value, hashable};

/// Filters of Jinja2 that are refused when a template is loaded: two that give another text each time or depend on what
/// Python's printing of addresses is, and two that no chat template needs.
pub(super) const REFUSED: [&str; 3] = ["pprint", "random", "urlize"];

/// The filter of that name.
pub(super) fn find(name: &str) -> Option<Native> {
    of_texts(name).or_else(|| of_sequences(name))
}

/// The test of that name. Those that ask whether there is a filter or a test of a name need to know all of both.
pub(super) fn test(name: &str) -> Option<Native> {
    table!(name,
        "filter" => |cx, value, args| {
            named(cx, &value, args, |name| find(name).is_some() || REFUSED.contains(&name))
        },
        "test" => |cx, value, args| named(cx, &value, args, |name| test(name).is_some()),
    )
    .or_else(|| tests_::find(name))
}

/// Whether a value is the name of something.
fn named(cx: &Rc<Cx>, value: &Value, args: Args, known: impl Fn(&str) -> bool) -> Result<Value> {
    args.bind("the test", [], 0)?;
    hashable(cx, value)?;
    Ok(Value::Bool(matches!(value, Value::Text(name) if known(name))))
}

fn of_texts(name: &str) -> Option<Native> {
    table!(name,
        "trim" => texts::trim,
        "upper" => texts::upper,
        "lower" => texts::lower,
        "capitalize" => texts::capitalize,
        "title" => texts::title,
        "replace" => texts::replace,
        "string" => texts::string,
        "center" => texts::center,
        "indent" => texts::indent,
        "truncate" => texts::truncate,
        "format" => texts::format,
        "wordcount" => texts::wordcount,
        "wordwrap" => wrap::wordwrap,
        "urlencode" => markup::urlencode,
        "escape" => markup::escape,
        "e" => markup::escape,
        "forceescape" => markup::forceescape,
        "safe" => markup::safe,
        "striptags" => markup::striptags,
        "xmlattr" => markup::xmlattr,
        "tojson" => super::json::to_json,
        "abs" => numbers::abs,
        "int" => numbers::int,
        "float" => numbers::float,
        "round" => numbers::round,
        "filesizeformat" => numbers::filesizeformat,
    )
}

fn of_sequences(name: &str) -> Option<Native> {
    table!(name,
        "length" => sequences::length,
        "count" => sequences::length,
        "list" => sequences::list,
        "join" => sequences::join,
        "default" => sequences::default,
        "d" => sequences::default,
        "first" => sequences::first,
        "last" => sequences::last,
        "reverse" => sequences::reverse,
        "attr" => sequences::attr,
        "sum" => sequences::sum,
        "items" => lazy::items,
        "map" => lazy::map,
        "select" => lazy::select,
        "reject" => lazy::reject,
        "selectattr" => lazy::selectattr,
        "rejectattr" => lazy::rejectattr,
        "unique" => lazy::unique,
        "batch" => lazy::batch,
        "slice" => lazy::slice,
        "sort" => keys::sort,
        "dictsort" => keys::dictsort,
        "groupby" => keys::groupby,
        "min" => keys::min,
        "max" => keys::max,
    )
}
