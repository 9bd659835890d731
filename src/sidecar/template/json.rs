//! `tojson` as transformers has it: `json.dumps` with `ensure_ascii` (false), `indent`, `separators` and `sort_keys`.

use std::fmt::Write as _;

use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{Error, ErrorKind, Value};

use super::print::float;

/// The filter.
pub(super) fn to_json(value: &Value, places: Rest<Value>, named: Kwargs) -> Result<String, Error> {
    let given = |at: usize, name: &str| -> Result<Option<Value>, Error> {
        let value = match places.get(at) {
            Some(value) => Some(value.clone()),
            None => named.get::<Option<Value>>(name)?,
        };
        Ok(value.filter(|v| !v.is_none()))
    };
    let ascii = given(0, "ensure_ascii")?.is_some_and(|v| v.is_true());
    let indent = match given(1, "indent")? {
        None => None,
        Some(text) if text.as_str().is_some() => text.as_str().map(str::to_owned),
        Some(number) => Some(" ".repeat(usize::try_from(i64::try_from(number)?).unwrap_or(0).min(MAX_INDENT))),
    };
    let separators = match given(2, "separators")? {
        None => (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()),
        Some(pair) => match <[Value; 2]>::try_from(pair.try_iter()?.collect::<Vec<_>>()) {
            Ok([item, key]) if item.as_str().is_some() && key.as_str().is_some() => (item.to_string(), key.to_string()),
            _ => return Err(wrong("tojson: separators is a pair of texts")),
        },
    };
    let sort = given(3, "sort_keys")?.is_some_and(|v| v.is_true());
    named.assert_all_used()?;
    if places.len() > 4 {
        return Err(wrong("tojson takes ensure_ascii, indent, separators and sort_keys"));
    }
    let mut writer = Writer { out: String::new(), ascii, indent, separators, sort };
    writer.value(value, 0)?;
    Ok(writer.out)
}

/// Widest indentation: wider ones are of no use, and are multiplied by the lines.
const MAX_INDENT: usize = 64;

/// Deepest nesting that is written.
const MAX_DEPTH: usize = 128;

struct Writer {
    out: String,
    ascii: bool,
    indent: Option<String>,
    /// Between items, and between a key and its value.
    separators: (String, String),
    sort: bool,
}

impl Writer {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(wrong("tojson: the value is nested too deep"));
        }
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.out.push_str(&number(value)?),
            ValueKind::String => self.text(value.as_str().unwrap_or_default()),
            ValueKind::Seq => {
                let items: Vec<_> = value.try_iter()?.collect();
                self.between('[', ']', items.len(), depth, |this, n| this.value(&items[n], depth + 1))?;
            }
            ValueKind::Map => {
                let mut items = Vec::new();
                for key in value.try_iter()? {
                    items.push((key_text(&key)?, value.get_item(&key)?));
                }
                if self.sort {
                    items.sort_by(|(a, _), (b, _)| a.cmp(b));
                }
                self.between('{', '}', items.len(), depth, |this, n| {
                    this.text(&items[n].0);
                    this.out.push_str(&this.separators.1.clone());
                    this.value(&items[n].1, depth + 1)
                })?;
            }
            kind => return Err(wrong(format!("tojson: a value of kind {kind} is no JSON"))),
        }
        Ok(())
    }

    fn between(
        &mut self,
        open: char,
        close: char,
        items: usize,
        depth: usize,
        mut item: impl FnMut(&mut Self, usize) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.out.push(open);
        for n in 0..items {
            if n > 0 {
                self.out.push_str(&self.separators.0.clone());
            }
            self.line(depth + 1);
            item(self, n)?;
        }
        if items > 0 {
            self.line(depth);
        }
        self.out.push(close);
        Ok(())
    }

    fn line(&mut self, depth: usize) {
        if let Some(indent) = &self.indent {
            self.out.push('\n');
            for _ in 0..depth {
                self.out.push_str(indent);
            }
        }
    }

    fn text(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                c if c < ' ' || (self.ascii && c > '~') => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        _ = write!(self.out, "\\u{unit:04x}");
                    }
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }
}

fn number(value: &Value) -> Result<String, Error> {
    if value.is_integer() {
        return Ok(value.to_string());
    }
    Ok(match f64::try_from(value.clone())? {
        n if n.is_nan() => "NaN".into(),
        n if n.is_infinite() => if n > 0.0 { "Infinity" } else { "-Infinity" }.into(),
        n => float(n),
    })
}

fn key_text(key: &Value) -> Result<String, Error> {
    Ok(match key.kind() {
        ValueKind::String => key.to_string(),
        ValueKind::None => "null".into(),
        ValueKind::Bool => if key.is_true() { "true" } else { "false" }.into(),
        ValueKind::Number => number(key)?,
        kind => return Err(wrong(format!("tojson: a key of kind {kind} is no JSON"))),
    })
}

fn wrong(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::BadSerialization, message.into())
}
