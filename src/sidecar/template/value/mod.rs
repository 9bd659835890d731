//! The values of a rendering: Python's, as far as templates can tell.
//!
//! The invariant: lists, tuples and dictionaries never change, and know how deep they are, so that no value contains itself and
//! dropping or printing one needs a bounded stack; what does change (namespaces, frames) is emptied when the rendering ends.

mod args;
mod compare;
mod dict;
mod from_serde;
mod iter;
mod number;
mod print;
mod text;

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

pub(super) use self::args::Args;
pub(super) use self::compare::{contains, equal, hashable, less, order};
pub(super) use self::dict::Dict;
pub use self::from_serde::COMPLETION;
pub(super) use self::from_serde::variables;
pub(super) use self::iter::{Items, Iterate, collect, iterate};
pub(super) use self::number::{add, divide, floor_divide, modulo, multiply, negate, power, subtract};
pub(super) use self::print::{float, repr, to_text, write};
pub(super) use self::text::{Out, Text};
use super::budget::{Budget, Charge, Error, Result};
use crate::limits::MAX_TEMPLATE_DEPTH;

/// A function of a filter, a test or a global: the first value, and the arguments behind it.
pub(super) type Native = fn(&Rc<Cx>, Value, Args) -> Result<Value>;

/// Deepest nesting of values.
pub(super) const MAX_NESTING: u32 = 128;

/// What all values of a rendering share.
#[derive(Default)]
pub(super) struct Cx {
    pub(super) budget: Budget,
    emptied: RefCell<Vec<(Rc<dyn Empty>, Charge)>>,
}

/// What changes, and could therefore contain itself.
pub(super) trait Empty {
    /// Lets go of what it holds.
    fn empty(&self);
}

impl Cx {
    /// Keeps something until the rendering ends, and empties it then.
    pub(super) fn keep(&self, holder: Rc<dyn Empty>, bytes: usize) -> Result<()> {
        let charge = self.budget.hold(bytes)?;
        self.emptied.borrow_mut().push((holder, charge));
        Ok(())
    }

    /// Ends the rendering: nothing that was made holds anything else afterwards.
    pub(super) fn empty(&self) {
        let holders = self.emptied.take();
        holders.iter().for_each(|(holder, _)| holder.empty());
    }

    pub(super) fn list(&self, items: Vec<Value>) -> Result<Value> {
        Ok(Value::List(self.sequence(items)?))
    }

    pub(super) fn tuple(&self, items: Vec<Value>) -> Result<Value> {
        Ok(Value::Tuple(self.sequence(items)?))
    }

    /// A pair of `groupby`, whose items have names, too.
    pub(super) fn group(&self, key: Value, items: Value) -> Result<Value> {
        let pair = Rc::try_unwrap(self.sequence(vec![key, items])?);
        Ok(Value::Tuple(Rc::new(Sequence {
            is_group: true,
            ..pair.map_err(|_| Error::other("a new tuple is shared"))?
        })))
    }

    fn sequence(&self, items: Vec<Value>) -> Result<Rc<Sequence>> {
        let charge = self.budget.hold(48 + items.capacity() * size_of::<Value>())?;
        let depth = deeper(items.iter().map(Value::depth).max().unwrap_or(0))?;
        Ok(Rc::new(Sequence { items, is_group: false, depth, _charge: charge }))
    }

    /// A text without marks.
    pub(super) fn text(&self, text: impl Into<String>) -> Result<Value> {
        Ok(Value::Text(Text::new(self, text.into())?))
    }

    /// A value that gives others one by one, made over a value of that depth.
    pub(super) fn iterator(&self, name: &'static str, depth: u32, inner: impl Iterate + 'static) -> Result<Value> {
        let charge = self.budget.hold(64 + size_of_val(&inner))?;
        let depth = deeper(depth)?;
        Ok(Value::Iter(Rc::new(Iter { name, inner: RefCell::new(Box::new(inner)), depth, _charge: charge })))
    }

    pub(super) fn undefined(&self, why: Undefined) -> Value {
        Value::Undefined(Rc::new(why))
    }
}

/// One level more, if there may be.
pub(super) fn deeper(depth: u32) -> Result<u32> {
    if depth >= MAX_NESTING {
        return Err(Error::other(format!("its values are nested deeper than {MAX_NESTING}")));
    }
    Ok(depth + 1)
}

