//! Text assets of a GGUF file: a `tokenizer.json` built from its vocabulary and merges, its chat template, its special
//! tokens.

use serde_json::{Map, Value, json};

use crate::engine::TextAssets;
use crate::model::checkpoint::GgufFile;
use crate::model::error::ModelError;

/// Token types, as `tokenizer.ggml.token_type` numbers them.
const CONTROL: usize = 3;
const USER_DEFINED: usize = 4;

/// How text is cut before byte pairs are merged, by `tokenizer.ggml.pre`. A new one is a line here; a wrong one gives
/// other tokens without any sign of it, so an unknown name is refused.
const PRE_TOKENIZERS: &[(&str, Rule)] =
    &[("gpt-2", gpt_2), ("smollm", smollm), ("llama-bpe", llama_bpe), ("qwen2", qwen2)];

type Rule = fn() -> PreTokenizer;

struct PreTokenizer {
    json: Value,
    normalizer: Value,
    /// Whether a word that is a token as a whole is taken as it is, without looking at merges.
    ignore_merges: bool,
    /// Whether text begins with the beginning-of-sequence token where the file does not say. Source: `load` of
    /// `llama-vocab.cpp` in llama.cpp.
    add_bos: bool,
}

fn byte_level(use_regex: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex})
}

fn gpt_2() -> PreTokenizer {
    PreTokenizer { json: byte_level(true), normalizer: Value::Null, ignore_merges: false, add_bos: false }
}

/// Every digit is a word of its own.
fn smollm() -> PreTokenizer {
    let digits = json!({"type": "Digits", "individual_digits": true});
    PreTokenizer {
        json: json!({"type": "Sequence", "pretokenizers": [digits, byte_level(true)]}),
        normalizer: Value::Null,
        ignore_merges: false,
        add_bos: false,
    }
}

/// The pattern of Llama 3: digits by threes from the left.
fn llama_bpe() -> PreTokenizer {
    let json = pattern(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    );
    PreTokenizer { json, normalizer: Value::Null, ignore_merges: true, add_bos: true }
}

/// The pattern of Qwen 2 to 3: every digit is a word of its own. Letters and their marks come together before.
fn qwen2() -> PreTokenizer {
    let json = pattern(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    );
    PreTokenizer { json, normalizer: json!({"type": "NFC"}), ignore_merges: false, add_bos: false }
}

fn pattern(regex: &str) -> Value {
    let split = json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
    json!({"type": "Sequence", "pretokenizers": [split, byte_level(false)]})
}

/// Reads the text assets.
pub fn read(file: &GgufFile) -> Result<TextAssets, ModelError> {
    let Some(tokens) = file.strings("tokenizer.ggml.tokens")? else { return Ok(TextAssets::default()) };
    let mut assets = TextAssets {
        tokenizer_json: Some(tokenizer_json(file, &tokens)?.to_string().into_bytes().into()),
        chat_template: file.string("tokenizer.chat_template")?.map(str::to_owned),
        ..TextAssets::default()
    };
    for (variable, key) in [
        ("bos_token", "tokenizer.ggml.bos_token_id"),
        ("eos_token", "tokenizer.ggml.eos_token_id"),
        ("unk_token", "tokenizer.ggml.unknown_token_id"),
        ("pad_token", "tokenizer.ggml.padding_token_id"),
    ] {
        if let Some(id) = file.integer(key)? {
            assets.template_variables.insert(variable.into(), token(file, &tokens, key, id)?.into());
        }
    }
    Ok(assets)
}

fn tokenizer_json(file: &GgufFile, tokens: &[&str]) -> Result<Value, ModelError> {
    let malformed = |reason: String| ModelError::malformed(file.path(), reason);
    let model = file.string("tokenizer.ggml.model")?.unwrap_or_default();
    if model != "gpt2" {
        return Err(malformed(format!("tokenizer.ggml.model is {model:?}, expected \"gpt2\" (byte-level BPE)")));
    }
    let pre = file.string("tokenizer.ggml.pre")?.unwrap_or_default();
    let Some((_, pre_tokenizer)) = PRE_TOKENIZERS.iter().find(|(name, _)| *name == pre) else {
        let known: Vec<_> = PRE_TOKENIZERS.iter().map(|(name, _)| *name).collect();
        return Err(malformed(format!("tokenizer.ggml.pre is {pre:?}; known: {}", known.join(", "))));
    };
    let PreTokenizer { json: pre_tokenizer, normalizer, ignore_merges, add_bos } = pre_tokenizer();
    let types = file.integers("tokenizer.ggml.token_type")?.unwrap_or_default();
    let added: Vec<Value> = types
        .iter()
        .zip(tokens)
        .enumerate()
        .filter(|(_, (kind, _))| matches!(**kind, CONTROL | USER_DEFINED))
        .map(|(id, (&kind, content))| {
            json!({
                "id": id, "content": content, "special": kind == CONTROL,
                "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            })
        })
        .collect();
    let merges = file
        .strings("tokenizer.ggml.merges")?
        .ok_or_else(|| malformed("no metadata \"tokenizer.ggml.merges\"".into()))?
        .into_iter()
        .map(|merge| merge.split_once(' ').ok_or_else(|| malformed(format!("merge {merge:?} is not a pair"))))
        .collect::<Result<Vec<_>, _>>()?;
    let vocabulary: Map<String, Value> =
        tokens.iter().enumerate().map(|(id, content)| ((*content).to_owned(), id.into())).collect();
    if vocabulary.len() != tokens.len() {
        return Err(malformed("tokenizer.ggml.tokens has the same token twice".into()));
    }
    let post_processor = if file.boolean("tokenizer.ggml.add_bos_token")?.unwrap_or(add_bos) {
        begin_with_bos(file, tokens)?
    } else {
        Value::Null
    };
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": post_processor,
        "decoder": byte_level(true),
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": ignore_merges, "vocab": vocabulary, "merges": merges,
        },
    }))
}

