//! Dictionaries, which keep the order of their keys.
//!
//! The invariant: keys are distinct by Python's `==`; the first of equal ones stays, with the last value.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, Hash as _, Hasher as _, RandomState};
use std::rc::Rc;

use super::super::budget::{Charge, Result};
use super::compare::{equal, hashable};
use super::{Cx, Value, deeper};

#[derive(Debug)]
pub(in super::super) struct Dict {
    entries: Vec<(Value, Value)>,
    /// Of larger dictionaries: where entries stand whose keys have a hash.
    index: Option<(RandomState, HashMap<u64, Vec<u32>>)>,
    depth: u32,
    _charge: Charge,
}

/// Entries from which on there is an index.
const INDEXED: usize = 12;

impl Dict {
    pub(in super::super) fn new(cx: &Rc<Cx>, pairs: impl IntoIterator<Item = (Value, Value)>) -> Result<Rc<Self>> {
        let mut dict = Self { entries: Vec::new(), index: None, depth: 0, _charge: cx.budget.hold(96)? };
        let mut depth = 0;
        for (key, value) in pairs {
            depth = depth.max(key.depth()).max(value.depth());
            match dict.find(cx, &key)? {
                Some(at) => dict.entries[at].1 = value,
                None => dict.push(cx, key, value)?,
            }
        }
        dict.depth = deeper(depth)?;
        Ok(Rc::new(dict))
    }

    fn push(&mut self, cx: &Rc<Cx>, key: Value, value: Value) -> Result<()> {
        cx.budget.steps(1)?;
        self._charge.grow(2 * size_of::<Value>() + 24)?;
        let at = self.entries.len();
        self.entries.push((key, value));
        if let Some((state, index)) = &mut self.index {
            index.entry(hash(cx, state, &self.entries[at].0)?).or_default().push(at as u32);
        } else if at + 1 == INDEXED {
            let (state, mut index) = (RandomState::new(), HashMap::<u64, Vec<u32>>::new());
            for (at, (key, _)) in self.entries.iter().enumerate() {
                index.entry(hash(cx, &state, key)?).or_default().push(at as u32);
            }
            self.index = Some((state, index));
        }
        Ok(())
    }

    fn find(&self, cx: &Rc<Cx>, key: &Value) -> Result<Option<usize>> {
        if let Value::Text(key) = key {
            return self.find_text(cx, key);
        }
        hashable(cx, key)?;
        match &self.index {
            Some((state, index)) => {
                for &at in index.get(&hash(cx, state, key)?).into_iter().flatten() {
                    if equal(cx, &self.entries[at as usize].0, key)? {
                        return Ok(Some(at as usize));
                    }
                }
                Ok(None)
            }
            None => {
                for (at, (other, _)) in self.entries.iter().enumerate() {
                    if equal(cx, other, key)? {
                        return Ok(Some(at));
                    }
                }
                Ok(None)
            }
        }
    }

    fn find_text(&self, cx: &Cx, key: &str) -> Result<Option<usize>> {
        let is = |at: usize| matches!(&self.entries[at].0, Value::Text(text) if **text == *key);
        cx.budget.copy(key.len())?;
        Ok(match &self.index {
            Some((state, index)) => {
                index.get(&hash_text(state, key)).into_iter().flatten().map(|at| *at as usize).find(|at| is(*at))
            }
            None => (0..self.entries.len()).find(|at| is(*at)),
        })
    }

    pub(in super::super) fn get(&self, cx: &Rc<Cx>, key: &Value) -> Result<Option<&Value>> {
        Ok(self.find(cx, key)?.map(|at| &self.entries[at].1))
    }

    pub(in super::super) fn get_text(&self, cx: &Cx, key: &str) -> Result<Option<&Value>> {
        Ok(self.find_text(cx, key)?.map(|at| &self.entries[at].1))
    }

    pub(in super::super) fn entries(&self) -> &[(Value, Value)] {
        &self.entries
    }

    pub(in super::super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(in super::super) fn depth(&self) -> u32 {
        self.depth
    }
}

fn hash_text(state: &RandomState, text: &str) -> u64 {
    state.hash_one(text)
}

/// Equal keys have equal hashes.
fn hash(cx: &Rc<Cx>, state: &RandomState, key: &Value) -> Result<u64> {
    let mut hasher = state.build_hasher();
    match key {
        Value::Text(text) => return Ok(hash_text(state, text)),
        Value::Bool(value) => i128::from(*value).hash(&mut hasher),
        Value::Int(number) => number.hash(&mut hasher),
        Value::Float(number) if number.fract() == 0.0 && number.abs() < 1e38 => (*number as i128).hash(&mut hasher),
        Value::Float(number) => number.to_bits().hash(&mut hasher),
        Value::Tuple(tuple) => {
            cx.budget.steps(tuple.items.len() as u64)?;
            for item in &tuple.items {
                hash(cx, state, item)?.hash(&mut hasher);
            }
        }
        other => other.type_name().hash(&mut hasher),
    }
    Ok(hasher.finish())
}