/// The items of a list or a tuple.
#[derive(Debug)]
pub(super) struct Sequence {
    pub(super) items: Vec<Value>,
    /// Whether the items are called `grouper` and `list`.
    pub(super) is_group: bool,
    depth: u32,
    _charge: Charge,
}

/// Python's `range`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Range {
    pub(super) start: i128,
    pub(super) stop: i128,
    pub(super) step: i128,
    pub(super) length: usize,
}

/// What a dictionary shows of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum View {
    Keys,
    Values,
    Items,
}

/// Why a value is undefined: what an error says that comes of using it.
#[derive(Debug)]
pub(super) enum Undefined {
    Name(Arc<str>),
    /// The kind of the value that lacks it, and its name or index.
    Element(&'static str, String),
    /// The same by its name alone.
    Attribute(&'static str, String),
    Hint(String),
}

impl fmt::Display for Undefined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => write!(f, "'{name}' is undefined"),
            Self::Element(kind, name) => write!(f, "a value of type '{kind}' has no element {name}"),
            Self::Attribute(kind, name) => write!(f, "a value of type '{kind}' has no element '{name}'"),
            Self::Hint(hint) => f.write_str(hint),
        }
    }
}

/// A generator, or another iterator: it gives its values once.
pub(super) struct Iter {
    pub(super) name: &'static str,
    pub(super) inner: RefCell<Box<dyn Iterate>>,
    depth: u32,
    _charge: Charge,
}

/// Attributes that a template may set.
pub(super) struct Namespace(pub(super) RefCell<Vec<(Arc<str>, Value)>>);

impl Empty for Namespace {
    fn empty(&self) {
        drop(self.0.take());
    }
}

/// Values of other kinds: macros, `loop`, functions.
pub(super) trait Object {
    fn type_name(&self) -> &'static str;

    /// As Python prints it; `None` where that is not the same in each run.
    fn printed(&self, _cx: &Rc<Cx>) -> Result<Option<String>> {
        Ok(None)
    }

    /// An attribute; `None` if there is none of that name.
    fn attribute(&self, _cx: &Rc<Cx>, _name: &str) -> Result<Option<Value>> {
        Ok(None)
    }

    fn is_callable(&self) -> bool {
        false
    }

    fn call(&self, _cx: &Rc<Cx>, _args: Args) -> Result<Value> {
        Err(Error::type_error(format!("'{}' object is not callable", self.type_name())))
    }

    fn length(&self, _cx: &Rc<Cx>) -> Result<Option<usize>> {
        Ok(None)
    }

    fn is_iterable(&self) -> bool {
        false
    }

    /// The next item, where it is iterable.
    fn next(&self, _cx: &Rc<Cx>) -> Result<Option<Value>> {
        Ok(None)
    }

    fn depth(&self) -> u32 {
        0
    }
}

/// A method with the value that it is of.
pub(super) struct Method {
    pub(super) value: Value,
    pub(super) function: Native,
}

/// A value. Cloning one is cheap.
#[derive(Clone)]
pub(super) enum Value {
    Undefined(Rc<Undefined>),
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(Text),
    List(Rc<Sequence>),
    Tuple(Rc<Sequence>),
    Dict(Rc<Dict>),
    View(View, Rc<Dict>),
    Range(Rc<Range>),
    Iter(Rc<Iter>),
    Namespace(Rc<Namespace>),
    Method(Rc<Method>),
    Object(Rc<dyn Object>),
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.type_name())
    }
}

impl Value {
    pub(super) fn depth(&self) -> u32 {
        match self {
            Self::List(sequence) | Self::Tuple(sequence) => sequence.depth,
            Self::Dict(dict) | Self::View(_, dict) => dict.depth(),
            Self::Iter(iter) => iter.depth,
            Self::Method(method) => method.value.depth() + 1,
            Self::Object(object) => object.depth(),
            _ => 0,
        }
    }

