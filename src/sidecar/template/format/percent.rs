//! `text % values`.
//!
//! The invariant: each value is used once, and none is left over but those of a mapping.

use std::rc::Rc;

use super::super::budget::{Error, Kind, Result};
use super::super::value::{Cx, Out, Text, Value};
use super::{Escape, Spec, float, padded, plain, represented, size};

/// The values that are still to be written.
struct Values<'a> {
    all: &'a Value,
    next: usize,
}

impl Values<'_> {
    fn next(&mut self) -> Result<Value> {
        self.next += 1;
        let value = match self.all {
            Value::Tuple(tuple) => tuple.items.get(self.next - 1).cloned(),
            single => (self.next == 1).then(|| single.clone()),
        };
        value.ok_or_else(|| Error::type_error("not enough arguments for format string"))
    }

    /// Whether all were used. A mapping need not be.
    fn used(&self) -> bool {
        match self.all {
            Value::Tuple(tuple) => self.next >= tuple.items.len(),
            Value::Dict(_) | Value::List(_) | Value::Range(_) | Value::Undefined(_) => true,
            _ => self.next >= 1,
        }
    }
}

/// Python's `str.__mod__`. `escape`: what is done to each text of a format that is safe for HTML.
pub(in super::super) fn percent(cx: &Rc<Cx>, format: &Text, all: &Value, escape: Escape) -> Result<Text> {
    let mut out = Out::new(cx)?;
    let mut values = Values { all, next: 0 };
    let mut by_name = false;
    let mut at = 0;
    while let Some(found) = format[at..].find('%') {
        out.push_part(format, at..at + found)?;
        at += found + 1;
        let mut field = Field { rest: &format[at..], values: &mut values, all, named: false };
        let (kind, spec, value) = field.read(cx)?;
        by_name |= field.named;
        at = format.len() - field.rest.len();
        if kind == '%' {
            out.push("%")?;
            continue;
        }
        let value = match value {
            Some(value) => value,
            None => values.next()?,
        };
        write(cx, kind, spec, &value, escape, &mut out)?;
    }
    out.push_part(format, at..format.len())?;
    if !by_name && !values.used() {
        return Err(Error::type_error("not all arguments converted during string formatting"));
    }
    out.finish_as(format.is_markup())
}

struct Field<'a, 'v, 'b> {
    rest: &'a str,
    values: &'b mut Values<'v>,
    all: &'b Value,
    named: bool,
}

impl Field<'_, '_, '_> {
    fn char(&mut self) -> Result<char> {
        let c = self.rest.chars().next().ok_or_else(|| Error::value_error("incomplete format"))?;
        self.rest = &self.rest[c.len_utf8()..];
        Ok(c)
    }

    /// A number of digits, or a star, which takes it from the values.
    fn size(&mut self) -> Result<Option<i128>> {
        if let Some(behind) = self.rest.strip_prefix('*') {
            self.rest = behind;
            let value = self.values.next()?;
            return value.integer().map(Some).ok_or_else(|| Error::type_error("* wants int"));
        }
        let digits = self.rest.len() - self.rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let number = if digits > 0 { Some(size(&self.rest[..digits])? as i128) } else { None };
        self.rest = &self.rest[digits..];
        Ok(number)
    }

    /// What stands behind the sign: the letter, how, and the value if it has a name.
    fn read(&mut self, cx: &Rc<Cx>) -> Result<(char, Spec, Option<Value>)> {
        let mut spec = Spec::parse("")?;
        let mut value = None;
        if self.rest.starts_with('(') {
            value = Some(self.by_name(cx)?);
            self.named = true;
        }
        let (mut left, mut zero) = (false, false);
        while let Some(flag) = self.rest.chars().next().filter(|c| matches!(c, '-' | '+' | ' ' | '#' | '0')) {
            self.rest = &self.rest[1..];
            match flag {
                '-' => left = true,
                '+' => spec.sign = '+',
                ' ' if spec.sign == '-' => spec.sign = ' ',
                '#' => spec.alternate = true,
                '0' => zero = true,
                _ => {}
            }
        }
        let width = self.size()?.unwrap_or(0);
        left |= width < 0;
        spec.width = size(&width.unsigned_abs().to_string())?;
        if self.rest.starts_with('.') {
            self.rest = &self.rest[1..];
            spec.precision = Some(size(&self.size()?.unwrap_or(0).max(0).to_string())?);
        }
        if self.rest.starts_with(['h', 'l', 'L']) {
            self.rest = &self.rest[1..];
        }
        let kind = self.char()?;
        spec.align = Some(if left { '<' } else { '>' });
        if zero && !left && !matches!(kind, 's' | 'r' | 'a' | 'c') {
            (spec.align, spec.fill) = (Some('='), '0');
        }
        Ok((kind, spec, value))
    }

    fn by_name(&mut self, cx: &Rc<Cx>) -> Result<Value> {
        let Value::Dict(dict) = self.all else {
            self.all.defined()?;
            return Err(Error::type_error("format requires a mapping"));
        };
        let (mut open, mut end) = (0, None);
        for (at, c) in self.rest.char_indices() {
            match c {
                '(' => open += 1,
                ')' => open -= 1,
                _ => {}
            }
            if open == 0 {
                end = Some(at);
                break;
            }
        }
        let end = end.ok_or_else(|| Error::value_error("incomplete format key"))?;
        let name = &self.rest[1..end];
        self.rest = &self.rest[end + 1..];
        dict.get_text(cx, name)?.cloned().ok_or_else(|| Error::other(format!("the mapping has no '{name}'")))
    }
}

