//! Filters on numbers.
//!
//! The invariant: what Python cannot read as a number is the default, where there is one.

use std::rc::Rc;

use super::super::budget::{Error, Kind, Result};
use super::super::format::{fixed, round_to};
use super::super::operators::binary;
use super::super::syntax::Binary;
use super::super::unicode::is_space;
use super::super::value::{Args, Cx, Value, less};

pub(super) fn abs(_: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    args.positional::<0>("abs", 0)?;
    match &value {
        Value::Float(number) => Ok(Value::Float(number.abs())),
        other => match other.integer() {
            Some(number) => number.checked_abs().map(Value::Int).ok_or_else(too_large),
            None => Err(Error::type_error(format!("bad operand type for abs(): '{}'", other.type_name()))),
        },
    }
}

fn too_large() -> Error {
    Error::other("an integer beyond 127 bits is not supported")
}

pub(super) fn int(_: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    let [default, base] = args.bind("int", ["default", "base"], 0)?;
    let default = default.unwrap_or(Value::Int(0));
    let whole = match &value {
        Value::Text(text) => match base.map_or(Some(10), |base| base.integer()) {
            Some(base) => parse_int(text, base)?,
            None => None,
        },
        Value::Float(number) if number.is_infinite() => {
            return Err(Error::new(Kind::Overflow, "cannot convert float infinity to integer"));
        }
        Value::Float(number) => truncated(*number)?,
        other => {
            other.defined()?;
            other.integer()
        }
    };
    if let Some(whole) = whole {
        return Ok(Value::Int(whole));
    }
    // So that "42.23" is 42.
    let number = match &value {
        Value::Text(text) => parse_float(text),
        Value::Float(number) => Some(*number),
        _ => None,
    };
    match number {
        Some(number) if number.is_finite() => Ok(truncated(number)?.map_or(default, Value::Int)),
        _ => Ok(default),
    }
}

/// `None`: it is not a number.
fn truncated(number: f64) -> Result<Option<i128>> {
    if number.is_nan() {
        return Ok(None);
    }
    if number.abs() >= 1.7e38 { Err(too_large()) } else { Ok(Some(number.trunc() as i128)) }
}

/// Python's `int(text, base)`; `None` where that throws.
fn parse_int(text: &str, base: i128) -> Result<Option<i128>> {
    let text = text.trim_matches(is_space);
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if base != 0 && !(2..=36).contains(&base) {
        return Ok(None);
    }
    let prefixed = [("0b", 2), ("0o", 8), ("0x", 16)].into_iter().find(|(prefix, radix)| {
        (base == 0 || base == *radix) && digits.get(..2).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
    });
    let (digits, base) = match prefixed {
        Some((_, radix)) => {
            let behind = &digits[2..];
            (behind.strip_prefix('_').unwrap_or(behind), radix)
        }
        None if base == 0 => {
            if digits.starts_with('0') && digits.bytes().any(|b| b != b'0' && b != b'_') {
                return Ok(None);
            }
            (digits, 10)
        }
        None => (digits, base),
    };
    if !separated(digits) {
        return Ok(None);
    }
    let mut number: i128 = 0;
    for digit in digits.chars().filter(|c| *c != '_') {
        let Some(value) = digit.to_digit(base as u32) else { return Ok(None) };
        number = number.checked_mul(base).and_then(|n| n.checked_add(i128::from(value))).ok_or_else(too_large)?;
    }
    Ok(Some(if negative { -number } else { number }))
}

/// Underscores stand between digits, one by one.
fn separated(digits: &str) -> bool {
    !digits.is_empty() && !digits.starts_with('_') && !digits.ends_with('_') && !digits.contains("__")
}

/// Python's `float(text)`; `None` where that throws.
fn parse_float(text: &str) -> Option<f64> {
    let text = text.trim_matches(is_space);
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let lower = unsigned.to_ascii_lowercase();
    let size = match lower.as_str() {
        "inf" | "infinity" => f64::INFINITY,
        "nan" => f64::NAN,
        _ => {
            let plain = lower.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'-' | b'+' | b'_'));
            let placed = lower.match_indices('_').all(|(at, _)| {
                let digit = |b: Option<&u8>| b.is_some_and(u8::is_ascii_digit);
                at > 0 && digit(lower.as_bytes().get(at - 1)) && digit(lower.as_bytes().get(at + 1))
            });
            if !plain || !placed || lower.starts_with(['-', '+']) {
                return None;
            }
            lower.replace('_', "").parse().ok()?
        }
    };
    Some(if text.starts_with('-') { -size } else { size })
}

