//! Patterns of module names with a value each, as `rank_pattern` and `alpha_pattern` have them.
//!
//! Source: `get_pattern_key` of PEFT: of `re.match(rf"(.*\.)?({key})$", module)` the first that holds counts, in the
//! order of the file.

use std::fmt;

use regex::Regex;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

/// The patterns, in the order of the file.
#[derive(Debug)]
pub struct Patterns<T>(Vec<(String, T)>);

impl<T> Default for Patterns<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Copy> Patterns<T> {
    /// All values.
    pub fn values(&self) -> impl Iterator<Item = T> {
        self.0.iter().map(|(_, value)| *value)
    }

    /// Ready to be asked; the error is a pattern that is no regular expression here.
    pub fn compile(&self) -> Result<Compiled<T>, String> {
        let compile = |(pattern, value): &(String, T)| {
            let whole = format!(r"^(?:.*\.)?(?:{pattern})$");
            Regex::new(&whole).map(|regex| (regex, *value)).map_err(|_| pattern.clone())
        };
        self.0.iter().map(compile).collect::<Result<_, _>>().map(Compiled)
    }
}

/// Patterns, ready to be asked.
#[derive(Debug)]
pub struct Compiled<T>(Vec<(Regex, T)>);

impl<T: Copy> Compiled<T> {
    /// The value for a module.
    pub fn of(&self, module: &str) -> Option<T> {
        self.0.iter().find(|(regex, _)| regex.is_match(module)).map(|(_, value)| *value)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Patterns<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(InOrder(std::marker::PhantomData))
    }
}

/// Keeps the order of a map, which is lost in serde's own.
struct InOrder<T>(std::marker::PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for InOrder<T> {
    type Value = Patterns<T>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object of patterns")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut patterns = Vec::new();
        while let Some(entry) = map.next_entry()? {
            patterns.push(entry);
        }
        Ok(Patterns(patterns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(json: &str) -> Result<Compiled<usize>, String> {
        serde_json::from_str::<Patterns<usize>>(json).unwrap().compile()
    }

    #[test]
    fn the_first_that_fits_counts() {
        let found = patterns(r#"{"0.q_proj": 2, "(q|k)_proj": 4, "^model.norm": 6, "q_proj": 8}"#).unwrap();
        assert_eq!(found.of("layers.0.q_proj"), Some(2));
        assert_eq!(found.of("layers.1.q_proj"), Some(4));
        assert_eq!((found.of("layers.10.q_proj"), found.of("q_proj")), (Some(4), Some(4)));
        assert_eq!((found.of("model.norm"), found.of("a.model.norm")), (Some(6), None));
        assert_eq!(found.of("other_q_projection"), None);
        assert_eq!(patterns(r#"{"(?<!a)b": 1}"#).unwrap_err(), "(?<!a)b");
    }
}
