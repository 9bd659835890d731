//! JSON as Python's `json` reads it: names in their order, of equal ones the last value at the first one's place, and whole
//! numbers of any type of ours as whole numbers.
//!
//! Invariant: a value has at most [`MAX_JSON_DEPTH`] levels and no number that is not finite.

use std::borrow::Cow;
use std::collections::HashMap;

use serde::ser::{Serialize, SerializeMap as _, Serializer};

use crate::limits::MAX_JSON_DEPTH;

/// A value, which borrows its texts where nothing in them is escaped.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'a> {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number of 64 bits.
    Integer(i64),
    /// Another whole number of at most 128 bits.
    Wide(Box<i128>),
    /// A number with a fraction or an exponent.
    Float(f64),
    /// A text.
    Text(Cow<'a, str>),
    /// A list.
    List(Vec<Value<'a>>),
    /// An object.
    Object(Object<'a>),
}

/// An object: values by their names, in order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Object<'a>(Vec<(Cow<'a, str>, Value<'a>)>);

/// Why a text is no JSON that is taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// Not JSON.
    #[error("not JSON at byte {byte}: {what}")]
    Malformed {
        /// Counted from 1.
        byte: usize,
        /// What is wrong there.
        what: &'static str,
    },
    /// Lists and objects within each other.
    #[error("more than {MAX_JSON_DEPTH} levels of lists and objects within each other")]
    TooDeep,
}

impl<'a> Value<'a> {
    /// Reads one value that is all of a text.
    ///
    /// # Errors
    ///
    /// The text is no JSON, or has too many levels.
    pub fn parse(text: &'a str) -> Result<Self, JsonError> {
        let mut reader = Reader { text, at: 0 };
        let value = reader.value(0)?;
        reader.blanks();
        if reader.at < text.len() { Err(reader.malformed("something follows the value")) } else { Ok(value) }
    }

    /// The text, if it is one.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// What such a value is called.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "true or false",
            Self::Integer(_) | Self::Wide(_) | Self::Float(_) => "a number",
            Self::Text(_) => "a text",
            Self::List(_) => "a list",
            Self::Object(_) => "an object",
        }
    }
}

impl<'a> Object<'a> {
    /// The value of this name.
    pub fn get(&self, name: &str) -> Option<&Value<'a>> {
        self.0.iter().find(|(other, _)| other == name).map(|(_, value)| value)
    }

    /// Takes the value of this name out.
    pub fn remove(&mut self, name: &str) -> Option<Value<'a>> {
        let at = self.0.iter().position(|(other, _)| other == name)?;
        Some(self.0.remove(at).1)
    }

    /// Gives a name its value: in its place, or as the last one.
    pub fn insert(&mut self, name: &'static str, value: Value<'a>) {
        match self.0.iter_mut().find(|(other, _)| other == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name.into(), value)),
        }
    }

    /// Gives a name that is not there its value, as the first one.
    pub fn insert_first(&mut self, name: &'static str, value: Value<'a>) {
        if self.get(name).is_none() {
            self.0.insert(0, (name.into(), value));
        }
    }

    /// Leaves out what is null.
    pub fn drop_nulls(&mut self) {
        self.0.retain(|(_, value)| *value != Value::Null);
    }

    /// Names and values in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value<'a>)> {
        self.0.iter().map(|(name, value)| (name.as_ref(), value))
    }
}

impl Serialize for Value<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Integer(number) => serializer.serialize_i64(*number),
            Self::Wide(number) => match u64::try_from(**number) {
                Ok(number) => serializer.serialize_u64(number),
                Err(_) => serializer.serialize_i128(**number),
            },
            Self::Float(number) => serializer.serialize_f64(*number),
            Self::Text(text) => serializer.serialize_str(text),
            Self::List(items) => serializer.collect_seq(items),
            Self::Object(object) => object.serialize(serializer),
        }
    }
}

impl Serialize for Object<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name.as_ref(), value)?;
        }
        map.end()
    }
}

/// From here on, names of an object are looked up in a table: one with very many must not take time by their square.
const TABLE: usize = 16;

/// An object that is being read.
#[derive(Default)]
struct Names<'a> {
    object: Object<'a>,
    places: HashMap<Cow<'a, str>, usize>,
}

