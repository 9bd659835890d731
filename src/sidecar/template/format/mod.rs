//! Python's format specifications (`format(value, "…")`).
//!
//! The invariant: widths and precisions are checked against the budget before anything is made of them.

mod braces;
mod float;
mod percent;

use std::rc::Rc;

pub(super) use self::braces::format;
pub(super) use self::float::{fixed, round_to};
pub(super) use self::percent::percent;
use super::budget::{Error, Result};
use super::value::{Cx, Out, Text, Value, to_text};
use crate::limits::MAX_TEXT_BYTES;

/// Escapes a text for HTML, where the format is safe for it.
pub(super) type Escape = Option<fn(&Rc<Cx>, &Text) -> Result<Text>>;

/// How a value is to be written.
#[derive(Debug, Clone)]
struct Spec {
    fill: char,
    align: Option<char>,
    /// Whether the alignment is that of a zero before the width.
    zeros: bool,
    sign: char,
    /// `#`.
    alternate: bool,
    width: usize,
    grouping: Option<char>,
    precision: Option<usize>,
    kind: Option<char>,
}

/// Digits as a width or a precision, none beyond the longest text.
fn size(digits: &str) -> Result<usize> {
    digits
        .parse()
        .ok()
        .filter(|size| *size <= MAX_TEXT_BYTES)
        .ok_or_else(|| Error::value_error("a width beyond the longest text"))
}

impl Spec {
    fn parse(spec: &str) -> Result<Self> {
        let mut parsed = Self {
            fill: ' ',
            align: None,
            zeros: false,
            sign: '-',
            alternate: false,
            width: 0,
            grouping: None,
            precision: None,
            kind: None,
        };
        let is_align = |c: &char| matches!(c, '<' | '>' | '=' | '^');
        let mut rest = spec;
        let mut start = spec.chars();
        match (start.next(), start.next()) {
            (Some(fill), Some(align)) if is_align(&align) => {
                (parsed.fill, parsed.align) = (fill, Some(align));
                rest = &rest[fill.len_utf8() + 1..];
            }
            (Some(align), _) if is_align(&align) => {
                parsed.align = Some(align);
                rest = &rest[1..];
            }
            _ => {}
        }
        if let Some(sign) = rest.chars().next().filter(|c| matches!(c, '+' | '-' | ' ')) {
            parsed.sign = sign;
            rest = &rest[1..];
        }
        if rest.starts_with('z') {
            return Err(Error::value_error("the format option z is not supported"));
        }
        if let Some(behind) = rest.strip_prefix('#') {
            parsed.alternate = true;
            rest = behind;
        }
        if let Some(behind) = rest.strip_prefix('0') {
            if parsed.align.is_none() {
                // Texts stay at the left.
                (parsed.fill, parsed.align, parsed.zeros) = ('0', Some('='), true);
            } else if parsed.fill == ' ' && spec.chars().nth(1).is_none_or(|c| !is_align(&c)) {
                parsed.fill = '0';
            }
            rest = behind;
        }
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        if digits > 0 {
            parsed.width = size(&rest[..digits])?;
            rest = &rest[digits..];
        }
        if let Some(grouping) = rest.chars().next().filter(|c| matches!(c, ',' | '_')) {
            parsed.grouping = Some(grouping);
            rest = &rest[1..];
        }
        if let Some(behind) = rest.strip_prefix('.') {
            let digits = behind.len() - behind.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            if digits == 0 {
                return Err(Error::value_error("Format specifier missing precision"));
            }
            parsed.precision = Some(size(&behind[..digits])?);
            rest = &behind[digits..];
        }
        let mut kinds = rest.chars();
        parsed.kind = kinds.next();
        if kinds.next().is_some() { Err(Error::value_error("Invalid format specifier")) } else { Ok(parsed) }
    }

    /// Writes a number: sign and prefix, then digits.
    fn number(&self, sign: &str, digits: &str, out: &mut Out) -> Result<()> {
        let digits = match self.grouping {
            Some(separator) => {
                let every = if matches!(self.kind, Some('b' | 'o' | 'x' | 'X')) { 4 } else { 3 };
                let zeros =
                    if self.fill == '0' && self.align == Some('=') { self.width.saturating_sub(sign.len()) } else { 0 };
                grouped(digits, separator, every, zeros)
            }
            None => digits.to_owned(),
        };
        let missing = self.width.saturating_sub(sign.len() + digits.chars().count());
        let fill = self.fill.to_string();
        let (before, between, behind) = match self.align.unwrap_or('>') {
            '<' => (0, 0, missing),
            '^' => (missing / 2, 0, missing - missing / 2),
            '=' => (0, missing, 0),
            _ => (missing, 0, 0),
        };
        out.repeat(&fill, before)?;
        out.push(sign)?;
        out.repeat(&fill, between)?;
        out.push(&digits)?;
        out.repeat(&fill, behind)
    }

    fn sign(&self, negative: bool) -> &'static str {
        match (negative, self.sign) {
            (true, _) => "-",
            (false, '+') => "+",
            (false, ' ') => " ",
            _ => "",
        }
    }
}

