//! Methods that pad a text.
//!
//! The invariant: the text itself keeps its marks, what is put around it has none.

use std::rc::Rc;

use super::super::budget::{Error, Result};
use super::super::value::{Args, Cx, Out, Text, Value};
use super::receiver;

/// Writes a text with so many fill characters before and behind it.
fn padded(cx: &Rc<Cx>, text: &Text, fill: &str, before: usize, behind: usize) -> Result<Text> {
    if before + behind == 0 {
        return Ok(text.clone());
    }
    let mut out = Out::new(cx)?;
    out.repeat(fill, before)?;
    out.push_text(text)?;
    out.repeat(fill, behind)?;
    out.finish_as(text.is_markup())
}

fn missing(text: &Text, width: i128) -> usize {
    usize::try_from(width.saturating_sub(text.count() as i128).max(0)).unwrap_or(usize::MAX / 2).min(usize::MAX / 8)
}

/// Python's `str.center`.
pub(in super::super) fn centered(cx: &Rc<Cx>, text: &Text, width: i128, fill: &str) -> Result<Text> {
    let missing = missing(text, width);
    // Where the padding is odd, an odd width has the larger part before the text.
    let before = missing / 2 + (missing & usize::try_from(width & 1).unwrap_or(0) & 1);
    padded(cx, text, fill, before, missing - before)
}

fn method(cx: &Rc<Cx>, value: &Value, args: Args, function: &str, side: Side) -> Result<Value> {
    let text = receiver(cx, value)?;
    let [width, fill] = args.positional(function, 1)?;
    let width = width.unwrap_or(Value::None).expect_integer()?;
    let fill = match &fill {
        Some(fill) => fill.expect_text()?.to_string(),
        None => " ".into(),
    };
    if fill.chars().count() != 1 {
        return Err(Error::type_error("The fill character must be exactly one character long"));
    }
    Ok(Value::Text(match side {
        Side::Both => centered(cx, text, width, &fill)?,
        Side::Before => padded(cx, text, &fill, missing(text, width), 0)?,
        Side::Behind => padded(cx, text, &fill, 0, missing(text, width))?,
    }))
}

enum Side {
    Before,
    Behind,
    Both,
}

pub(super) fn center(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    method(cx, &value, args, "center", Side::Both)
}

pub(super) fn ljust(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    method(cx, &value, args, "ljust", Side::Behind)
}

pub(super) fn rjust(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    method(cx, &value, args, "rjust", Side::Before)
}

pub(super) fn zfill(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    let text = receiver(cx, &value)?;
    let [width] = args.positional("zfill", 1)?;
    let zeros = missing(text, width.unwrap_or(Value::None).expect_integer()?);
    let sign = usize::from(text.starts_with(['+', '-']));
    let mut out = Out::new(cx)?;
    out.push_part(text, 0..sign)?;
    out.repeat("0", zeros)?;
    out.push_part(text, sign..text.len())?;
    Ok(Value::Text(out.finish_as(text.is_markup())?))
}

pub(super) fn expandtabs(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    let text = receiver(cx, &value)?;
    let [size] = args.bind("expandtabs", ["tabsize"], 0)?;
    let size = size.map_or(Ok(8), |size| size.expect_integer())?;
    let size = usize::try_from(size.max(0)).unwrap_or(usize::MAX / 8).min(usize::MAX / 8);
    let mut out = Out::new(cx)?;
    let mut column = 0;
    for (at, c) in text.char_indices() {
        match c {
            '\t' if size > 0 => {
                let spaces = size - column % size;
                out.repeat(" ", spaces)?;
                column += spaces;
            }
            '\t' => {}
            _ => {
                out.push_part(text, at..at + c.len_utf8())?;
                column = if matches!(c, '\n' | '\r') { 0 } else { column + 1 };
            }
        }
    }
    Ok(Value::Text(out.finish_as(text.is_markup())?))
}