/// Python's `float(value)`.
fn to_float(value: &Value) -> Result<Option<f64>> {
    value.defined()?;
    Ok(match value {
        Value::Float(number) => Some(*number),
        Value::Text(text) => parse_float(text),
        other => other.integer().map(|number| number as f64),
    })
}

pub(super) fn float(_: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    let [default] = args.bind("float", ["default"], 0)?;
    Ok(match to_float(&value)? {
        Some(number) => Value::Float(number),
        None => default.unwrap_or(Value::Float(0.0)),
    })
}

pub(super) fn round(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    let [precision, method] = args.bind("round", ["precision", "method"], 0)?;
    let precision = precision.unwrap_or(Value::Int(0));
    let method = match &method {
        None => "common",
        Some(Value::Text(method)) => match &**method {
            "common" => "common",
            "ceil" => "ceil",
            "floor" => "floor",
            _ => return Err(Error::other("round: the method is common, ceil or floor")),
        },
        Some(_) => return Err(Error::other("round: the method is common, ceil or floor")),
    };
    if method == "common" {
        // `None` rounds to an integer.
        let places = if matches!(precision, Value::None) { None } else { Some(precision.expect_integer()?) };
        return match (&value, places) {
            (Value::Float(number), Some(places)) => {
                let rounded = round_to(*number, places)?;
                if rounded.is_infinite() && number.is_finite() {
                    return Err(Error::new(Kind::Overflow, "rounded value too large to represent"));
                }
                Ok(Value::Float(rounded))
            }
            (Value::Float(number), None) => truncated(round_to(*number, 0)?)?.map(Value::Int).ok_or_else(too_large),
            (other, places) => match other.integer() {
                Some(number) => round_integer(number, places.unwrap_or(0)).map(Value::Int),
                None => Err(Error::type_error(format!("type {} doesn't define __round__ method", other.type_name()))),
            },
        };
    }
    let factor = binary(cx, Binary::Pow, &Value::Int(10), &precision)?;
    let scaled = binary(cx, Binary::Mul, &value, &factor)?;
    let whole = match scaled {
        Value::Float(number) if number.is_infinite() => {
            return Err(Error::new(Kind::Overflow, "cannot convert float infinity to integer"));
        }
        Value::Float(number) => {
            let number = if method == "ceil" { number.ceil() } else { number.floor() };
            truncated(number)?.ok_or_else(|| Error::value_error("cannot convert float NaN to integer"))?
        }
        other => other.integer().ok_or_else(|| Error::type_error("must be real number"))?,
    };
    binary(cx, Binary::Div, &Value::Int(whole), &factor)
}

/// To a power of ten, half of one to the even side.
fn round_integer(number: i128, places: i128) -> Result<i128> {
    if places >= 0 {
        return Ok(number);
    }
    let Some(unit) = u32::try_from(-places).ok().and_then(|places| 10_i128.checked_pow(places)) else { return Ok(0) };
    let (quotient, rest) = (number.div_euclid(unit), number.rem_euclid(unit));
    let up = rest > unit / 2 || rest * 2 == unit && quotient % 2 != 0;
    (quotient + i128::from(up)).checked_mul(unit).ok_or_else(too_large)
}

pub(super) fn filesizeformat(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    let [is_binary] = args.bind("filesizeformat", ["binary"], 0)?;
    let is_binary = is_binary.map_or(Ok(false), |binary| binary.truth(cx))?;
    let bytes = to_float(&value)?.ok_or_else(|| Error::value_error("could not convert to float"))?;
    let base: f64 = if is_binary { 1024.0 } else { 1000.0 };
    if bytes == 1.0 {
        return cx.text("1 Byte");
    }
    if less(cx, &Value::Float(bytes), &Value::Float(base))? {
        let whole = if bytes.is_finite() { truncated(bytes)? } else { None };
        let whole = whole.ok_or_else(|| Error::new(Kind::Overflow, "cannot convert float infinity to integer"))?;
        return cx.text(format!("{whole} Bytes"));
    }
    let prefixes = if is_binary {
        ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"]
    } else {
        ["kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"]
    };
    let mut unit = base * base;
    let mut prefix = 0;
    while bytes >= unit && prefix + 1 < prefixes.len() || bytes.is_nan() && prefix + 1 < prefixes.len() {
        unit *= base;
        prefix += 1;
    }
    let size = base * bytes / unit;
    let digits = if size.is_finite() { fixed(size, 1) } else { super::super::value::float(size) };
    cx.text(format!("{digits} {}", prefixes[prefix]))
}
