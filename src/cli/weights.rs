//! `--weights a=0.3,b=0.7`.

use std::collections::BTreeMap;

/// Weights by attribute, as the command line spells them.
#[derive(Debug, Clone, PartialEq)]
pub struct Weights(pub BTreeMap<String, f64>);

impl std::str::FromStr for Weights {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut weights = BTreeMap::new();
        for part in text.split(',') {
            let (name, weight) = part.split_once('=').ok_or_else(|| {
                format!("'{part}' is not ATTRIBUTE=WEIGHT; write for example helpfulness=0.3,verbosity=-0.7")
            })?;
            let (name, weight) = (name.trim(), weight.trim());
            if name.is_empty() {
                return Err(format!("'{part}' names no attribute"));
            }
            let number: f64 = weight.parse().map_err(|_| format!("the weight of '{name}' is no number: '{weight}'"))?;
            if weights.insert(name.to_owned(), number).is_some() {
                return Err(format!("attribute '{name}' is given twice"));
            }
        }
        Ok(Self(weights))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_ones() {
        let expected = BTreeMap::from([("a".to_owned(), 0.3), ("b".to_owned(), -7.0)]);
        assert_eq!("a=0.3,b=-7".parse(), Ok(Weights(expected.clone())));
        assert_eq!(" a = 0.3 , b = -7e0 ".parse(), Ok(Weights(expected)));
    }

    #[test]
    fn bad_ones() {
        for bad in ["", "a", "a=", "a=x", "=1", "a=1,,b=2", "a=1,a=2", "a=1,"] {
            assert!(bad.parse::<Weights>().is_err(), "{bad}");
        }
    }
}
