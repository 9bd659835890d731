//! The functions and classes that every template has.
//!
//! The invariant: none of them knows the clock, or chance.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use super::budget::{Error, Kind, Result};
use super::date::Date;
use super::value::{Args, Cx, Dict, Namespace, Object, Range, Value, collect, deeper, to_text};

/// Most items of a range: the sandbox takes no more.
const MAX_RANGE: i128 = 100_000;

/// A global of that name.
pub(super) fn find(name: &str, date: Option<Date>) -> Option<Value> {
    let function =
        |name, printed, call| Some(Value::Object(Rc::new(Function { name, printed, call }) as Rc<dyn Object>));
    match name {
        "range" => function("function", None, range),
        "dict" => Some(Value::Object(Rc::new(DictClass))),
        "namespace" => function("type", None, namespace),
        "cycler" => function("type", Some("<class 'jinja2.utils.Cycler'>"), cycler),
        "joiner" => function("type", Some("<class 'jinja2.utils.Joiner'>"), joiner),
        "raise_exception" => function("function", None, raise_exception),
        "strftime_now" => date.map(|date| Value::Object(Rc::new(Strftime(date)) as Rc<dyn Object>)),
        _ => None,
    }
}

struct Function {
    name: &'static str,
    printed: Option<&'static str>,
    call: fn(&Rc<Cx>, Args) -> Result<Value>,
}

impl Object for Function {
    fn type_name(&self) -> &'static str {
        self.name
    }

    fn printed(&self, _: &Rc<Cx>) -> Result<Option<String>> {
        Ok(self.printed.map(str::to_owned))
    }

    fn is_callable(&self) -> bool {
        true
    }

    fn call(&self, cx: &Rc<Cx>, args: Args) -> Result<Value> {
        (self.call)(cx, args)
    }
}

fn range(_: &Rc<Cx>, args: Args) -> Result<Value> {
    let [first, second, step] = args.positional("range", 1)?;
    let number = |value: Option<Value>| value.map(|value| value.expect_integer()).transpose();
    let (first, second, step) = (number(first)?.unwrap_or(0), number(second)?, number(step)?.unwrap_or(1));
    let (start, stop) = second.map_or((0, first), |second| (first, second));
    if step == 0 {
        return Err(Error::value_error("range() arg 3 must not be zero"));
    }
    let distance = if step > 0 { stop.checked_sub(start) } else { start.checked_sub(stop) };
    let count = distance.map(|distance| if distance <= 0 { 0 } else { (distance - 1) / step.saturating_abs() + 1 });
    match count.filter(|count| *count <= MAX_RANGE) {
        Some(count) => {
            Ok(Value::Range(Rc::new(Range { start, stop, step, length: usize::try_from(count).unwrap_or(0) })))
        }
        None => Err(Error::new(
            Kind::Overflow,
            format!("Range too big. The sandbox blocks ranges larger than {MAX_RANGE}."),
        )),
    }
}

fn raise_exception(cx: &Rc<Cx>, args: Args) -> Result<Value> {
    let [message] = args.bind("raise_exception", ["message"], 1)?;
    Err(Error::new(Kind::Raised, &*to_text(cx, &message.unwrap_or(Value::None))?))
}

/// The pairs that Python's `dict(…)` takes.
fn pairs(cx: &Rc<Cx>, args: Args) -> Result<Vec<(Value, Value)>> {
    let named = args.named;
    let [first] = Args { places: args.places, named: Vec::new() }.positional("dict", 0)?;
    let mut pairs = match first {
        None => Vec::new(),
        Some(Value::Dict(dict)) => dict.entries().to_vec(),
        Some(Value::Undefined(why)) => return Err(Error::other(why.to_string())),
        Some(other) => {
            let mut pairs = Vec::new();
            for pair in collect(cx, &other)? {
                match <[Value; 2]>::try_from(collect(cx, &pair)?) {
                    Ok([key, value]) => pairs.push((key, value)),
                    Err(_) => return Err(Error::value_error("dict takes pairs")),
                }
            }
            pairs
        }
    };
    for (name, value) in named {
        pairs.push((cx.text(&*name)?, value));
    }
    Ok(pairs)
}

struct DictClass;

impl Object for DictClass {
    fn type_name(&self) -> &'static str {
        "TemplateDict"
    }

    fn is_callable(&self) -> bool {
        true
    }

    fn call(&self, cx: &Rc<Cx>, args: Args) -> Result<Value> {
        Ok(Value::Dict(Dict::new(cx, pairs(cx, args)?)?))
    }

    fn attribute(&self, _: &Rc<Cx>, name: &str) -> Result<Option<Value>> {
        let function = Function { name: "method", printed: None, call: from_keys };
        Ok((name == "fromkeys").then(|| Value::Object(Rc::new(function))))
    }
}

/// `dict.fromkeys`.
pub(super) fn from_keys(cx: &Rc<Cx>, args: Args) -> Result<Value> {
    let [keys, value] = args.positional("fromkeys", 1)?;
    let value = value.unwrap_or(Value::None);
    let keys = collect(cx, &keys.unwrap_or(Value::None))?;
    Ok(Value::Dict(Dict::new(cx, keys.into_iter().map(|key| (key, value.clone())))?))
}