impl<'a> Names<'a> {
    fn take(&mut self, name: Cow<'a, str>, value: Value<'a>) {
        let entries = &mut self.object.0;
        if entries.len() == TABLE && self.places.is_empty() {
            self.places.extend(entries.iter().enumerate().map(|(at, (name, _))| (name.clone(), at)));
        }
        let at = if self.places.is_empty() {
            entries.iter().position(|(other, _)| *other == name)
        } else {
            self.places.get(&name).copied()
        };
        match at {
            Some(at) => entries[at].1 = value,
            None => {
                if !self.places.is_empty() {
                    self.places.insert(name.clone(), entries.len());
                }
                entries.push((name, value));
            }
        }
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn malformed(&self, what: &'static str) -> JsonError {
        JsonError::Malformed { byte: self.at + 1, what }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn blanks(&mut self) {
        while self.peek().is_some_and(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// Passes over this byte, if it is the next one.
    fn takes(&mut self, byte: u8) -> bool {
        let next = self.peek() == Some(byte);
        self.at += usize::from(next);
        next
    }

    fn value(&mut self, depth: usize) -> Result<Value<'a>, JsonError> {
        self.blanks();
        match self.peek() {
            None => Err(self.malformed("it ends where a value is expected")),
            Some(b'{' | b'[') if depth == MAX_JSON_DEPTH => Err(JsonError::TooDeep),
            Some(b'{') => self.object(depth + 1).map(Value::Object),
            Some(b'[') => self.list(depth + 1).map(Value::List),
            Some(b'"') => self.text().map(Value::Text),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(_) => {
                let words = [("null", Value::Null), ("true", Value::Bool(true)), ("false", Value::Bool(false))];
                let rest = &self.text[self.at..];
                let (word, value) = words
                    .into_iter()
                    .find(|(word, _)| rest.starts_with(word))
                    .ok_or_else(|| self.malformed("no value begins so"))?;
                self.at += word.len();
                Ok(value)
            }
        }
    }

    /// Whether another item follows, or the end of a list or an object.
    fn goes_on(&mut self, end: u8) -> Result<bool, JsonError> {
        self.blanks();
        if self.takes(end) {
            return Ok(false);
        }
        if self.takes(b',') { Ok(true) } else { Err(self.malformed("a comma or the end is expected")) }
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Value<'a>>, JsonError> {
        self.at += 1;
        let mut items = Vec::new();
        self.blanks();
        if self.takes(b']') {
            return Ok(items);
        }
        loop {
            items.push(self.value(depth)?);
            if !self.goes_on(b']')? {
                return Ok(items);
            }
        }
    }

    fn object(&mut self, depth: usize) -> Result<Object<'a>, JsonError> {
        self.at += 1;
        let mut names = Names::default();
        self.blanks();
        if self.takes(b'}') {
            return Ok(names.object);
        }
        loop {
            self.blanks();
            if self.peek() != Some(b'"') {
                return Err(self.malformed("a name in quotes is expected"));
            }
            let name = self.text()?;
            self.blanks();
            if !self.takes(b':') {
                return Err(self.malformed("a colon is expected"));
            }
            names.take(name, self.value(depth)?);
            if !self.goes_on(b'}')? {
                return Ok(names.object);
            }
        }
    }

    fn text(&mut self) -> Result<Cow<'a, str>, JsonError> {
        let (start, mut escaped) = (self.at, false);
        self.at += 1;
        loop {
            match self.peek() {
                None => return Err(self.malformed("it ends within a text")),
                Some(b'"') => break,
                Some(0..0x20) => return Err(self.malformed("a control character in a text; escape it")),
                Some(b'\\') => {
                    escaped = true;
                    self.at += 1;
                    // What is escaped is looked at below; here, only that it is no end.
                    if self.peek().is_some_and(|byte| byte.is_ascii()) {
                        self.at += 1;
                    }
                }
                Some(_) => self.at += 1,
            }
        }
        self.at += 1;
        let text = self.text;
        if !escaped {
            return Ok(Cow::Borrowed(&text[start + 1..self.at - 1]));
        }
        serde_json::from_str(&text[start..self.at]).map(Cow::Owned).map_err(|_| JsonError::Malformed {
            byte: start + 1,
            what: "a text with an escape that stands for no character",
        })
    }

    fn digits(&mut self) -> Result<(), JsonError> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at == start { Err(self.malformed("a digit is expected")) } else { Ok(()) }
    }

    fn number(&mut self) -> Result<Value<'a>, JsonError> {
        let start = self.at;
        self.takes(b'-');
        if !self.takes(b'0') {
            self.digits()?;
        }
        let mut whole = true;
        if self.takes(b'.') {
            whole = false;
            self.digits()?;
        }
        if self.takes(b'e') || self.takes(b'E') {
            whole = false;
            if !self.takes(b'+') {
                self.takes(b'-');
            }
            self.digits()?;
        }
        let text = self.text;
        let number = &text[start..self.at];
        let error = |what| JsonError::Malformed { byte: start + 1, what };
        if whole {
            if let Ok(number) = number.parse() {
                return Ok(Value::Integer(number));
            }
            let wide = number.parse().map_err(|_| error("a whole number of more than 128 bits"))?;
            return Ok(Value::Wide(Box::new(wide)));
        }
        let number = number.parse::<f64>().ok().filter(|number| number.is_finite());
        number.map(Value::Float).ok_or_else(|| error("a number beyond those of 64 bits"))
    }
}

#[cfg(test)]
#[path = "value_tests.rs"]
mod tests;