/// Puts the beginning-of-sequence token in front where special tokens are asked for.
fn begin_with_bos(file: &GgufFile, tokens: &[&str]) -> Result<Value, ModelError> {
    let key = "tokenizer.ggml.bos_token_id";
    let id = file.integer(key)?.ok_or_else(|| {
        ModelError::malformed(
            file.path(),
            format!("text is to begin with the beginning-of-sequence token, but there is no {key:?}"),
        )
    })?;
    let bos = token(file, tokens, key, id)?;
    let special = json!({"SpecialToken": {"id": bos, "type_id": 0}});
    Ok(json!({
        "type": "TemplateProcessing",
        "single": [special, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [special, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {bos: {"id": bos, "ids": [id], "tokens": [bos]}},
    }))
}

fn token<'a>(file: &GgufFile, tokens: &[&'a str], key: &str, id: usize) -> Result<&'a str, ModelError> {
    tokens.get(id).copied().ok_or_else(|| {
        ModelError::malformed(file.path(), format!("{key} is {id}, but there are only {} tokens", tokens.len()))
    })
}

#[cfg(test)]
mod tests {
    use candle_core::quantized::gguf_file::Value as Field;

    use super::*;
    use crate::model::checkpoint::gguf::tests::write;

    fn texts(items: &[&str]) -> Field {
        Field::Array(items.iter().map(|item| Field::String((*item).into())).collect())
    }

    fn read_with(extra: &[(&str, Field)]) -> Result<TextAssets, ModelError> {
        let said = ("tokenizer.ggml.add_bos_token", Field::Bool(true));
        read_fields(&[&[said], extra].concat())
    }

    fn read_fields(extra: &[(&str, Field)]) -> Result<TextAssets, ModelError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("small.gguf");
        let mut fields = vec![
            ("tokenizer.ggml.model", Field::String("gpt2".into())),
            ("tokenizer.ggml.pre", Field::String("smollm".into())),
            ("tokenizer.ggml.tokens", texts(&["<s>", "<tool>", "a", "b", "ab", "1"])),
            ("tokenizer.ggml.token_type", Field::Array([3, 4, 1, 1, 1, 1].map(Field::I32).to_vec())),
            ("tokenizer.ggml.merges", texts(&["a b"])),
            ("tokenizer.ggml.bos_token_id", Field::U32(0)),
        ];
        fields.extend(extra.iter().cloned());
        write(&path, &fields, &[("output_norm.weight", &[8])]);
        read(&GgufFile::open(&path).unwrap())
    }

    fn refused(extra: &[(&str, Field)]) -> String {
        read_with(extra).unwrap_err().to_string()
    }

    /// The tokenizers crate is the sidecar's.
    #[cfg(feature = "sidecar")]
    #[test]
    fn the_tokenizer_tokenises() {
        let expected = [0, 4, 5, 5, 1];
        for (pre, _) in PRE_TOKENIZERS {
            let assets = read_with(&[("tokenizer.ggml.pre", Field::String((*pre).into()))]).unwrap();
            assert_eq!(assets.template_variables["bos_token"], "<s>");
            let tokenizer = tokenizers::Tokenizer::from_bytes(assets.tokenizer_json.unwrap()).unwrap();
            assert_eq!(tokenizer.encode("ab11<tool>", true).unwrap().get_ids(), expected, "{pre}");
            assert_eq!(tokenizer.encode("ab11<tool>", false).unwrap().get_ids(), &expected[1..], "{pre}");
        }
    }

    /// As llama.cpp has it: files of Llama 3 often leave out what is true of every Llama 3.
    #[test]
    fn where_the_file_does_not_say_the_pre_tokenizer_does() {
        for (pre, expected) in [("gpt-2", false), ("smollm", false), ("llama-bpe", true), ("qwen2", false)] {
            let begins = |said: &[(&str, Field)]| {
                let pre = ("tokenizer.ggml.pre", Field::String(pre.into()));
                let assets = read_fields(&[&[pre], said].concat()).unwrap();
                let json: Value = serde_json::from_slice(&assets.tokenizer_json.unwrap()).unwrap();
                !json["post_processor"].is_null()
            };
            assert_eq!(begins(&[]), expected, "{pre}");
            for said in [true, false] {
                assert_eq!(begins(&[("tokenizer.ggml.add_bos_token", Field::Bool(said))]), said, "{pre}");
            }
        }
    }

    #[test]
    fn what_is_not_known_is_refused_by_name() {
        assert!(
            refused(&[("tokenizer.ggml.pre", Field::String("tekken".into()))]).contains("\"tekken\"; known: gpt-2")
        );
        assert!(refused(&[("tokenizer.ggml.model", Field::String("llama".into()))]).contains("byte-level BPE"));
        assert!(refused(&[("tokenizer.ggml.tokens", texts(&["a", "a"]))]).contains("twice"));
        assert!(refused(&[("tokenizer.ggml.merges", texts(&["ab"]))]).contains("not a pair"));
        assert!(refused(&[("tokenizer.ggml.eos_token_id", Field::U32(99))]).contains("eos_token_id is 99"));
    }
}
