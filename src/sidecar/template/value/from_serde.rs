//! The variables of a rendering, from anything that serde can write.
//!
//! The invariant: maps keep their order; every text inside a newtype struct called [`COMPLETION`] is marked.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::rc::Rc;

use serde::ser::{self, Serialize};

use super::super::budget::{Error, Result};
use super::{Cx, Dict, Text, Value};

/// The name of the newtype struct (`serialize_newtype_struct`) around what comes from the completion.
pub const COMPLETION: &str = "$completion";

/// The variables by their names.
pub(in super::super) fn variables(cx: &Rc<Cx>, values: &impl Serialize) -> Result<HashMap<Rc<str>, Value>> {
    let keys = RefCell::new(Vec::new());
    let writer = Writer { cx, keys: &keys, is_key: false, marked: false };
    match values.serialize(writer).map_err(|e| e.0)? {
        Value::Dict(dict) => {
            let name = |key: &Value| key.expect_text().map(|text| Rc::from(&**text));
            dict.entries().iter().map(|(key, value)| Ok((name(key)?, value.clone()))).collect()
        }
        _ => Err(Error::other("the variables are no mapping")),
    }
}

#[derive(Debug)]
struct Failed(Error);

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Failed {}

impl ser::Error for Failed {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(Error::other(message.to_string()))
    }
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

type Written = std::result::Result<Value, Failed>;

#[derive(Clone, Copy)]
struct Writer<'a> {
    cx: &'a Rc<Cx>,
    /// The keys that came first: most messages have the same.
    keys: &'a RefCell<Vec<Text>>,
    is_key: bool,
    marked: bool,
}

/// Most keys that are shared.
const SHARED_KEYS: usize = 16;

impl Writer<'_> {
    fn text(self, text: &str) -> Written {
        let shared = self.is_key && !self.marked;
        if let Some(known) = self.keys.borrow().iter().find(|key| shared && ***key == *text) {
            return Ok(Value::Text(known.clone()));
        }
        let text = Text::whole(self.cx, text.to_owned(), self.marked, false)?;
        let mut keys = self.keys.borrow_mut();
        if shared && keys.len() < SHARED_KEYS {
            keys.push(text.clone());
        }
        Ok(Value::Text(text))
    }

    fn key(self) -> Self {
        Self { is_key: true, ..self }
    }
}

/// A list or a map that is being written.
struct Many<'a> {
    writer: Writer<'a>,
    items: Vec<Value>,
    key: Option<Value>,
    entries: Vec<(Value, Value)>,
    /// Of an enum's variant.
    variant: Option<&'static str>,
}

impl<'a> Many<'a> {
    fn new(writer: Writer<'a>, variant: Option<&'static str>) -> Self {
        Self { writer, items: Vec::new(), key: None, entries: Vec::new(), variant }
    }

    fn item<T: Serialize + ?Sized>(&mut self, value: &T) -> std::result::Result<(), Failed> {
        self.items.push(value.serialize(self.writer)?);
        Ok(())
    }

    fn entry<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> std::result::Result<(), Failed> {
        let key = self.writer.key().text(key)?;
        self.entries.push((key, value.serialize(self.writer)?));
        Ok(())
    }

    fn list(self) -> Written {
        let list = self.writer.cx.list(self.items)?;
        in_variant(self.writer, self.variant, list)
    }

    fn map(self) -> Written {
        let dict = Value::Dict(Dict::new(self.writer.cx, self.entries)?);
        in_variant(self.writer, self.variant, dict)
    }
}

fn in_variant(writer: Writer, variant: Option<&'static str>, value: Value) -> Written {
    match variant {
        Some(name) => Ok(Value::Dict(Dict::new(writer.cx, [(writer.text(name)?, value)])?)),
        None => Ok(value),
    }
}

macro_rules! integers {
    ($($name:ident $kind:ty,)*) => {
        $(fn $name(self, value: $kind) -> Written {
            let value = i128::try_from(value).map_err(|_| Error::other("an integer beyond 127 bits is not supported"))?;
            Ok(Value::Int(value))
        })*
    };
}