/// Digits before the point in groups, with zeros in front up to a width.
fn grouped(digits: &str, separator: char, every: usize, width: usize) -> String {
    let whole = digits.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(digits.len());
    let (whole, behind) = digits.split_at(if digits.contains(['.', 'e', '%']) {
        digits.find(['.', 'e', '%']).unwrap_or(whole)
    } else {
        whole
    });
    let mut reversed = String::new();
    let mut count = 0;
    for digit in whole.chars().rev() {
        if count > 0 && count % every == 0 {
            reversed.push(separator);
        }
        reversed.push(digit);
        count += 1;
    }
    while reversed.len() + behind.len() < width {
        if count % every == 0 {
            reversed.push(separator);
        }
        reversed.push('0');
        count += 1;
    }
    reversed.chars().rev().chain(behind.chars()).collect()
}

/// Writes `format(value, spec)`.
fn value(cx: &Rc<Cx>, value: &Value, spec: &str, out: &mut Out) -> Result<()> {
    if spec.is_empty() {
        return super::value::write(cx, value, out);
    }
    match value {
        Value::Text(text) => {
            let mut spec = Spec::parse(spec)?;
            spec.align = spec.align.filter(|_| !spec.zeros);
            let plain =
                matches!(spec.kind, None | Some('s')) && spec.sign == '-' && !spec.alternate && spec.grouping.is_none();
            if !plain || spec.align == Some('=') {
                return Err(Error::value_error("this format is not for a text"));
            }
            padded(cx, &spec, text, out)
        }
        Value::Int(_) | Value::Bool(_) => integer(cx, value.integer().unwrap_or(0), &Spec::parse(spec)?, out),
        Value::Float(number) => float::write(*number, &Spec::parse(spec)?, out),
        other => {
            Err(Error::type_error(format!("unsupported format string passed to {}.__format__", other.type_name())))
        }
    }
}

/// Writes a text, cut and padded.
fn padded(cx: &Rc<Cx>, spec: &Spec, text: &Text, out: &mut Out) -> Result<()> {
    cx.budget.copy(text.len())?;
    let end = spec.precision.map_or(text.len(), |precision| text.byte(precision));
    let count = spec.precision.map_or_else(|| text.count(), |precision| precision.min(text.count()));
    let missing = spec.width.saturating_sub(count);
    let (before, behind) = match spec.align.unwrap_or('<') {
        '>' => (missing, 0),
        '^' => (missing / 2, missing - missing / 2),
        _ => (0, missing),
    };
    let fill = spec.fill.to_string();
    out.repeat(&fill, before)?;
    out.push_part(text, 0..end)?;
    out.repeat(&fill, behind)
}

fn integer(cx: &Rc<Cx>, number: i128, spec: &Spec, out: &mut Out) -> Result<()> {
    let size = number.unsigned_abs();
    let (prefix, digits) = match spec.kind {
        None | Some('d' | 'n') => ("", size.to_string()),
        Some('b') => ("0b", format!("{size:b}")),
        Some('o') => ("0o", format!("{size:o}")),
        Some('x') => ("0x", format!("{size:x}")),
        Some('X') => ("0X", format!("{size:X}")),
        Some('c') => {
            let c = u32::try_from(number).ok().and_then(char::from_u32);
            let c = c.ok_or_else(|| Error::other("%c arg not in range(0x110000)"))?;
            let text = Text::new(cx, c.to_string())?;
            return padded(cx, &Spec { align: spec.align.or(Some('<')), ..spec.clone() }, &text, out);
        }
        Some('e' | 'E' | 'f' | 'F' | 'g' | 'G' | '%') => return float::write(number as f64, spec, out),
        Some(_) => return Err(Error::value_error("Unknown format code for an integer")),
    };
    if spec.precision.is_some() {
        return Err(Error::value_error("Precision not allowed in integer format specifier"));
    }
    if spec.grouping == Some(',') && matches!(spec.kind, Some('b' | 'o' | 'x' | 'X' | 'n'))
        || spec.grouping.is_some() && spec.kind == Some('n')
    {
        return Err(Error::value_error("Cannot specify ',' with this format"));
    }
    let prefix = if spec.alternate { prefix } else { "" };
    spec.number(&format!("{}{prefix}", spec.sign(number < 0)), &digits, out)
}

/// `repr(value)`, and what is not ASCII in it as escapes where that is asked for.
fn represented(cx: &Rc<Cx>, value: &Value, ascii: bool) -> Result<Text> {
    let mut out = Out::new(cx)?;
    let marked = super::value::repr(cx, value, &mut out)?;
    out.mark_since(0, marked);
    let text = out.finish()?;
    if !ascii || text.is_ascii() {
        return Ok(text);
    }
    let mut escaped = String::new();
    for c in text.chars() {
        match u32::from(c) {
            _ if c.is_ascii() => escaped.push(c),
            code @ ..=0xff => escaped.push_str(&format!("\\x{code:02x}")),
            code @ ..=0xffff => escaped.push_str(&format!("\\u{code:04x}")),
            code => escaped.push_str(&format!("\\U{code:08x}")),
        }
    }
    text.derive(cx, escaped)
}

/// `str(value)`.
fn plain(cx: &Rc<Cx>, value: &Value) -> Result<Text> {
    to_text(cx, value)
}
