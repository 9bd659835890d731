//! Filters that make a text of a value.
//!
//! The invariant: a value that is no text is printed first where Jinja2 does that, and refused where it does not.

use std::rc::Rc;

use super::super::budget::{Error, Result};
use super::super::methods;
use super::super::operators;
use super::super::unicode::is_alphanumeric;
use super::super::value::{Args, Cx, Dict, Out, Text, Value, less, to_text};

pub(super) fn trim(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    let [characters] = args.bind("trim", ["chars"], 0)?;
    Ok(Value::Text(methods::strip_text(cx, &to_text(cx, &value)?, characters, [true, true])?))
}

pub(super) fn upper(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    args.bind("upper", [], 0)?;
    methods::uppered(cx, &to_text(cx, &value)?)
}

pub(super) fn lower(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    args.bind("lower", [], 0)?;
    methods::lowered(cx, &to_text(cx, &value)?)
}

pub(super) fn capitalize(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    args.bind("capitalize", [], 0)?;
    methods::capitalized(cx, &to_text(cx, &value)?)
}

/// Words begin behind blanks, hyphens and opening brackets.
pub(super) fn title(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    args.bind("title", [], 0)?;
    let text = to_text(cx, &value)?;
    cx.budget.fits(text.len() * 3)?;
    let begins = |c: char| super::super::unicode::is_space(c) || "-({[<".contains(c);
    let mut out = String::with_capacity(text.len());
    let mut rest = &*text;
    while let Some(first) = rest.chars().next() {
        let in_gap = begins(first);
        let end = rest.find(|c| begins(c) != in_gap).unwrap_or(rest.len());
        out.extend(first.to_uppercase());
        out.push_str(&rest[first.len_utf8()..end].to_lowercase());
        rest = &rest[end..];
    }
    Ok(Value::Text(Text::whole(cx, out, text.is_marked(), false)?))
}

pub(super) fn replace(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    let [old, new, count] = args.bind("replace", ["old", "new", "count"], 2)?;
    let most = match count {
        None | Some(Value::None) => -1,
        Some(count) => count.expect_integer()?,
    };
    let part = |value: Option<Value>| to_text(cx, &value.unwrap_or(Value::None));
    let text = to_text(cx, &value)?.as_markup(cx, false)?;
    Ok(Value::Text(methods::replaced(cx, &text, &part(old)?, &part(new)?, most)?))
}

pub(super) fn string(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    args.bind("string", [], 0)?;
    Ok(Value::Text(to_text(cx, &value)?))
}

pub(super) fn center(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    let [width] = args.bind("center", ["width"], 0)?;
    let width = width.map_or(Ok(80), |width| width.expect_integer())?;
    Ok(Value::Text(methods::centered(cx, &to_text(cx, &value)?, width, " ")?))
}

pub(super) fn indent(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    let [width, first, blank] = args.bind("indent", ["width", "first", "blank"], 0)?;
    let truth = |value: Option<Value>| value.map_or(Ok(false), |value| value.truth(cx));
    let indention = match width {
        Some(Value::Text(text)) => text,
        other => {
            let width = other.map_or(Ok(4), |width| width.expect_integer())?;
            let mut out = Out::new(cx)?;
            out.repeat(" ", usize::try_from(width.max(0)).unwrap_or(usize::MAX / 4))?;
            out.finish()?
        }
    };
    value.defined()?;
    let text = value.expect_text()?;
    let (first, blank) = (truth(first)?, truth(blank)?);
    // Jinja2 adds a line end before it splits.
    let mut whole = Out::new(cx)?;
    whole.push_text(text)?;
    whole.push("\n")?;
    let lines = methods::lines(cx, &whole.finish()?, false)?;
    let mut out = Out::new(cx)?;
    for (n, line) in lines.iter().enumerate() {
        if n > 0 {
            out.push("\n")?;
        }
        if if n == 0 { first } else { blank || !line.is_empty() } {
            out.push_text(&indention)?;
        }
        out.push_text(line)?;
    }
    Ok(Value::Text(out.finish_as(text.is_markup())?))
}

pub(super) fn truncate(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    let [length, kill, end, leeway] = args.bind("truncate", ["length", "killwords", "end", "leeway"], 0)?;
    let length = length.unwrap_or(Value::Int(255));
    let end = match end {
        Some(end) => end,
        None => cx.text("...")?,
    };
    let leeway = match leeway {
        None | Some(Value::None) => Value::Int(5),
        Some(leeway) => leeway,
    };
    let size = |value: &Value| -> Result<Value> {
        let length = value.length(cx)?;
        let length = length.ok_or_else(|| Error::type_error(format!("'{}' has no length", value.type_name())))?;
        Ok(Value::Int(length as i128))
    };
    let end_size = size(&end)?;
    if less(cx, &length, &end_size)? || less(cx, &leeway, &Value::Int(0))? {
        return Err(Error::other("truncate: the length is less than its end's, or the leeway less than nothing"));
    }
    let longest = operators::add(cx, &length, &leeway)?;
    if !less(cx, &longest, &size(&value)?)? {
        return Ok(value);
    }
    let keep = operators::binary(cx, super::super::syntax::Binary::Sub, &length, &end_size)?;
    let kept = super::super::access::slice(cx, &value, [&Value::None, &keep, &Value::None])?;
    if kill.map_or(Ok(false), |kill| kill.truth(cx))? {
        return operators::add(cx, &kept, &end);
    }
    let kept = kept.expect_text()?;
    let cut = kept.rfind(' ').map_or(kept.len(), |at| at);
    operators::add(cx, &Value::Text(kept.part(cx, 0..cut)?), &end)
}

pub(super) fn format(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    let text = to_text(cx, &value)?;
    if !args.places.is_empty() && !args.named.is_empty() {
        return Err(Error::other("format takes values by place or by name, not both"));
    }
    let values = if args.named.is_empty() {
        cx.tuple(args.places)?
    } else {
        let named = args.named.into_iter().map(|(name, value)| Ok((cx.text(&*name)?, value)));
        Value::Dict(Dict::new(cx, named.collect::<Result<Vec<_>>>()?)?)
    };
    methods::modulo(cx, &text, &values)
}

pub(super) fn wordcount(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    args.bind("wordcount", [], 0)?;
    let text = to_text(cx, &value)?;
    cx.budget.copy(text.len() * 4)?;
    let words = text.split(|c: char| c != '_' && !is_alphanumeric(c)).filter(|word| !word.is_empty());
    Ok(Value::Int(words.count() as i128))
}