    /// The name of its type in Python.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Undefined(_) => "Undefined",
            Self::None => "NoneType",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Float(_) => "float",
            Self::Text(text) => {
                if text.is_markup() {
                    "Markup"
                } else {
                    "str"
                }
            }
            Self::List(_) => "list",
            Self::Tuple(_) => "tuple",
            Self::Dict(_) => "dict",
            Self::View(View::Keys, _) => "dict_keys",
            Self::View(View::Values, _) => "dict_values",
            Self::View(View::Items, _) => "dict_items",
            Self::Range(_) => "range",
            Self::Iter(iter) => iter.name,
            Self::Namespace(_) => "Namespace",
            Self::Method(_) => "builtin_function_or_method",
            Self::Object(object) => object.type_name(),
        }
    }

    pub(super) fn is_undefined(&self) -> bool {
        matches!(self, Self::Undefined(_))
    }

    /// The error of using an undefined value.
    pub(super) fn defined(&self) -> Result<()> {
        match self {
            Self::Undefined(why) => Err(Error::other(why.to_string())),
            _ => Ok(()),
        }
    }

    /// Python's truth.
    pub(super) fn truth(&self, cx: &Rc<Cx>) -> Result<bool> {
        Ok(match self {
            Self::Undefined(_) | Self::None => false,
            Self::Bool(value) => *value,
            Self::Int(number) => *number != 0,
            Self::Float(number) => *number != 0.0,
            Self::Object(object) => object.length(cx)?.is_none_or(|length| length > 0),
            other => other.length(cx)?.is_none_or(|length| length > 0),
        })
    }

    /// Python's `len`, where there is one.
    pub(super) fn length(&self, cx: &Rc<Cx>) -> Result<Option<usize>> {
        Ok(match self {
            Self::Undefined(_) => Some(0),
            Self::Text(text) => {
                cx.budget.copy(text.len() / 8)?;
                Some(text.count())
            }
            Self::List(sequence) | Self::Tuple(sequence) => Some(sequence.items.len()),
            Self::Dict(dict) | Self::View(_, dict) => Some(dict.len()),
            Self::Range(range) => Some(range.length),
            Self::Object(object) => object.length(cx)?,
            _ => None,
        })
    }

    /// The integer that it is, a truth being 0 or 1.
    pub(super) fn integer(&self) -> Option<i128> {
        match self {
            Self::Int(number) => Some(*number),
            Self::Bool(value) => Some(i128::from(*value)),
            _ => None,
        }
    }

    /// As an argument that must be an integer.
    pub(super) fn expect_integer(&self) -> Result<i128> {
        self.defined()?;
        self.integer().ok_or_else(|| {
            Error::type_error(format!("'{}' object cannot be interpreted as an integer", self.type_name()))
        })
    }

    /// As an argument that must be a text.
    pub(super) fn expect_text(&self) -> Result<&Text> {
        match self {
            Self::Text(text) => Ok(text),
            other => Err(Error::type_error(format!("a text is expected, not '{}'", other.type_name()))),
        }
    }

    pub(super) fn is_callable(&self) -> bool {
        match self {
            // Python finds `__call__`, which throws.
            Self::Undefined(_) | Self::Method(_) => true,
            Self::Object(object) => object.is_callable(),
            _ => false,
        }
    }

    /// Python's `is`.
    pub(super) fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::None, Self::None) => true,
            (Self::Bool(a), Self::Bool(b)) => a == b,
            // Small integers are the same object everywhere.
            (Self::Int(a), Self::Int(b)) => a == b && (-5..=256).contains(a),
            (Self::Text(a), Self::Text(b)) => a.same(b),
            (Self::List(a), Self::List(b)) => Rc::ptr_eq(a, b),
            (Self::Tuple(a), Self::Tuple(b)) => Rc::ptr_eq(a, b) || a.items.is_empty() && b.items.is_empty(),
            (Self::Dict(a), Self::Dict(b)) => Rc::ptr_eq(a, b),
            (Self::Range(a), Self::Range(b)) => Rc::ptr_eq(a, b),
            (Self::Iter(a), Self::Iter(b)) => Rc::ptr_eq(a, b),
            (Self::Namespace(a), Self::Namespace(b)) => Rc::ptr_eq(a, b),
            (Self::Undefined(a), Self::Undefined(b)) => Rc::ptr_eq(a, b),
            (Self::Object(a), Self::Object(b)) => Rc::ptr_eq(a, b),
            _ => false,
        }
    }

    /// The value of an attribute of a namespace.
    pub(super) fn namespace_attribute(namespace: &Namespace, name: &str) -> Option<Value> {
        namespace.0.borrow().iter().find(|(key, _)| &**key == name).map(|(_, value)| value.clone())
    }
}

const _: () = assert!(MAX_NESTING < MAX_TEMPLATE_DEPTH);
