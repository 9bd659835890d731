//! Filters that compare items by a key.
//!
//! The invariant: texts are compared without regard to case unless the template says otherwise.

use std::rc::Rc;

use super::super::access;
use super::super::budget::{Error, Result};
use super::super::methods;
use super::super::sort::sorted;
use super::super::value::{Args, Cx, Undefined, Value, collect, equal, iterate, less};

/// An attribute's name, with points for attributes of attributes.
pub(super) struct Path {
    parts: Vec<Value>,
    /// What stands for an undefined value on the way.
    default: Option<Value>,
}

impl Path {
    pub(super) fn new(cx: &Rc<Cx>, attribute: &Value) -> Result<Self> {
        Self::with_default(cx, attribute, None)
    }

    pub(super) fn with_default(cx: &Rc<Cx>, attribute: &Value, default: Option<Value>) -> Result<Self> {
        let parts = match attribute {
            Value::None => Vec::new(),
            Value::Text(text) => {
                let number = |part: &str| part.parse().ok().filter(|_| part.bytes().all(|b| b.is_ascii_digit()));
                let part = |part: &str| number(part).map_or_else(|| cx.text(part), |number| Ok(Value::Int(number)));
                text.split('.').map(part).collect::<Result<_>>()?
            }
            other => vec![other.clone()],
        };
        Ok(Self { parts, default: default.filter(|default| !matches!(default, Value::None)) })
    }

    pub(super) fn get(&self, cx: &Rc<Cx>, mut item: Value) -> Result<Value> {
        for part in &self.parts {
            item = access::item(cx, &item, part)?;
            if let (Some(default), Value::Undefined(_)) = (&self.default, &item) {
                item = default.clone();
            }
        }
        Ok(item)
    }

    pub(super) fn depth(&self) -> u32 {
        self.parts.iter().chain(&self.default).map(Value::depth).max().unwrap_or(0)
    }
}

/// A key as it is compared.
pub(super) fn folded(cx: &Rc<Cx>, key: Value, case_sensitive: bool) -> Result<Value> {
    match key {
        Value::Text(text) if !case_sensitive => methods::lowered(cx, &text),
        other => Ok(other),
    }
}

fn truth(cx: &Rc<Cx>, value: Option<Value>) -> Result<bool> {
    value.map_or(Ok(false), |value| value.truth(cx))
}

/// Sorts by keys, stable in both directions.
fn sorted_by(cx: &Rc<Cx>, mut items: Vec<(Value, Value)>, reverse: bool) -> Result<Vec<(Value, Value)>> {
    if reverse {
        items.reverse();
    }
    let mut items = sorted(cx, items, |a, b| less(cx, &a.0, &b.0))?;
    if reverse {
        items.reverse();
    }
    Ok(items)
}

pub(super) fn sort(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    let [reverse, case_sensitive, attribute] = args.bind("sort", ["reverse", "case_sensitive", "attribute"], 0)?;
    let case_sensitive = truth(cx, case_sensitive)?;
    let paths = match &attribute {
        Some(Value::Text(text)) => {
            let path = |part: &str| Path::new(cx, &cx.text(part)?);
            text.split(',').map(path).collect::<Result<Vec<_>>>()?
        }
        other => vec![Path::new(cx, other.as_ref().unwrap_or(&Value::None))?],
    };
    let key = |item: &Value| -> Result<Value> {
        let part = |path: &Path| folded(cx, path.get(cx, item.clone())?, case_sensitive);
        cx.list(paths.iter().map(part).collect::<Result<_>>()?)
    };
    let items = collect(cx, &value)?;
    let items = items.into_iter().map(|item| Ok((key(&item)?, item))).collect::<Result<_>>()?;
    let items = sorted_by(cx, items, truth(cx, reverse)?)?;
    cx.list(items.into_iter().map(|(_, item)| item).collect())
}

pub(super) fn dictsort(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    let [case_sensitive, by, reverse] = args.bind("dictsort", ["case_sensitive", "by", "reverse"], 0)?;
    let by_value = match &by {
        None => false,
        Some(Value::Text(by)) if &**by == "key" => false,
        Some(Value::Text(by)) if &**by == "value" => true,
        Some(_) => return Err(Error::other("dictsort sorts by 'key' or 'value'")),
    };
    value.defined()?;
    let Value::Dict(dict) = &value else {
        return Err(Error::type_error(format!("dictsort takes a mapping, not '{}'", value.type_name())));
    };
    let case_sensitive = truth(cx, case_sensitive)?;
    let mut items = Vec::new();
    for (key, value) in dict.entries() {
        let by = if by_value { value } else { key };
        items.push((folded(cx, by.clone(), case_sensitive)?, cx.tuple(vec![key.clone(), value.clone()])?));
    }
    let items = sorted_by(cx, items, truth(cx, reverse)?)?;
    cx.list(items.into_iter().map(|(_, item)| item).collect())
}

pub(super) fn groupby(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    let [attribute, default, case_sensitive] = args.bind("groupby", ["attribute", "default", "case_sensitive"], 1)?;
    let case_sensitive = truth(cx, case_sensitive)?;
    let path = Path::with_default(cx, &attribute.unwrap_or(Value::None), default)?;
    let items = collect(cx, &value)?;
    let key = |item: &Value| folded(cx, path.get(cx, item.clone())?, case_sensitive);
    let items = items.into_iter().map(|item| Ok((key(&item)?, item))).collect::<Result<_>>()?;
    let mut groups: Vec<(Value, Vec<Value>)> = Vec::new();
    for (key, item) in sorted_by(cx, items, false)? {
        match groups.last_mut() {
            Some((last, items)) if last.same(&key) || equal(cx, last, &key)? => items.push(item),
            _ => groups.push((key, vec![item])),
        }
    }
    let mut pairs = Vec::new();
    for (key, items) in groups {
        // The key as it stands in the first item.
        let key = match items.first() {
            Some(first) if !case_sensitive => path.get(cx, first.clone())?,
            _ => key,
        };
        pairs.push(cx.group(key, cx.list(items)?)?);
    }
    cx.list(pairs)
}

fn extreme(
    cx: &Rc<Cx>,
    value: &Value,
    args: Args,
    name: &str,
    better: fn(&Rc<Cx>, &Value, &Value) -> Result<bool>,
) -> Result<Value> {
    let [case_sensitive, attribute] = args.bind(name, ["case_sensitive", "attribute"], 0)?;
    let case_sensitive = truth(cx, case_sensitive)?;
    let path = Path::new(cx, &attribute.unwrap_or(Value::None))?;
    let mut items = iterate(value)?;
    let Some(mut best) = items.next(cx)? else {
        return Ok(cx.undefined(Undefined::Hint("No aggregated item, sequence was empty.".into())));
    };
    let mut best_key = folded(cx, path.get(cx, best.clone())?, case_sensitive)?;
    while let Some(item) = items.next(cx)? {
        let key = folded(cx, path.get(cx, item.clone())?, case_sensitive)?;
        if better(cx, &key, &best_key)? {
            (best, best_key) = (item, key);
        }
    }
    Ok(best)
}

pub(super) fn min(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    extreme(cx, &value, args, "min", less)
}

pub(super) fn max(cx: &Rc<Cx>, value: Value, args: Args) -> Result<Value> {
    extreme(cx, &value, args, "max", |cx, a, b| less(cx, b, a))
}
