//! A token that a tokenizer cuts out of a text before all else, as `tokenizers.AddedToken` has it.

use serde_json::Value;

/// Such a token. The fields' names are those of `tokenizer.json`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Token {
    /// Its text.
    pub content: String,
    /// Whether it must stand as a word of its own.
    #[serde(default)]
    pub single_word: bool,
    /// Whether it takes the white space before it.
    #[serde(default)]
    pub lstrip: bool,
    /// Whether it takes the white space behind it.
    #[serde(default)]
    pub rstrip: bool,
    /// Whether it is looked for in the normalized text.
    #[serde(default)]
    pub normalized: bool,
    /// Whether it is no text to be read.
    #[serde(default)]
    pub special: bool,
}

impl Token {
    /// A special token that is given as its text.
    pub fn special(content: &str) -> Self {
        let content = content.to_owned();
        Self { content, single_word: false, lstrip: false, rstrip: false, normalized: false, special: true }
    }

    /// A token that is given as an object, which may leave fields out: what is special is not normalized, and the other way
    /// round. `None` where it has no content.
    pub fn object(value: &Value, special: bool) -> Option<Self> {
        let flag = |name: &str| value.get(name).and_then(Value::as_bool);
        let special = flag("special").unwrap_or(special);
        Some(Self {
            content: value.get("content")?.as_str()?.to_owned(),
            single_word: flag("single_word").unwrap_or(false),
            lstrip: flag("lstrip").unwrap_or(false),
            rstrip: flag("rstrip").unwrap_or(false),
            normalized: flag("normalized").unwrap_or(!special),
            special,
        })
    }

    /// A special token in either form.
    pub fn either(value: &Value) -> Option<Self> {
        value.as_str().map(Self::special).or_else(|| Self::object(value, true))
    }
}
