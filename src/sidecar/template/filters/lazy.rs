//! Filters that are generators: they give their items one by one, once, and look at nothing before the first is asked for.
//!
//! The invariant: arguments are bound at once, and used when the first item is asked for.

use std::rc::Rc;

use super::super::budget::{Error, Result};
use super::super::value::{Args, Cx, Items, Iterate, Native, Value, collect, deeper, equal, iterate};
use super::keys::{Path, folded};

/// How the items of a generator are made, once it has begun.
trait Step {
    fn next(&mut self, cx: &Rc<Cx>) -> Result<Option<Value>>;
}

type Start = Box<dyn FnOnce(&Rc<Cx>) -> Result<Box<dyn Step>>>;

/// A generator that has not begun, or has, or is done.
enum Generator {
    New(Start),
    Running(Box<dyn Step>),
    Done,
}

impl Iterate for Generator {
    fn next(&mut self, cx: &Rc<Cx>) -> Result<Option<Value>> {
        // What throws is done, as in Python.
        let mut step = match std::mem::replace(self, Self::Done) {
            Self::New(start) => start(cx)?,
            Self::Running(step) => step,
            Self::Done => return Ok(None),
        };
        let item = step.next(cx)?;
        if item.is_some() {
            *self = Self::Running(step);
        }
        Ok(item)
    }
}

fn generator<S: Step + 'static>(
    cx: &Rc<Cx>,
    held: &[&Value],
    start: impl FnOnce(&Rc<Cx>) -> Result<S> + 'static,
) -> Result<Value> {
    let depth = deeper(held.iter().map(|value| value.depth()).max().unwrap_or(0))?;
    let start: Start = Box::new(move |cx| Ok(Box::new(start(cx)?)));
    cx.iterator("generator", depth, Generator::New(start))
}

/// Whatever gives items by a function.
struct Each<F>(F);

impl<F: FnMut(&Rc<Cx>) -> Result<Option<Value>>> Step for Each<F> {
    fn next(&mut self, cx: &Rc<Cx>) -> Result<Option<Value>> {
        (self.0)(cx)
    }
}

/// The items of a value that is not empty; a filter of a false value gives nothing, whatever it is.
fn items_if_true(cx: &Rc<Cx>, value: &Value) -> Result<Option<Items>> {
    if value.truth(cx)? { Ok(Some(iterate(value)?)) } else { Ok(None) }
}

pub(super) fn items(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    args.bind("items", [], 0)?;
    generator(cx, &[&value.clone()], move |cx| {
        let mut items = match &value {
            Value::Undefined(_) => Items::Empty,
            Value::Dict(dict) => iterate(&Value::View(super::super::value::View::Items, dict.clone()))?,
            _ => return Err(Error::type_error("Can only get item pairs from a mapping.")),
        };
        cx.budget.steps(1)?;
        Ok(Each(move |cx: &Rc<Cx>| items.next(cx)))
    })
}

/// The deepest of a call's arguments.
fn depth(args: &Args) -> u32 {
    let named = args.named.iter().map(|(_, value)| value.depth());
    args.places.iter().map(Value::depth).chain(named).max().unwrap_or(0)
}

/// What `map` does with an item.
enum Change {
    Attribute(Path),
    Filter(Native, Args),
}

fn change(cx: &Rc<Cx>, mut args: Args) -> Result<Change> {
    let at = args.named.iter().position(|(name, _)| &**name == "attribute");
    if let Some(at) = at.filter(|_| args.places.is_empty()) {
        let (_, attribute) = args.named.remove(at);
        let default = args.named.iter().position(|(name, _)| &**name == "default").map(|at| args.named.remove(at).1);
        return match args.named.first() {
            Some((name, _)) => Err(Error::other(format!("map: unexpected argument '{name}'"))),
            None => Ok(Change::Attribute(Path::with_default(cx, &attribute, default)?)),
        };
    }
    if args.places.is_empty() {
        return Err(Error::other("map requires a filter argument"));
    }
    let name = args.places.remove(0);
    let function = match &name {
        Value::Text(name) => super::find(name),
        _ => None,
    };
    match function {
        Some(function) => Ok(Change::Filter(function, args)),
        None => Err(Error::other("map: there is no such filter; its name must be quoted")),
    }
}

pub(super) fn map(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    let level = depth(&args);
    let depth = deeper(value.depth().max(level))?;
    let start: Start = Box::new(move |cx| {
        let Some(mut items) = items_if_true(cx, &value)? else { return Ok(Box::new(Each(|_: &Rc<Cx>| Ok(None)))) };
        let change = change(cx, args)?;
        Ok(Box::new(Each(move |cx: &Rc<Cx>| match (items.next(cx)?, &change) {
            (None, _) => Ok(None),
            (Some(item), Change::Attribute(path)) => {
                deeper(path.depth())?;
                path.get(cx, item).map(Some)
            }
            (Some(item), Change::Filter(filter, args)) => filter(cx, item, args.clone()).map(Some),
        })))
    });
    cx.iterator("generator", depth, Generator::New(start))
}