fn namespace(cx: &Rc<Cx>, args: Args) -> Result<Value> {
    let dict = Dict::new(cx, pairs(cx, args)?)?;
    let mut attributes: Vec<(Arc<str>, Value)> = Vec::new();
    for (key, value) in dict.entries() {
        // A key that is no text is an attribute that no template can name.
        let Value::Text(name) = key else { continue };
        check_attribute(name)?;
        attributes.push(((&**name).into(), value.clone()));
    }
    let namespace = Rc::new(Namespace(RefCell::new(attributes)));
    cx.keep(namespace.clone(), 64 + dict.len() * 64)?;
    Ok(Value::Namespace(namespace))
}

fn check_attribute(name: &str) -> Result<()> {
    if name.starts_with('_') {
        return Err(Error::other(format!("underscore-prefixed attribute '{name}' on a namespace")));
    }
    Ok(())
}

/// `{% set namespace.name = value %}`.
pub(super) fn set_attribute(cx: &Rc<Cx>, namespace: &Namespace, name: &Arc<str>, value: Value) -> Result<()> {
    check_attribute(name)?;
    let mut attributes = namespace.0.borrow_mut();
    let old = match attributes.iter_mut().find(|(key, _)| key == name) {
        Some((_, old)) => Some(std::mem::replace(old, value)),
        None => {
            cx.budget.fits(64)?;
            attributes.push((name.clone(), value));
            None
        }
    };
    drop(attributes);
    drop(old);
    Ok(())
}

struct Cycler {
    items: Vec<Value>,
    depth: u32,
    at: Cell<usize>,
}

fn cycler(_: &Rc<Cx>, args: Args) -> Result<Value> {
    if args.places.is_empty() || !args.named.is_empty() {
        return Err(Error::other("cycler: at least one item has to be provided, and none by name"));
    }
    let depth = deeper(args.places.iter().map(Value::depth).max().unwrap_or(0))?;
    Ok(Value::Object(Rc::new(CyclerObject(Rc::new(Cycler { items: args.places, depth, at: Cell::new(0) })))))
}

struct CyclerObject(Rc<Cycler>);

/// A method of a cycler.
struct CyclerMethod(Rc<Cycler>, bool);

impl Object for CyclerObject {
    fn type_name(&self) -> &'static str {
        "Cycler"
    }

    fn attribute(&self, _: &Rc<Cx>, name: &str) -> Result<Option<Value>> {
        Ok(match name {
            "current" => self.0.items.get(self.0.at.get()).cloned(),
            "next" => Some(Value::Object(Rc::new(CyclerMethod(self.0.clone(), true)))),
            "reset" => Some(Value::Object(Rc::new(CyclerMethod(self.0.clone(), false)))),
            "pos" => Some(Value::Int(self.0.at.get() as i128)),
            _ => None,
        })
    }

    fn depth(&self) -> u32 {
        self.0.depth
    }
}

impl Object for CyclerMethod {
    fn type_name(&self) -> &'static str {
        "method"
    }

    fn is_callable(&self) -> bool {
        true
    }

    fn call(&self, _: &Rc<Cx>, args: Args) -> Result<Value> {
        args.positional::<0>("next", 0)?;
        let Self(cycler, next) = self;
        let at = cycler.at.get();
        if *next {
            cycler.at.set((at + 1) % cycler.items.len());
            return Ok(cycler.items[at].clone());
        }
        cycler.at.set(0);
        Ok(Value::None)
    }

    fn depth(&self) -> u32 {
        self.0.depth
    }
}

struct Joiner {
    between: Value,
    depth: u32,
    used: Cell<bool>,
}

fn joiner(cx: &Rc<Cx>, args: Args) -> Result<Value> {
    let [between] = args.bind("joiner", ["sep"], 0)?;
    let between = between.map_or_else(|| cx.text(", "), Ok)?;
    let depth = deeper(between.depth())?;
    Ok(Value::Object(Rc::new(Joiner { between, depth, used: Cell::new(false) })))
}

impl Object for Joiner {
    fn type_name(&self) -> &'static str {
        "Joiner"
    }

    fn attribute(&self, _: &Rc<Cx>, name: &str) -> Result<Option<Value>> {
        Ok(match name {
            "sep" => Some(self.between.clone()),
            "used" => Some(Value::Bool(self.used.get())),
            _ => None,
        })
    }

    fn is_callable(&self) -> bool {
        true
    }

    fn call(&self, cx: &Rc<Cx>, args: Args) -> Result<Value> {
        args.positional::<0>("joiner", 0)?;
        if self.used.replace(true) { Ok(self.between.clone()) } else { cx.text("") }
    }

    fn depth(&self) -> u32 {
        self.depth
    }
}

struct Strftime(Date);

impl Object for Strftime {
    fn type_name(&self) -> &'static str {
        "function"
    }

    fn is_callable(&self) -> bool {
        true
    }

    fn call(&self, cx: &Rc<Cx>, args: Args) -> Result<Value> {
        let [format] = args.bind("strftime_now", ["format"], 1)?;
        let format = format.unwrap_or(Value::None);
        let format = format.expect_text()?;
        cx.budget.fits(format.len() * 16)?;
        cx.text(self.0.format(format).map_err(Error::other)?)
    }
}
