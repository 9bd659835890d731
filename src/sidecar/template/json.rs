//! `tojson` as transformers has it: `json.dumps` with `ensure_ascii` (false), `indent`, `separators` and `sort_keys`.
//!
//! The invariant: what is written is what Python's `json` writes, `NaN` and `Infinity` included.

use std::fmt::Write as _;
use std::rc::Rc;

use super::budget::{Error, Result};
use super::value::{Args, Cx, Out, Value, float, order};

/// The filter. JSON of anything of the completion is the completion's as a whole.
pub(super) fn to_json(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    let [ascii, indent, separators, sort] =
        args.bind("tojson", ["ensure_ascii", "indent", "separators", "sort_keys"], 0)?;
    let truth = |value: Option<Value>| value.map_or(Ok(false), |value| value.truth(cx));
    let indent = match indent {
        None | Some(Value::None) => None,
        Some(Value::Text(text)) => Some(text.to_string()),
        Some(number) => {
            let width = usize::try_from(number.expect_integer()?.max(0)).unwrap_or(usize::MAX);
            cx.budget.fits(width)?;
            Some(" ".repeat(width))
        }
    };
    let separators = match separators {
        None | Some(Value::None) => (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()),
        Some(pair) => {
            let pair = super::value::collect(cx, &pair)?;
            match pair.as_slice() {
                [Value::Text(item), Value::Text(key)] => (item.to_string(), key.to_string()),
                _ => return Err(Error::type_error("tojson: separators is a pair of texts")),
            }
        }
    };
    let mut writer =
        Writer { cx, out: Out::new(cx)?, ascii: truth(ascii)?, indent, separators, sort: truth(sort)?, marked: false };
    writer.value(&value, 0)?;
    let Writer { mut out, marked, .. } = writer;
    out.mark_since(0, marked);
    Ok(Value::Text(out.finish()?))
}

struct Writer<'a> {
    cx: &'a Rc<Cx>,
    out: Out<'a>,
    ascii: bool,
    indent: Option<String>,
    /// Between items, and between a key and its value.
    separators: (String, String),
    sort: bool,
    marked: bool,
}

impl Writer<'_> {
    fn value(&mut self, value: &Value, depth: usize) -> Result<()> {
        let _depth = self.cx.budget.deeper()?;
        match value {
            Value::None => self.out.push("null"),
            Value::Bool(true) => self.out.push("true"),
            Value::Bool(false) => self.out.push("false"),
            Value::Int(number) => self.out.push(&number.to_string()),
            Value::Float(number) => self.out.push(&json_float(*number)),
            Value::Text(text) => {
                self.marked |= text.is_marked();
                self.text(text)
            }
            Value::List(sequence) | Value::Tuple(sequence) => {
                let items = &sequence.items;
                self.between(["[", "]"], items.len(), depth, |this, n| this.value(&items[n], depth + 1))
            }
            Value::Dict(dict) => {
                let mut entries: Vec<&(Value, Value)> = dict.entries().iter().collect();
                if self.sort {
                    let cx = self.cx;
                    entries =
                        super::sort::sorted(cx, entries, |a, b| Ok(order(cx, &a.0, &b.0)?.is_some_and(|o| o.is_lt())))?;
                }
                let texts = entries.iter().map(|(key, _)| key_text(key)).collect::<Result<Vec<_>>>()?;
                self.between(["{", "}"], entries.len(), depth, |this, n| {
                    if let Value::Text(key) = &entries[n].0 {
                        this.marked |= key.is_marked();
                    }
                    this.text(&texts[n])?;
                    this.out.push(&this.separators.1)?;
                    this.value(&entries[n].1, depth + 1)
                })
            }
            other => Err(Error::type_error(format!("tojson: a value of type '{}' is no JSON", other.type_name()))),
        }
    }

    fn between(
        &mut self,
        [open, close]: [&str; 2],
        items: usize,
        depth: usize,
        mut item: impl FnMut(&mut Self, usize) -> Result<()>,
    ) -> Result<()> {
        self.out.push(open)?;
        for n in 0..items {
            if n > 0 {
                self.out.push(&self.separators.0)?;
            }
            self.line(depth + 1)?;
            item(self, n)?;
        }
        if items > 0 {
            self.line(depth)?;
        }
        self.out.push(close)
    }

    fn line(&mut self, depth: usize) -> Result<()> {
        match &self.indent {
            Some(indent) => {
                self.out.push("\n")?;
                self.out.repeat(indent, depth)
            }
            None => Ok(()),
        }
    }

    fn text(&mut self, text: &str) -> Result<()> {
        let mut written = String::with_capacity(text.len() + 2);
        written.push('"');
        for c in text.chars() {
            match c {
                '"' => written.push_str("\\\""),
                '\\' => written.push_str("\\\\"),
                '\n' => written.push_str("\\n"),
                '\r' => written.push_str("\\r"),
                '\t' => written.push_str("\\t"),
                '\u{8}' => written.push_str("\\b"),
                '\u{c}' => written.push_str("\\f"),
                c if c < ' ' || (self.ascii && c > '~') => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        // Writing into a string cannot fail.
                        _ = write!(written, "\\u{unit:04x}");
                    }
                }
                c => written.push(c),
            }
        }
        written.push('"');
        self.out.push(&written)
    }
}

fn json_float(number: f64) -> String {
    match number {
        n if n.is_nan() => "NaN".into(),
        n if n.is_infinite() => if n > 0.0 { "Infinity" } else { "-Infinity" }.into(),
        n => float(n),
    }
}

fn key_text(key: &Value) -> Result<String> {
    Ok(match key {
        Value::Text(text) => text.to_string(),
        Value::None => "null".into(),
        Value::Bool(value) => if *value { "true" } else { "false" }.into(),
        Value::Int(number) => number.to_string(),
        Value::Float(number) => json_float(*number),
        other => return Err(Error::type_error(format!("tojson: a key of type '{}' is no JSON", other.type_name()))),
    })
}
