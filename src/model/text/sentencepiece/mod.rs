//! A SentencePiece model file as the `tokenizer.json` that gives the same ids. ([`hub`] is for models that transformers reads,
//! which gives other ids for some texts.)
//!
//! What is done to a text, in SentencePiece's order: characters are rewritten by the precompiled map; spaces are removed
//! from both ends and runs of them become one, if the model wants that; a space is put in front, if it wants that; spaces
//! become `▁`; symbols that the user of the trainer defined are cut out as they are; the rest is cut by BPE or unigram. A
//! character that is no piece becomes its bytes, or the unknown piece.
//!
//! Two things remain that the library does its own way, with models that rewrite characters: a mark on a character that
//! is rewritten is dropped, and of equally good cuts by unigram it may take another.
//! As with every tokenizer of transformers, text that spells a control piece (`</s>`) is that piece. SentencePiece itself
//! would cut it like any other text.
//! Source: `src/normalizer.cc`, `bpe_model.cc` and `unigram_model.cc` of SentencePiece; merges as
//! `transformers/convert_slow_tokenizer.py` recovers them.

mod charsmap;
pub mod hub;
mod proto;

use std::collections::{HashMap, HashSet};

use base64::prelude::{BASE64_STANDARD, Engine as _};
pub use proto::{Algorithm, Kind, Model, Piece};
use serde_json::{Map, Value, json};

use crate::engine::TextAssets;

/// What stands for a space in pieces.
pub const SPACE: &str = "▁";

/// Bytes of a piece at most; trainers allow 16 characters by default. The work per piece grows with their square.
const MAX_PIECE_BYTES: usize = 512;

/// Merges for each piece on average at most; trained ones have two or three.
const MAX_MERGES: usize = 8;

/// What a tokenizer's configuration says beyond the model file.
#[derive(Debug, Default)]
pub struct Extra {
    /// Tokens by id: new ones behind the pieces, or other names for pieces that were left free for them.
    pub tokens: Vec<ExtraToken>,
    /// Whether the beginning-of-sequence token is put in front where special tokens are asked for.
    pub add_bos: bool,
    /// Whether the end-of-sequence token is put behind where special tokens are asked for.
    pub add_eos: bool,
}

/// A token that the model file does not know under its name.
#[derive(Debug)]
pub struct ExtraToken {
    /// Its id.
    pub id: usize,
    /// Its text.
    pub text: String,
    /// Whether it is no text to be read.
    pub special: bool,
}

/// The tokenizer and the special tokens of a model file. The error is a sentence without the file's name.
pub fn read(bytes: &[u8], extra: &Extra) -> Result<TextAssets, String> {
    of_model(&Model::read(bytes)?, extra)
}

/// The same of a model whose pieces come from elsewhere.
pub fn of_model(model: &Model, extra: &Extra) -> Result<TextAssets, String> {
    check(model)?;
    let tokenizer = tokenizer_json(model, extra)?;
    let mut assets =
        TextAssets { tokenizer_json: Some(tokenizer.to_string().into_bytes().into()), ..Default::default() };
    for (variable, id) in [
        ("bos_token", model.bos_id),
        ("eos_token", model.eos_id),
        ("unk_token", model.unk_id),
        ("pad_token", model.pad_id),
    ] {
        if let Some(piece) = special(model, id) {
            assets.template_variables.insert(variable.into(), piece.text.into());
        }
    }
    Ok(assets)
}

/// Refuses what would be cut otherwise than SentencePiece does.
fn check(model: &Model) -> Result<(), String> {
    if let Algorithm::Other(number) = model.algorithm {
        return Err(format!("has model type {number}, expected 1 (unigram) or 2 (BPE)"));
    }
    if model.whitespace_as_suffix {
        return Err("has treat_whitespace_as_suffix = true, which is not supported".into());
    }
    if !model.escape_whitespaces {
        return Err("has escape_whitespaces = false, which is not supported".into());
    }
    if let Some(piece) = model.pieces.iter().find(|piece| piece.kind == Kind::Unused) {
        return Err(format!("has an unused piece {:?}, which is not supported", piece.text));
    }
    for Piece { text, score, .. } in &model.pieces {
        if text.is_empty() || text.len() > MAX_PIECE_BYTES {
            return Err(format!("has a piece of {} bytes, expected 1 to {MAX_PIECE_BYTES}", text.len()));
        }
        if !score.is_finite() {
            return Err(format!("has a piece {text:?} with score {score}"));
        }
    }
    if !model.charsmap.is_empty() {
        charsmap::check(model.charsmap)?;
    }
    if usize::try_from(model.unk_id).map_or(true, |id| model.pieces.get(id).is_none_or(|p| p.kind != Kind::Unknown)) {
        return Err(format!("has unk_id {}, which is no piece of that type", model.unk_id));
    }
    Ok(())
}

fn special<'a>(model: &Model<'a>, id: i64) -> Option<Piece<'a>> {
    let piece = model.pieces.get(usize::try_from(id).ok()?)?;
    matches!(piece.kind, Kind::Control | Kind::Unknown | Kind::UserDefined).then(|| piece.clone())
}

