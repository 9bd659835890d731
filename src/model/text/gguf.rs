//! Text assets of a GGUF file: a `tokenizer.json` built from its vocabulary and merges, its chat template, its special
//! tokens.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::sentencepiece::{self, Algorithm, Extra, Kind, Model, Piece, SPACE};
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
    let tokenizer_json = match file.string("tokenizer.ggml.model")?.unwrap_or_default() {
        "gpt2" => byte_level_bpe(file, &tokens)?.map(|tokenizer| tokenizer.to_string().into_bytes().into()),
        "llama" => sentencepiece(file, &tokens)?,
        other => {
            ids_only(file, "tokenizer.ggml.model", other, "gpt2, llama");
            None
        }
    };
    let mut assets = TextAssets {
        tokenizer_json,
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

/// Says why no text is taken: the model itself is as good as any, for whoever sends ids.
fn ids_only(file: &GgufFile, key: &str, found: &str, known: &str) {
    let path = file.path().display();
    tracing::warn!(
        "{path}: {key} is {found:?}, and how that cuts text is not known (known: {known}); only token ids are taken"
    );
}

/// A SentencePiece vocabulary as llama.cpp keeps it: pieces, scores and types, without the rules that characters are rewritten
/// by, which such models have none of. Source: `llm_tokenizer_spm` and `load` of `llama-vocab.cpp` in llama.cpp.
fn sentencepiece(file: &GgufFile, tokens: &[&str]) -> Result<Option<Arc<[u8]>>, ModelError> {
    let malformed = |reason: String| ModelError::malformed(file.path(), reason);
    let scores = file.floats("tokenizer.ggml.scores")?.unwrap_or_default();
    let types = file.integers("tokenizer.ggml.token_type")?.unwrap_or_default();
    if scores.len() != tokens.len() || types.len() != tokens.len() {
        let reason = format!("has {} tokens, {} scores and {} types", tokens.len(), scores.len(), types.len());
        return Err(malformed(reason));
    }
    let kind = |number: usize| {
        let kinds = [Kind::Normal, Kind::Unknown, Kind::Control, Kind::UserDefined, Kind::Unused, Kind::Byte];
        number.checked_sub(1).and_then(|index| kinds.get(index).copied())
    };
    let kinds = types.iter().zip(tokens).map(|(&number, text)| {
        kind(number).ok_or_else(|| malformed(format!("token {text:?} has type {number}, expected 1 to 6")))
    });
    let kinds: Vec<Kind> = kinds.collect::<Result<_, _>>()?;
    // In files for llama.cpp these alone have spaces as spaces. Source: `_create_vocab_sentencepiece` of `convert_hf_to_gguf.py`.
    let texts: Vec<Cow<str>> = tokens
        .iter()
        .zip(&kinds)
        .map(|(text, kind)| match kind {
            Kind::UserDefined => text.replace(' ', SPACE).into(),
            _ => Cow::from(*text),
        })
        .collect();
    let mut pieces = Vec::with_capacity(tokens.len());
    for ((text, score), kind) in texts.iter().zip(scores).zip(kinds) {
        // What fills a vocabulary up is in no text.
        let kind = if kind == Kind::Unused { Kind::Control } else { kind };
        pieces.push(Piece { text, score: score as f32, kind });
    }
    let id = |key: &str, absent: i64| -> Result<i64, ModelError> {
        Ok(file.integer(key)?.map_or(absent, |id| i64::try_from(id).unwrap_or(-1)))
    };
    let unk_id = id("tokenizer.ggml.unknown_token_id", 0)?;
    // llama.cpp goes by the id alone; Gemma's files say another type of it.
    if let Some(unknown) = usize::try_from(unk_id).ok().and_then(|at| pieces.get_mut(at)) {
        unknown.kind = Kind::Unknown;
    }
    let model = Model {
        byte_fallback: pieces.iter().any(|piece| piece.kind == Kind::Byte),
        pieces,
        algorithm: Algorithm::Bpe,
        whitespace_as_suffix: false,
        unk_id,
        bos_id: id("tokenizer.ggml.bos_token_id", 1)?,
        eos_id: id("tokenizer.ggml.eos_token_id", 2)?,
        pad_id: id("tokenizer.ggml.padding_token_id", -1)?,
        normalization: "identity",
        charsmap: &[],
        add_dummy_prefix: file.boolean("tokenizer.ggml.add_space_prefix")?.unwrap_or(true),
        remove_extra_whitespaces: file.boolean("tokenizer.ggml.remove_extra_whitespaces")?.unwrap_or(false),
        escape_whitespaces: true,
    };
    let extra = Extra {
        tokens: Vec::new(),
        add_bos: file.boolean("tokenizer.ggml.add_bos_token")?.unwrap_or(true),
        add_eos: file.boolean("tokenizer.ggml.add_eos_token")?.unwrap_or(false),
    };
    let assets =
        sentencepiece::of_model(&model, &extra).map_err(|reason| malformed(format!("its vocabulary {reason}")))?;
    Ok(assets.tokenizer_json)
}

fn byte_level_bpe(file: &GgufFile, tokens: &[&str]) -> Result<Option<Value>, ModelError> {
    let malformed = |reason: String| ModelError::malformed(file.path(), reason);
    let pre = file.string("tokenizer.ggml.pre")?.unwrap_or_default();
    let Some((_, pre_tokenizer)) = PRE_TOKENIZERS.iter().find(|(name, _)| *name == pre) else {
        let known: Vec<_> = PRE_TOKENIZERS.iter().map(|(name, _)| *name).collect();
        ids_only(file, "tokenizer.ggml.pre", pre, &known.join(", "));
        return Ok(None);
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
    Ok(Some(json!({
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
    })))
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
        assert!(refused(&[("tokenizer.ggml.tokens", texts(&["a", "a"]))]).contains("twice"));
        assert!(refused(&[("tokenizer.ggml.merges", texts(&["ab"]))]).contains("not a pair"));
        assert!(refused(&[("tokenizer.ggml.eos_token_id", Field::U32(99))]).contains("eos_token_id is 99"));
    }

    /// Ids are taken whatever is known of text.
    #[test]
    fn a_vocabulary_that_cuts_text_in_an_unknown_way_takes_ids_only() {
        for unknown in [("tokenizer.ggml.pre", "tekken"), ("tokenizer.ggml.model", "rwkv")] {
            let assets = read_with(&[(unknown.0, Field::String(unknown.1.into()))]).unwrap();
            assert!(assets.tokenizer_json.is_none());
            assert_eq!(assets.template_variables["bos_token"], "<s>");
        }
    }

    /// What comes out is what comes out of the model file itself, which `sentencepiece/tests.rs` compares with SentencePiece.
    #[test]
    fn a_sentencepiece_vocabulary_cuts_as_its_model_file() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tokenizer");
        for (name, prefix) in [("bpe", true), ("bpe-no-prefix", false)] {
            let bytes = std::fs::read(format!("{folder}/{name}/tokenizer.model")).unwrap();
            let mut model = Model::read(&bytes).unwrap();
            let symbol = model.pieces.iter_mut().find(|piece| piece.kind == Kind::UserDefined).unwrap();
            symbol.text = "▁▁▁▁";
            let pieces = &model.pieces;
            let written = |piece: &Piece| match piece.kind {
                Kind::UserDefined => piece.text.replace('▁', " "),
                _ => piece.text.to_owned(),
            };
            let kind = |kind: Kind| match kind {
                Kind::Normal => 1,
                Kind::Unknown => 2,
                Kind::Control => 3,
                Kind::UserDefined => 4,
                Kind::Unused => 5,
                Kind::Byte => 6,
            };
            let fields = [
                ("tokenizer.ggml.model", Field::String("llama".into())),
                (
                    "tokenizer.ggml.tokens",
                    Field::Array(pieces.iter().map(|piece| Field::String(written(piece))).collect()),
                ),
                ("tokenizer.ggml.scores", Field::Array(pieces.iter().map(|piece| Field::F32(piece.score)).collect())),
                (
                    "tokenizer.ggml.token_type",
                    Field::Array(pieces.iter().map(|piece| Field::I32(kind(piece.kind))).collect()),
                ),
                ("tokenizer.ggml.bos_token_id", Field::U32(model.bos_id as u32)),
                ("tokenizer.ggml.eos_token_id", Field::U32(model.eos_id as u32)),
                ("tokenizer.ggml.unknown_token_id", Field::U32(model.unk_id as u32)),
                ("tokenizer.ggml.add_space_prefix", Field::Bool(prefix)),
            ];
            let found = read_with(&fields).unwrap();
            let extra = Extra { add_bos: true, ..Extra::default() };
            let expected = sentencepiece::of_model(&model, &extra).unwrap();
            assert_eq!(found.tokenizer_json, expected.tokenizer_json, "{name}");
            assert_eq!(found.template_variables["bos_token"], expected.template_variables["bos_token"]);
            let short = [&fields[..], &[("tokenizer.ggml.scores", Field::Array(vec![Field::F32(0.0)]))]].concat();
            assert!(refused(&short).contains("1 scores"));
            let odd = Field::Array(vec![Field::I32(9); pieces.len()]);
            assert!(refused(&[&fields[..], &[("tokenizer.ggml.token_type", odd)]].concat()).contains("has type 9"));
        }
    }
}
