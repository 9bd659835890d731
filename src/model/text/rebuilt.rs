//! A `tokenizer.json` of which transformers takes vocabulary and merges alone: some of its classes put their own normalizer,
//! pre-tokenizer and flags in place of the file's. Llama 2's published file, for one, puts a space behind every special token,
//! and its class none.
//!
//! The invariant: where the file says what the class says, no byte of it changes.
//!
//! Source: `TokenizersBackend.convert_to_native_format` and the classes' constructors of transformers 5.23.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};

use super::class::Class;

/// A file's fields, as they are written.
type Fields<'a> = BTreeMap<Cow<'a, str>, Box<RawValue>>;

#[derive(serde::Deserialize)]
struct Parts {
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    decoder: Value,
    #[serde(default)]
    model: Kind,
}

#[derive(Default, serde::Deserialize)]
struct Kind {
    #[serde(default)]
    r#type: String,
}

/// The file as a class has it, whose normalizer and pre-tokenizer these are; `None` where it stays as it is. `unknown` is the
/// class's unknown token.
pub fn rebuilt(
    json: &[u8],
    class: Class,
    (normalizer, pre_tokenizer): (Value, Value),
    unknown: &str,
) -> Result<Option<Vec<u8>>, serde_json::Error> {
    let parts: Parts = serde_json::from_slice(json)?;
    // A class that is known to be named by mistake.
    let mistaken = class == Class::Llama && (is_byte_level(&parts.pre_tokenizer) || is_byte_level(&parts.decoder));
    let same = parts.normalizer == normalizer && parts.pre_tokenizer == pre_tokenizer;
    if parts.model.r#type != "BPE" || mistaken || same {
        return Ok(None);
    }
    let spaces = matches!(class, Class::Llama | Class::Gemma);
    let mut file: Fields = serde_json::from_slice(json)?;
    let Some(model) = file.get("model") else { return Ok(None) };
    let mut model: Fields = serde_json::from_str(model.get())?;
    let unknown = if class == Class::Gemma { unknown.into() } else { Value::Null };
    for (name, value) in [
        ("unk_token", unknown),
        ("fuse_unk", spaces.into()),
        ("byte_fallback", spaces.into()),
        ("ignore_merges", false.into()),
    ] {
        model.insert(name.into(), to_raw_value(&value)?);
    }
    let model = to_raw_value(&model)?;
    file.insert("model".into(), model);
    file.insert("normalizer".into(), to_raw_value(&normalizer)?);
    file.insert("pre_tokenizer".into(), to_raw_value(&pre_tokenizer)?);
    serde_json::to_vec(&file).map(Some)
}

/// Whether one of the steps writes bytes as characters.
fn is_byte_level(step: &Value) -> bool {
    let steps = ["pretokenizers", "decoders"].iter().filter_map(|name| step[*name].as_array()).flatten();
    step["type"] == "ByteLevel" || steps.clone().any(is_byte_level)
}
