//! `text.format(…)`, as the sandbox does it: attributes and items of values are those that a template may reach.
//!
//! The invariant: fields are numbered by themselves or by the template, not both.

use std::rc::Rc;

use super::super::access;
use super::super::budget::{Error, Result};
use super::super::value::{Args, Cx, Out, Text, Value};
use super::{Escape, plain, represented, value};

pub(in super::super) fn format(cx: &Rc<Cx>, format: &Text, args: &Args, escape: Escape) -> Result<Text> {
    let mut out = Out::new(cx)?;
    let mut formatter = Formatter { cx, args, escape, numbering: Numbering::Unknown };
    formatter.write(format, 2, &mut out)?;
    out.finish_as(format.is_markup())
}

enum Numbering {
    Unknown,
    /// The next field's number.
    Automatic(usize),
    Manual,
}

struct Formatter<'a> {
    cx: &'a Rc<Cx>,
    args: &'a Args,
    escape: Escape,
    numbering: Numbering,
}

impl Formatter<'_> {
    /// Writes a format; specifications may hold fields, and those no further ones.
    fn write(&mut self, format: &Text, depth: u32, out: &mut Out) -> Result<()> {
        if depth == 0 {
            return Err(Error::value_error("Max string recursion exceeded"));
        }
        let mut at = 0;
        while let Some(found) = format[at..].find(['{', '}']) {
            let brace = at + found;
            out.push_part(format, at..brace)?;
            let doubled = format.as_bytes().get(brace + 1) == Some(&format.as_bytes()[brace]);
            if doubled {
                out.push_part(format, brace..brace + 1)?;
                at = brace + 2;
            } else if format[brace..].starts_with('}') {
                return Err(Error::value_error("Single '}' encountered in format string"));
            } else {
                let end = field_end(&format[brace + 1..])?;
                let field = format.sub(self.cx, &format[brace + 1..brace + 1 + end])?;
                self.field(&field, depth, out)?;
                at = brace + end + 2;
            }
        }
        out.push_part(format, at..format.len())
    }

    fn field(&mut self, field: &Text, depth: u32, out: &mut Out) -> Result<()> {
        self.cx.budget.steps(4)?;
        // In the name's brackets neither sign ends it.
        let mut in_brackets = false;
        let end = field.find(|c: char| {
            in_brackets = (in_brackets || c == '[') && c != ']';
            !in_brackets && matches!(c, '!' | ':')
        });
        let (name, behind) = end.map_or((&**field, ""), |end| field.split_at(end));
        let (conversion, spec) = match behind.strip_prefix('!') {
            Some(behind) => {
                let mut chars = behind.chars();
                let conversion = chars.next().ok_or_else(|| Error::value_error("unmatched '{' in format spec"))?;
                match chars.as_str() {
                    "" => (Some(conversion), ""),
                    rest => match rest.strip_prefix(':') {
                        Some(spec) => (Some(conversion), spec),
                        None => return Err(Error::value_error("expected ':' after conversion specifier")),
                    },
                }
            }
            None => (None, behind.strip_prefix(':').unwrap_or("")),
        };
        let found = self.lookup(name)?;
        let found = match conversion {
            None => found,
            Some('s') => Value::Text(plain(self.cx, &found)?),
            Some(kind @ ('r' | 'a')) => Value::Text(represented(self.cx, &found, kind == 'a')?),
            Some(_) => return Err(Error::value_error("Unknown conversion specifier")),
        };
        let mut specification = Out::new(self.cx)?;
        let spec = field.sub(self.cx, if spec.is_empty() { &field[..0] } else { spec })?;
        self.write(&spec, depth - 1, &mut specification)?;
        let (spec, _) = specification.into_parts();
        match self.escape {
            None => value(self.cx, &found, &spec, out),
            Some(escape) => {
                let mut inner = Out::new(self.cx)?;
                value(self.cx, &found, &spec, &mut inner)?;
                let is_safe = matches!(&found, Value::Text(text) if text.is_markup());
                let text = inner.finish_as(is_safe)?;
                out.push_text(&escape(self.cx, &text)?)
            }
        }
    }

    /// The value that a field names: `0`, `name`, `name.attribute[item]`.
    fn lookup(&mut self, name: &str) -> Result<Value> {
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let numbered = match (name, &mut self.numbering) {
            ("", Numbering::Manual) => return Err(mixed()),
            ("", Numbering::Automatic(next)) => {
                *next += 1;
                Some(*next - 1)
            }
            ("", unknown) => {
                *unknown = Numbering::Automatic(1);
                Some(0)
            }
            (number, numbering) if is_number(number) => {
                if matches!(numbering, Numbering::Automatic(_)) {
                    return Err(mixed());
                }
                *numbering = Numbering::Manual;
                None
            }
            _ => None,
        };
        let (first, mut rest) = name.split_at(name.find(['.', '[']).unwrap_or(name.len()));
        let number = if is_number(first) { Some(first.parse().unwrap_or(usize::MAX)) } else { numbered };
        let mut found = match number {
            Some(number) => {
                self.args.places.get(number).cloned().ok_or_else(|| Error::other("Replacement index out of range"))?
            }
            None => {
                let named = self.args.named.iter().find(|(key, _)| **key == *first);
                named
                    .map(|(_, value)| value.clone())
                    .ok_or_else(|| Error::other(format!("there is no argument '{first}'")))?
            }
        };
        while !rest.is_empty() {
            if let Some(behind) = rest.strip_prefix('.') {
                let end = behind.find(['.', '[']).unwrap_or(behind.len());
                if end == 0 {
                    return Err(Error::value_error("Empty attribute in format string"));
                }
                found = access::attribute(self.cx, &found, &behind[..end])?;
                rest = &behind[end..];
            } else if let Some(behind) = rest.strip_prefix('[') {
                let end = behind.find(']').ok_or_else(|| Error::value_error("Missing ']' in format string"))?;
                let key = &behind[..end];
                let key = match key.parse::<i128>() {
                    Ok(number) if is_number(key) => Value::Int(number),
                    _ if key.is_empty() => return Err(Error::value_error("Empty attribute in format string")),
                    _ => self.cx.text(key)?,
                };
                found = access::item(self.cx, &found, &key)?;
                rest = &behind[end + 1..];
            } else {
                return Err(Error::value_error("Only '.' or '[' may follow ']' in format field specifier"));
            }
        }
        Ok(found)
    }
}

fn mixed() -> Error {
    Error::value_error("fields are numbered by themselves or by the template, not both")
}

/// Where a field ends: at the brace that closes it.
fn field_end(text: &str) -> Result<usize> {
    let (mut open, mut brackets) = (1, false);
    let mut in_spec = false;
    for (at, c) in text.char_indices() {
        match c {
            '[' if !in_spec => brackets = true,
            ']' => brackets = false,
            ':' | '!' if !brackets => in_spec = true,
            '{' if !brackets => open += 1,
            '}' if !brackets => {
                open -= 1;
                if open == 0 {
                    return Ok(at);
                }
            }
            _ => {}
        }
    }
    Err(Error::value_error("expected '}' before end of string"))
}