/// `select` and its relatives: items, or an attribute of theirs, by a test.
fn choose(cx: &Rc<Cx>, value: Value, args: Args, by_attribute: bool, keep: bool) -> Result<Value> {
    let depth = deeper(value.depth().max(depth(&args)))?;
    let start: Start = Box::new(move |cx| {
        let Some(mut items) = items_if_true(cx, &value)? else { return Ok(Box::new(Each(|_: &Rc<Cx>| Ok(None)))) };
        let mut args = args;
        let path = if by_attribute {
            if args.places.is_empty() {
                return Err(Error::other("Missing parameter for attribute name"));
            }
            Some(Path::new(cx, &args.places.remove(0))?)
        } else {
            None
        };
        // A test that does not exist is an error when the first item is looked at.
        let test = if args.places.is_empty() { None } else { Some(args.places.remove(0)) };
        let function = match &test {
            Some(Value::Text(name)) => super::test(name),
            _ => None,
        };
        Ok(Box::new(Each(move |cx: &Rc<Cx>| {
            while let Some(item) = items.next(cx)? {
                let looked_at = match &path {
                    Some(path) => path.get(cx, item.clone())?,
                    None => item.clone(),
                };
                let holds = match (&test, function) {
                    (None, _) => looked_at.truth(cx)?,
                    (Some(_), Some(function)) => function(cx, looked_at, args.clone())?.truth(cx)?,
                    (Some(_), None) => {
                        return Err(Error::other("select: there is no such test; its name must be quoted"));
                    }
                };
                if holds == keep {
                    return Ok(Some(item));
                }
            }
            Ok(None)
        })))
    });
    cx.iterator("generator", depth, Generator::New(start))
}

pub(super) fn select(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    choose(cx, value, args, false, true)
}

pub(super) fn reject(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    choose(cx, value, args, false, false)
}

pub(super) fn selectattr(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    choose(cx, value, args, true, true)
}

pub(super) fn rejectattr(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    choose(cx, value, args, true, false)
}

pub(super) fn unique(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    let [case_sensitive, attribute] = args.bind("unique", ["case_sensitive", "attribute"], 0)?;
    let case_sensitive = case_sensitive.map_or(Ok(false), |value| value.truth(cx))?;
    let attribute = attribute.unwrap_or(Value::None);
    generator(cx, &[&value.clone(), &attribute.clone()], move |cx| {
        let path = Path::new(cx, &attribute)?;
        let mut items = iterate(&value)?;
        let mut seen = Vec::new();
        Ok(Each(move |cx: &Rc<Cx>| {
            while let Some(item) = items.next(cx)? {
                let key = folded(cx, path.get(cx, item.clone())?, case_sensitive)?;
                super::super::value::hashable(cx, &key)?;
                cx.budget.steps(seen.len() as u64)?;
                let mut known = false;
                for other in &seen {
                    known = known || key.same(other) || equal(cx, other, &key)?;
                }
                if !known {
                    seen.push(key);
                    return Ok(Some(item));
                }
            }
            Ok(None)
        }))
    })
}

/// Whether something fills up the last row.
fn filling(fill: Option<Value>) -> Option<Value> {
    fill.filter(|fill| !matches!(fill, Value::None))
}

pub(super) fn batch(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    let [count, fill] = args.bind("batch", ["linecount", "fill_with"], 1)?;
    let (count, fill) = (count.unwrap_or(Value::None), filling(fill));
    let held = [&value.clone(), &fill.clone().unwrap_or(Value::None)];
    generator(cx, &held, move |_| {
        let mut items = iterate(&value)?;
        let mut ahead = None;
        Ok(Each(move |cx: &Rc<Cx>| {
            let mut row: Vec<Value> = Option::take(&mut ahead).into_iter().collect();
            while let Some(item) = items.next(cx)? {
                if equal(cx, &Value::Int(row.len() as i128), &count)? {
                    ahead = Some(item);
                    return cx.list(row).map(Some);
                }
                row.push(item);
            }
            if row.is_empty() {
                return Ok(None);
            }
            if let Some(fill) = &fill
                && super::super::value::less(cx, &Value::Int(row.len() as i128), &count)?
            {
                let missing = count.expect_integer()? - row.len() as i128;
                let missing = usize::try_from(missing).unwrap_or(usize::MAX);
                cx.budget.fits(missing.saturating_mul(size_of::<Value>()))?;
                row.extend(std::iter::repeat_n(fill, missing).cloned());
            }
            cx.list(row).map(Some)
        }))
    })
}

pub(super) fn slice(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    let [slices, fill] = args.bind("slice", ["slices", "fill_with"], 1)?;
    let (slices, fill) = (slices.unwrap_or(Value::None), filling(fill));
    let held = [&value.clone(), &fill.clone().unwrap_or(Value::None)];
    generator(cx, &held, move |cx| {
        let items = collect(cx, &value)?;
        let slices = slices.expect_integer()?;
        if slices == 0 {
            return Err(Error::other("integer division or modulo by zero"));
        }
        let (each, extra) = ((items.len() as i128).div_euclid(slices), (items.len() as i128).rem_euclid(slices));
        let (mut number, mut start) = (0, 0);
        Ok(Each(move |cx: &Rc<Cx>| {
            if number >= slices {
                return Ok(None);
            }
            cx.budget.steps(1)?;
            let length = usize::try_from(each + i128::from(number < extra)).unwrap_or(0);
            let mut row = items.get(start..start + length).unwrap_or_default().to_vec();
            if let Some(fill) = &fill
                && number >= extra
            {
                row.push(fill.clone());
            }
            number += 1;
            start += length;
            cx.list(row).map(Some)
        }))
    })
}
