//! Fields of a row that are not a rollout's.

use serde_json::value::RawValue;

/// What happens to fields that are not a rollout's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ExtraColumns {
    /// The row is rejected: a misspelt field must not go unnoticed.
    #[default]
    Refuse,
    /// They are dropped unread.
    Ignore,
    /// They come back with the answer, as they were written.
    Keep,
}

/// A field that is not a rollout's.
#[derive(Debug)]
pub struct ExtraField {
    /// Its name.
    pub name: String,
    /// Its value: the JSON as it was written.
    pub value: Box<RawValue>,
}