fn write(cx: &Rc<Cx>, kind: char, mut spec: Spec, value: &Value, escape: Escape, out: &mut Out) -> Result<()> {
    let number = |value: &Value| -> Result<f64> {
        match value {
            Value::Float(number) => Ok(*number),
            other => {
                other.defined()?;
                other.integer().map(|n| n as f64).ok_or_else(|| Error::type_error("must be real number"))
            }
        }
    };
    match kind {
        's' | 'r' | 'a' => {
            let text = if kind == 's' { plain(cx, value)? } else { represented(cx, value, kind == 'a')? };
            let text = match escape {
                Some(escape) => escape(cx, &text)?,
                None => text,
            };
            padded(cx, &spec, &text, out)
        }
        'c' => {
            let text = match value {
                Value::Text(text) if text.count() == 1 => text.clone(),
                other => {
                    let c = other.integer().map(|n| u32::try_from(n).ok().and_then(char::from_u32));
                    match c {
                        Some(Some(c)) => Text::new(cx, c.to_string())?,
                        Some(None) => return Err(Error::new(Kind::Overflow, "%c arg not in range(0x110000)")),
                        None => return Err(Error::type_error("%c requires int or char")),
                    }
                }
            };
            padded(cx, &Spec { precision: None, ..spec }, &text, out)
        }
        'd' | 'i' | 'u' | 'o' | 'x' | 'X' => {
            let number = match (value, kind) {
                (Value::Float(number), 'd' | 'i' | 'u') if number.is_finite() && number.abs() < 1e38 => {
                    number.trunc() as i128
                }
                (Value::Float(_), 'd' | 'i' | 'u') => {
                    return Err(Error::other("cannot convert this float to an integer"));
                }
                (other, _) => {
                    other.defined()?;
                    other
                        .integer()
                        .ok_or_else(|| Error::type_error(format!("%{kind} format: an integer is required")))?
                }
            };
            let size = number.unsigned_abs();
            let (prefix, digits) = match kind {
                'o' => ("0o", format!("{size:o}")),
                'x' => ("0x", format!("{size:x}")),
                'X' => ("0X", format!("{size:X}")),
                _ => ("", size.to_string()),
            };
            let zeros = spec.precision.map_or(0, |precision| precision.saturating_sub(digits.len()));
            cx.budget.fits(zeros)?;
            let prefix = if spec.alternate { prefix } else { "" };
            spec.precision = None;
            spec.number(&format!("{}{prefix}", spec.sign(number < 0)), &("0".repeat(zeros) + &digits), out)
        }
        'e' | 'E' | 'f' | 'F' | 'g' | 'G' => {
            spec.kind = Some(kind);
            float::write(number(value)?, &spec, out)
        }
        other => Err(Error::value_error(format!("unsupported format character '{other}'"))),
    }
}
