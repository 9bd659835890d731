//! A SentencePiece model file as the tokenizer that transformers makes of it, by its class. transformers reads pieces and their
//! kinds, byte fallback and the precompiled map; of `add_dummy_prefix` and `remove_extra_whitespaces` it knows nothing: the
//! class says how spaces are treated.
//!
//! The invariant: the ids are those of transformers, even where SentencePiece itself would give others.
//!
//! Source: `SentencePieceExtractor`, `SpmConverter.build_tokenizer_from_spm_proto` and `generate_merges` of transformers 5.23,
//! and the constructors of `LlamaTokenizer` and `GemmaTokenizer`.

use std::collections::BTreeMap;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::{Map, Value, json};

use super::proto::{Algorithm, Kind, Model};
use super::{MAX_MERGES, SPACE, check, decoder, special};
use crate::model::text::token::Token;

/// How a class treats spaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spaces {
    /// `LlamaTokenizer`: where a space is put before the text.
    Llama(Prefix),
    /// `GemmaTokenizer`: a word ends with its space.
    Gemma,
    /// `TokenizersBackend`: a space is a character like others, and characters are rewritten by the model's map.
    Plain,
}

/// Before which parts of a text a space is put.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Prefix {
    /// Before each part between special tokens.
    Always,
    /// Before the text.
    First,
    /// Before none.
    Never,
}

/// What is made of a model file.
#[derive(Debug)]
pub struct Built {
    /// The tokenizer, without added tokens.
    pub tokenizer: Value,
    /// Special tokens that the model file names.
    pub named: Vec<(&'static str, String)>,
    /// Control pieces and symbols that the user of the trainer defined.
    pub extra: Vec<Token>,
}

/// Makes the tokenizer. `renamed` are tokens by id that other names count for. The error is a sentence without the file's
/// name.
pub fn build(bytes: &[u8], spaces: Spaces, renamed: &BTreeMap<u64, Token>) -> Result<Built, String> {
    let model = Model::read(bytes)?;
    check(&model)?;
    let mut ids: BTreeMap<&str, usize> = BTreeMap::new();
    for (id, piece) in model.pieces.iter().enumerate() {
        if let Some(other) = ids.insert(piece.text, id) {
            return Err(format!("token {:?} has two ids, {other} and {id}", piece.text));
        }
    }
    let (normalizer, pre_tokenizer) = match spaces {
        Spaces::Plain => (json!({"type": "Sequence", "normalizers": rewritten(&model)}), Value::Null),
        Spaces::Llama(_) | Spaces::Gemma => spaces.words(),
    };
    let unigram = spaces == Spaces::Plain && model.algorithm == Algorithm::Unigram;
    let network = if unigram { unigram_model(&model) } else { bpe(&model, spaces, &ids, renamed)? };
    let names = [("bos_token", model.bos_id), ("eos_token", model.eos_id), ("unk_token", model.unk_id)];
    let named = names.into_iter().filter(|_| spaces == Spaces::Plain);
    let extra = model.pieces.iter().filter(|piece| matches!(piece.kind, Kind::Control | Kind::UserDefined));
    Ok(Built {
        tokenizer: json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "post_processor": null,
            "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "decoder": decoder(&model), "model": network,
        }),
        named: named.filter_map(|(name, id)| Some((name, special(&model, id)?.text.to_owned()))).collect(),
        extra: extra
            .map(|piece| Token { special: piece.kind == Kind::Control, ..Token::special(piece.text) })
            .collect(),
    })
}

impl Spaces {
    /// How a class rewrites a text and cuts it into words, but for what a model's own map rewrites.
    pub fn words(self) -> (Value, Value) {
        match self {
            Self::Llama(prefix) => {
                let spaces =
                    json!({"type": "Metaspace", "replacement": SPACE, "prepend_scheme": prefix, "split": false});
                (Value::Null, spaces)
            }
            Self::Gemma => {
                let (pattern, behavior) = (json!({"String": " "}), "MergedWithPrevious");
                (space(), json!({"type": "Split", "pattern": pattern, "behavior": behavior, "invert": false}))
            }
            Self::Plain => (space(), Value::Null),
        }
    }
}

fn space() -> Value {
    json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE})
}

fn rewritten(model: &Model) -> Vec<Value> {
    let map = (!model.charsmap.is_empty()).then(|| BASE64_STANDARD.encode(model.charsmap));
    let map = map.map(|map| json!({"type": "Precompiled", "precompiled_charsmap": map}));
    map.into_iter().chain([space()]).collect()
}

fn unigram_model(model: &Model) -> Value {
    let vocabulary: Vec<_> = model.pieces.iter().map(|piece| json!([piece.text, f64::from(piece.score)])).collect();
    json!({"type": "Unigram", "unk_id": model.unk_id, "vocab": vocabulary, "byte_fallback": model.byte_fallback})
}

/// Every two pieces that together are a piece are a merge, whatever their kinds: those of lower ids come first, and of one
/// piece's those with the shorter left part.
fn bpe(
    model: &Model,
    spaces: Spaces,
    ids: &BTreeMap<&str, usize>,
    renamed: &BTreeMap<u64, Token>,
) -> Result<Value, String> {
    let mut merges = Vec::new();
    for piece in &model.pieces {
        let cuts = piece.text.char_indices().skip(1).map(|(at, _)| piece.text.split_at(at));
        merges.extend(cuts.filter(|(left, right)| ids.contains_key(left) && ids.contains_key(right)));
        if merges.len() > MAX_MERGES * model.pieces.len() {
            return Err(format!("has pieces that can be made in more than {MAX_MERGES} ways on average"));
        }
    }
    let unknown = special(model, model.unk_id).map(|piece| piece.text);
    let (unk_token, byte_fallback) = match spaces {
        Spaces::Llama(_) => (None, true),
        Spaces::Gemma => (unknown, true),
        Spaces::Plain => (unknown, model.byte_fallback),
    };
    let name = |id: usize, text: &str| match renamed.get(&(id as u64)) {
        Some(other) if spaces == Spaces::Plain && !ids.contains_key(other.content.as_str()) => other.content.clone(),
        _ => text.to_owned(),
    };
    let vocabulary: Map<_, _> =
        model.pieces.iter().enumerate().map(|(id, piece)| (name(id, piece.text), id.into())).collect();
    Ok(json!({
        "type": "BPE", "dropout": null, "unk_token": unk_token, "continuing_subword_prefix": null,
        "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": byte_fallback, "ignore_merges": false,
        "vocab": vocabulary, "merges": merges,
    }))
}
