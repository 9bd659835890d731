//! The arguments of a call.
//!
//! The invariant: each parameter gets one value at most, and every value goes to a parameter.

use std::sync::Arc;

use super::super::budget::{Error, Result};
use super::Value;

/// The arguments of a call.
#[derive(Default, Clone)]
pub(in super::super) struct Args {
    pub(in super::super) places: Vec<Value>,
    pub(in super::super) named: Vec<(Arc<str>, Value)>,
}

impl Args {
    /// The arguments by the names of a function's parameters, of which the first `required` must be given.
    pub(in super::super) fn bind<const N: usize>(
        self,
        function: &str,
        names: [&str; N],
        required: usize,
    ) -> Result<[Option<Value>; N]> {
        let mut bound: [Option<Value>; N] = std::array::from_fn(|_| None);
        if self.places.len() > N {
            return Err(Error::type_error(format!(
                "{function}() takes at most {N} arguments, {} are given",
                self.places.len()
            )));
        }
        for (place, value) in bound.iter_mut().zip(self.places) {
            *place = Some(value);
        }
        for (name, value) in self.named {
            let at = names.iter().position(|other| **other == *name);
            match at.map(|at| &mut bound[at]) {
                Some(place @ None) => *place = Some(value),
                Some(_) => return Err(Error::type_error(format!("{function}() got two values for '{name}'"))),
                None => return Err(Error::type_error(format!("{function}() has no argument '{name}'"))),
            }
        }
        match bound.iter().take(required).position(Option::is_none) {
            Some(at) => Err(Error::type_error(format!("{function}() lacks its argument '{}'", names[at]))),
            None => Ok(bound),
        }
    }

    /// The same for a function whose arguments have no names.
    pub(in super::super) fn positional<const N: usize>(
        self,
        function: &str,
        required: usize,
    ) -> Result<[Option<Value>; N]> {
        match self.named.first() {
            Some((name, _)) => Err(Error::type_error(format!("{function}() takes no keyword argument '{name}'"))),
            None => self.bind(function, std::array::from_fn(|_| ""), required),
        }
    }
}