impl<'a> ser::Serializer for Writer<'a> {
    type Ok = Value;
    type Error = Failed;
    type SerializeSeq = Many<'a>;
    type SerializeTuple = Many<'a>;
    type SerializeTupleStruct = Many<'a>;
    type SerializeTupleVariant = Many<'a>;
    type SerializeMap = Many<'a>;
    type SerializeStruct = Many<'a>;
    type SerializeStructVariant = Many<'a>;

    integers! {
        serialize_i8 i8, serialize_i16 i16, serialize_i32 i32, serialize_i64 i64, serialize_i128 i128,
        serialize_u8 u8, serialize_u16 u16, serialize_u32 u32, serialize_u64 u64, serialize_u128 u128,
    }

    fn serialize_bool(self, value: bool) -> Written {
        Ok(Value::Bool(value))
    }

    fn serialize_f32(self, value: f32) -> Written {
        Ok(Value::Float(f64::from(value)))
    }

    fn serialize_f64(self, value: f64) -> Written {
        Ok(Value::Float(value))
    }

    fn serialize_char(self, value: char) -> Written {
        self.text(value.encode_utf8(&mut [0; 4]))
    }

    fn serialize_str(self, value: &str) -> Written {
        self.text(value)
    }

    fn serialize_bytes(self, _: &[u8]) -> Written {
        Err(Failed(Error::other("bytes are no value of a template")))
    }

    fn serialize_none(self) -> Written {
        Ok(Value::None)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Written {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Written {
        Ok(Value::None)
    }

    fn serialize_unit_struct(self, _: &'static str) -> Written {
        Ok(Value::None)
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Written {
        self.text(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, name: &'static str, value: &T) -> Written {
        let marked = self.marked || name == COMPLETION;
        value.serialize(Writer { marked, ..self })
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Written {
        in_variant(self, Some(variant), value.serialize(self)?)
    }

    fn serialize_seq(self, _: Option<usize>) -> std::result::Result<Many<'a>, Failed> {
        Ok(Many::new(self, None))
    }

    fn serialize_tuple(self, _: usize) -> std::result::Result<Many<'a>, Failed> {
        Ok(Many::new(self, None))
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> std::result::Result<Many<'a>, Failed> {
        Ok(Many::new(self, None))
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> std::result::Result<Many<'a>, Failed> {
        Ok(Many::new(self, Some(variant)))
    }

    fn serialize_map(self, _: Option<usize>) -> std::result::Result<Many<'a>, Failed> {
        Ok(Many::new(self, None))
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> std::result::Result<Many<'a>, Failed> {
        Ok(Many::new(self, None))
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> std::result::Result<Many<'a>, Failed> {
        Ok(Many::new(self, Some(variant)))
    }
}

macro_rules! sequences {
    ($($kind:ident $method:ident,)*) => {
        $(impl ser::$kind for Many<'_> {
            type Ok = Value;
            type Error = Failed;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> std::result::Result<(), Failed> {
                self.item(value)
            }

            fn end(self) -> Written {
                self.list()
            }
        })*
    };
}

sequences! {
    SerializeSeq serialize_element,
    SerializeTuple serialize_element,
    SerializeTupleStruct serialize_field,
    SerializeTupleVariant serialize_field,
}

macro_rules! structs {
    ($($kind:ident)*) => {
        $(impl ser::$kind for Many<'_> {
            type Ok = Value;
            type Error = Failed;

            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                key: &'static str,
                value: &T,
            ) -> std::result::Result<(), Failed> {
                self.entry(key, value)
            }

            fn end(self) -> Written {
                self.map()
            }
        })*
    };
}

structs! { SerializeStruct SerializeStructVariant }

impl ser::SerializeMap for Many<'_> {
    type Ok = Value;
    type Error = Failed;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> std::result::Result<(), Failed> {
        self.key = Some(key.serialize(self.writer.key())?);
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> std::result::Result<(), Failed> {
        let key = self.key.take().ok_or_else(|| Error::other("a value without a key"))?;
        self.entries.push((key, value.serialize(self.writer)?));
        Ok(())
    }

    fn end(self) -> Written {
        self.map()
    }
}
