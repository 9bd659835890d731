//! `vocab.json` and `merges.txt`, as byte-level tokenizers were published before `tokenizer.json`, as the `tokenizer.json` that
//! transformers builds of them.
//!
//! Source: `Qwen2Tokenizer` and `GPT2Tokenizer` of transformers 5.23, and `BPE::read_file` of tokenizers.

use serde_json::{Map, Value, json};

use super::class::Class;

/// How Qwen 2 to 3 cut a text into words.
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// How a class rewrites a text and cuts it into words; `None` for one that has other files.
pub fn words(class: Class, prefix_space: bool) -> Option<(Value, Value)> {
    let byte_level = |use_regex| byte_level(prefix_space, use_regex);
    match class {
        Class::Qwen2 => {
            let split = json!({"type": "Split", "pattern": {"Regex": QWEN2}, "behavior": "Isolated", "invert": false});
            let words = json!({"type": "Sequence", "pretokenizers": [split, byte_level(false)]});
            Some((json!({"type": "NFC"}), words))
        }
        Class::Gpt2 => Some((Value::Null, byte_level(true))),
        Class::Llama | Class::Gemma | Class::InternLm2 | Class::Plain => None,
    }
}

fn byte_level(prefix_space: bool, use_regex: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": prefix_space, "trim_offsets": true, "use_regex": use_regex})
}

/// The tokenizer, without added tokens; `None` for a class that has other files. The error is a sentence without the
/// file's name.
pub fn tokenizer(
    class: Class,
    vocabulary: Map<String, Value>,
    merges: &str,
    prefix_space: bool,
) -> Result<Option<Value>, String> {
    let Some((normalizer, pre_tokenizer)) = words(class, prefix_space) else { return Ok(None) };
    if let Some((token, id)) = vocabulary.iter().find(|(_, id)| id.as_u64().is_none_or(|id| id > u32::MAX.into())) {
        return Err(format!("token {token:?} has id {id}, expected a number of 32 bits"));
    }
    let merges = pairs(merges)?;
    if let Some(part) = merges.iter().flatten().find(|part| !vocabulary.contains_key(**part)) {
        return Err(format!("a merge has {part:?}, which is no token of vocab.json"));
    }
    Ok(Some(json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "post_processor": null,
        "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "decoder": byte_level(true, true),
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
            "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocabulary, "merges": merges,
        },
    })))
}

/// The pairs of `merges.txt`, a line each.
fn pairs(merges: &str) -> Result<Vec<[&str; 2]>, String> {
    let lines = merges.lines().enumerate().filter(|(_, line)| !line.starts_with("#version"));
    lines
        .map(|(at, line)| match line.split(' ').collect::<Vec<_>>()[..] {
            [left, right] => Ok([left, right]),
            _ => Err(format!("line {} of the merges is {line:?}, expected two tokens", at + 1)),
        })
        .collect()
}