fn tokenizer_json(model: &Model, extra: &Extra) -> Result<Value, String> {
    let mut names: Vec<String> = model.pieces.iter().map(|piece| piece.text.to_owned()).collect();
    let mut tokens = extra.tokens.iter().collect::<Vec<_>>();
    tokens.sort_by_key(|token| token.id);
    for token in &tokens {
        let count = names.len();
        match names.get_mut(token.id) {
            Some(name) => name.clone_from(&token.text),
            None if token.id == count => names.push(token.text.clone()),
            None => return Err(format!("token {:?} has id {}, but there are {count} pieces", token.text, token.id)),
        }
    }
    let mut seen = HashMap::with_capacity(names.len());
    for (id, name) in names.iter().enumerate() {
        if let Some(other) = seen.insert(name.as_str(), id) {
            return Err(format!("token {name:?} has two ids, {other} and {id}"));
        }
    }
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added_tokens(model, &names, &tokens),
        "normalizer": normalizer(model),
        "pre_tokenizer": pre_tokenizer(model),
        "post_processor": post_processor(model, extra, &names)?,
        "decoder": decoder(model),
        "model": match model.algorithm {
            Algorithm::Bpe => bpe(model, &names)?,
            _ => unigram(model, &names),
        },
    }))
}

/// Tokens that are cut out of a text before all else. Symbols that the user of the trainer defined are none of them, since
/// the space in front would go missing before one and come back after each; see [`pre_tokenizer`].
fn added_tokens(model: &Model, names: &[String], extra: &[&ExtraToken]) -> Vec<Value> {
    let extra: HashMap<usize, bool> = extra.iter().map(|token| (token.id, token.special)).collect();
    let added = names.iter().enumerate().filter_map(|(id, name)| {
        let kind = model.pieces.get(id).map(|piece| piece.kind);
        let special = match (extra.get(&id), kind) {
            (Some(&special), _) => special,
            (None, Some(Kind::Control | Kind::Unknown)) => true,
            _ => return None,
        };
        Some(json!({
            "id": id, "content": name, "special": special, "normalized": false,
            "single_word": false, "lstrip": false, "rstrip": false,
        }))
    });
    added.collect()
}

fn normalizer(model: &Model) -> Value {
    let replace = |pattern: Value, content: &str| json!({"type": "Replace", "pattern": pattern, "content": content});
    let mut steps = Vec::new();
    if !model.charsmap.is_empty() {
        // The library applies the map to what a reader sees as one character, and where that is long to each code point
        // alone. So letters and their marks must have come together before.
        if model.normalization.contains("nfkc") {
            steps.push(json!({"type": "NFC"}));
        }
        let map = BASE64_STANDARD.encode(model.charsmap);
        steps.push(json!({"type": "Precompiled", "precompiled_charsmap": map}));
    }
    if model.remove_extra_whitespaces {
        steps.push(replace(json!({"Regex": r"\A +"}), ""));
        steps.push(replace(json!({"Regex": " {2,}"}), " "));
    }
    if model.add_dummy_prefix {
        steps.push(json!({"type": "Prepend", "prepend": SPACE}));
    }
    steps.push(replace(json!({"String": " "}), SPACE));
    if model.remove_extra_whitespaces {
        // Behind the text, what stood there as `▁` is a space too.
        steps.push(replace(json!({"Regex": format!(r"{SPACE}+\z")}), ""));
    }
    json!({"type": "Sequence", "normalizers": steps})
}

/// Cuts out user-defined symbols, the longest where several begin; and cuts texts that spell a byte's piece (`<0x41>`), for
/// the library would take those for the piece, where no other piece is cut by it.
fn pre_tokenizer(model: &Model) -> Value {
    let split = |pattern: &str, behavior: &str| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": false});
    let mut symbols: Vec<_> = symbols(model).collect();
    symbols.sort_by_key(|text| std::cmp::Reverse(text.len()));
    let mut steps = Vec::new();
    if !symbols.is_empty() {
        let patterns: Vec<_> = symbols.into_iter().map(escape).collect();
        steps.push(split(&patterns.join("|"), "Isolated"));
    }
    if model.byte_fallback && !model.pieces.iter().any(|p| p.kind == Kind::Normal && p.text.contains("<0")) {
        steps.push(split("<(?=0x[0-9A-F]{2}>)", "MergedWithPrevious"));
    }
    if steps.is_empty() { Value::Null } else { json!({"type": "Sequence", "pretokenizers": steps}) }
}

fn symbols<'a>(model: &Model<'a>) -> impl Iterator<Item = &'a str> {
    model.pieces.iter().filter(|piece| piece.kind == Kind::UserDefined).map(|piece| piece.text)
}

/// A text as a pattern that matches nothing else.
fn escape(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.chars().map(|c| if plain(c) { c.to_string() } else { format!(r"\x{{{:X}}}", u32::from(c)) }).collect()
}

