//! The wish to have a completion's answer scored without its thinking.
//!
//! Invariant: either both marks are given, or neither is and the model's own count.

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};

/// Takes a completion's thinking out before it is scored. See `AnswerOnly` in `proto/reward/v1/reward.proto`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AnswerOnly {
    /// What a thinking begins with; empty for the model's own mark.
    pub open: String,
    /// What it ends with; empty for the model's own mark.
    pub close: String,
}

/// As a file has it: `true`, `false` or null, or an object of `open` and `close`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AnswerOnlyField(pub Option<AnswerOnly>);

impl<'de> Deserialize<'de> for AnswerOnlyField {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Field;
        impl<'de> Visitor<'de> for Field {
            type Value = AnswerOnlyField;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("true, false, or an object of open and close")
            }

            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(AnswerOnlyField(None))
            }

            fn visit_bool<E>(self, wished: bool) -> Result<Self::Value, E> {
                Ok(AnswerOnlyField(wished.then(AnswerOnly::default)))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut marks = AnswerOnly::default();
                while let Some(name) = map.next_key::<String>()? {
                    let mark = match name.as_str() {
                        "open" => &mut marks.open,
                        "close" => &mut marks.close,
                        _ => return Err(A::Error::custom(format!("{name}: there are open and close"))),
                    };
                    *mark = map.next_value()?;
                }
                if marks.open.is_empty() || marks.close.is_empty() {
                    return Err(A::Error::custom("give both open and close, or true for the model's own"));
                }
                Ok(AnswerOnlyField(Some(marks)))
            }
        }
        deserializer.deserialize_any(Field)
    }
}
