//! The wish to have a completion's answer scored without its thinking.
//!
//! Invariant: either both marks are given, or neither is and the model's own count; what is off has none.

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};

/// Takes a completion's thinking out before it is scored, or leaves it in where the model's default takes it out. See
/// `AnswerOnly` in `proto/reward/v1/reward.proto`.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct AnswerOnly {
    /// Whether the whole completion is scored, whatever the model's default.
    pub off: bool,
    /// What a thinking begins with; empty for the model's own mark.
    pub open: String,
    /// What it ends with; empty for the model's own mark.
    pub close: String,
}

impl AnswerOnly {
    /// The whole completion is scored.
    pub const OFF: Self = Self { off: true, open: String::new(), close: String::new() };
}

/// As a file has it: `true`, `false`, or an object of `open` and `close`; null is none.
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
                Ok(AnswerOnlyField(Some(if wished { AnswerOnly::default() } else { AnswerOnly::OFF })))
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