fn post_processor(model: &Model, extra: &Extra, names: &[String]) -> Result<Value, String> {
    let token =
        |wanted: bool, id: i64, what: &str| match usize::try_from(id).ok().and_then(|id| Some((id, names.get(id)?))) {
            _ if !wanted => Ok(None),
            Some(found) => Ok(Some(found)),
            None => Err(format!("has no {what} piece, but the tokenizer's configuration wants it added")),
        };
    let (bos, eos) = (token(extra.add_bos, model.bos_id, "bos")?, token(extra.add_eos, model.eos_id, "eos")?);
    if bos.is_none() && eos.is_none() {
        return Ok(Value::Null);
    }
    let piece = |(_, name): (usize, &String)| json!({"SpecialToken": {"id": name, "type_id": 0}});
    let around = |sequence: &str, type_id: usize| {
        let sequence = json!({"Sequence": {"id": sequence, "type_id": type_id}});
        bos.map(piece).into_iter().chain([sequence]).chain(eos.map(piece)).collect::<Vec<_>>()
    };
    let tokens: Map<_, _> = bos
        .into_iter()
        .chain(eos)
        .map(|(id, name)| (name.clone(), json!({"id": name, "ids": [id], "tokens": [name]})))
        .collect();
    let pair = [around("A", 0), around("B", 1)].concat();
    Ok(json!({
        "type": "TemplateProcessing", "single": around("A", 0), "pair": pair,
        "special_tokens": tokens,
    }))
}

fn decoder(model: &Model) -> Value {
    let mut steps = vec![json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "})];
    if model.byte_fallback {
        steps.push(json!({"type": "ByteFallback"}));
    }
    steps.push(json!({"type": "Fuse"}));
    if model.add_dummy_prefix {
        steps.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    json!({"type": "Sequence", "decoders": steps})
}

fn unigram(model: &Model, names: &[String]) -> Value {
    let score = |id: usize| model.pieces.get(id).map_or(0.0, |piece| f64::from(piece.score));
    let vocabulary: Vec<_> = names.iter().enumerate().map(|(id, name)| json!([name, score(id)])).collect();
    json!({"type": "Unigram", "unk_id": model.unk_id, "vocab": vocabulary, "byte_fallback": model.byte_fallback})
}

/// Every pair of pieces that together are a piece is a merge, the better scored the earlier.
fn bpe(model: &Model, names: &[String]) -> Result<Value, String> {
    // Pieces that text is cut into. Others are never the outcome or the part of a merge.
    let scores: HashMap<&str, f32> =
        model.pieces.iter().filter(|p| p.kind == Kind::Normal).map(|p| (p.text, p.score)).collect();
    // A symbol is a word that is a token as a whole. So may be other words, which must be what merging makes of them. What merging
    // does not make of its own text it makes nowhere: within a piece the better pair is the same whatever stands around it.
    let whole_words = symbols(model).next().is_some();
    let is_never_made = |piece: &&Piece| whole_words && piece.kind == Kind::Normal && merged(piece.text, &scores) != 1;
    let never_made: HashSet<&str> = model.pieces.iter().filter(is_never_made).map(|piece| piece.text).collect();
    let is_made = |text: &str| scores.contains_key(text) && !never_made.contains(text);
    let mut merges = Vec::new();
    for (id, piece) in model.pieces.iter().enumerate().filter(|(_, piece)| is_made(piece.text)) {
        let cuts = piece.text.char_indices().skip(1).map(|(at, _)| piece.text.split_at(at));
        let pairs = cuts.filter(|(left, right)| is_made(left) && is_made(right));
        merges.extend(pairs.map(|pair| (piece.score, id, pair)));
        if merges.len() > MAX_MERGES * model.pieces.len() {
            return Err(format!("has pieces that can be made in more than {MAX_MERGES} ways on average"));
        }
    }
    // Of pieces with the same score the first comes first, and of its pairs the one with the shorter left part.
    merges.sort_by(|(a, ..), (b, ..)| b.total_cmp(a));
    let merges: Vec<_> = merges.iter().map(|(_, _, (left, right))| json!([left, right])).collect();
    let known = names
        .iter()
        .enumerate()
        .filter(|(id, _)| model.pieces.get(*id).is_none_or(|piece| !never_made.contains(piece.text)));
    let vocabulary: Map<_, _> = known.map(|(id, name)| (name.clone(), id.into())).collect();
    Ok(json!({
        "type": "BPE", "dropout": null, "unk_token": names[model.unk_id as usize], "continuing_subword_prefix": null,
        "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": model.byte_fallback,
        "ignore_merges": whole_words, "vocab": vocabulary, "merges": merges,
    }))
}

/// Into how many pieces merging makes of a text, best pair first.
fn merged(text: &str, scores: &HashMap<&str, f32>) -> usize {
    let mut cuts: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
    loop {
        let pairs = cuts.windows(3).enumerate().filter_map(|(i, w)| Some((*scores.get(&text[w[0]..w[2]])?, i)));
        // The first of equal ones, as maxima are the last.
        let Some((_, best)) = pairs.max_by(|(a, i), (b, j)| a.total_cmp(b).then(j.cmp(i))) else {
            return cuts.len() - 1;
        };
        cuts.remove(best + 1);
    }
}

#[cfg(test)]
mod tests;
