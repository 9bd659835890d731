//! The least number of tokens that a text can become, by its length alone: so that what cannot fit is refused before it is tokenized.
//!
//! The invariant: a text that is refused here would have more tokens than asked for. Each token stands for a bounded number of the
//! text's bytes only where every part of the tokenizer is known to drop nothing and to shorten nothing without a bound; where one is
//! not known, there is no bound, and the text is tokenized:
//! - normalizers may shorten a text. NFC is bounded (see [`NFC_BYTES`]); replacing a string by one that is no shorter, and putting
//!   something in front, do not shorten. Everything else (lower case, accents, compiled tables) is taken for unbounded;
//! - a pre-tokenizer may drop characters, such as white space. Those that only cut, or write bytes or spaces as other characters,
//!   do not;
//! - a model may make one token of a run of unknown characters, or drop it. A BPE model does neither where all bytes are in its
//!   vocabulary and it falls back to them. Where a byte-level vocabulary lacks some bytes, those do not count;
//! - an added token may take in the white space beside it, however much.

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;
use serde_json::Value;

use crate::engine::{ReadPolicy, TextAssets};

/// Most bytes of text that NFC makes one byte of. The text and its normal form have the same canonical decomposition but for its
/// order, and no character has an equivalent of more than four times its length: the test goes through all of them.
const NFC_BYTES: usize = 4;

/// See the module.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TextBound {
    /// Most bytes of text that one token stands for.
    pub(super) bytes_per_token: usize,
    /// The text of the token that is taken off the end of a sequence: it does not count there.
    skipped: Option<String>,
    /// The bytes that do not count, since the vocabulary lacks them.
    uncounted: Vec<u8>,
}

/// As far as it matters here.
#[derive(Deserialize)]
struct TokenizerFile {
    added_tokens: Vec<AddedToken>,
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
    model: Model,
}

#[derive(Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
    lstrip: bool,
    rstrip: bool,
    normalized: bool,
}

#[derive(Deserialize)]
struct Model {
    #[serde(rename = "type")]
    kind: String,
    vocab: HashMap<String, u32>,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    continuing_subword_prefix: Option<String>,
    #[serde(default)]
    end_of_word_suffix: Option<String>,
}

impl TextBound {
    /// The bound of a model's tokenizer; `None` where there is none that can be proved.
    pub fn of(assets: &TextAssets, reads: &ReadPolicy) -> Option<Self> {
        // Whatever is written otherwise than here is not known.
        let file: TokenizerFile = serde_json::from_slice(assets.tokenizer_json.as_deref()?).ok()?;
        let normalized_bytes = file.normalizer.as_ref().map_or(Some(1), shortening)?;
        let byte_level = file.pre_tokenizer.as_ref().map_or(Some(false), keeps_all)?;
        let (longest, uncounted) = file.model.longest_token(byte_level)?;
        // What a normalizer makes of the bytes that count may be bytes that do not.
        if !uncounted.is_empty() && file.normalizer.is_some() {
            return None;
        }
        let longest = longest * normalized_bytes;
        if file.added_tokens.iter().any(|token| token.lstrip || token.rstrip) {
            return None;
        }
        let added = file
            .added_tokens
            .iter()
            .map(|token| token.content.len() * if token.normalized { normalized_bytes } else { 1 });
        // Whatever stands behind such a token counts for nothing, and where it stands only the tokens say.
        if reads.ends_before.is_some() {
            return None;
        }
        let skipped = match reads.skip {
            // Only as an added token is it known how it stands in a text.
            Some(skip) => {
                let token = file.added_tokens.iter().find(|token| token.id == skip && !token.normalized)?;
                Some(token.content.clone()).filter(|content| !content.is_empty())
            }
            None => None,
        };
        Some(Self { bytes_per_token: added.fold(longest, usize::max).max(1), skipped, uncounted })
    }

    /// Whether a text has more tokens than this, whatever they are.
    pub fn exceeds(&self, text: &str, tokens: usize) -> bool {
        let counted = self.skipped.as_ref().map_or(text, |skipped| text.trim_end_matches(skipped.as_str()));
        let most = tokens.saturating_mul(self.bytes_per_token);
        let uncounted = |byte: &u8| self.uncounted.contains(byte);
        // Counting is cheap beside tokenizing, but not beside a comparison.
        counted.len() > most
            && (self.uncounted.is_empty() || counted.bytes().filter(|byte| !uncounted(byte)).count() > most)
    }
}

/// Most bytes of text that a normalizer makes one byte of.
fn shortening(normalizer: &Value) -> Option<usize> {
    match normalizer["type"].as_str()? {
        "NFC" => Some(NFC_BYTES),
        "Prepend" => Some(1),
        "Replace" => {
            let (pattern, content) = (normalizer["pattern"]["String"].as_str()?, normalizer["content"].as_str()?);
            (content.len() >= pattern.len()).then_some(1)
        }
        "Sequence" => {
            normalizer["normalizers"].as_array()?.iter().map(shortening).try_fold(1, |all, one| Some(all * one?))
        }
        _ => None,
    }
}

/// Whether a pre-tokenizer that keeps every character writes bytes as characters; `None` where it may drop some.
fn keeps_all(pre_tokenizer: &Value) -> Option<bool> {
    match pre_tokenizer["type"].as_str()? {
        "ByteLevel" => Some(true),
        "Digits" | "Metaspace" => Some(false),
        "Split" => (pre_tokenizer["behavior"].as_str()? != "Removed").then_some(false),
        "Sequence" => {
            let mut parts = pre_tokenizer["pretokenizers"].as_array()?.iter().map(keeps_all);
            parts.try_fold(false, |any, one| Some(any | one?))
        }
        _ => None,
    }
}

impl Model {
    /// Most bytes, of the text as the model sees it, that one token of the vocabulary stands for; and the bytes of which none is in
    /// any token.
    fn longest_token(&self, byte_level: bool) -> Option<(usize, Vec<u8>)> {
        let marks = [&self.continuing_subword_prefix, &self.end_of_word_suffix];
        if self.kind != "BPE" || marks.into_iter().flatten().any(|mark| !mark.is_empty()) {
            return None;
        }
        let has = |token: &str| self.vocab.contains_key(token);
        if byte_level {
            let lacks = |c: char| !has(c.encode_utf8(&mut [0; 4]));
            let lacking = byte_characters().into_iter().filter(|(_, c)| lacks(*c)).map(|(byte, _)| byte).collect();
            // Every character stands for one byte.
            Some((self.vocab.keys().map(|token| token.chars().count()).max().unwrap_or(0), lacking))
        } else {
            let all_bytes = self.byte_fallback && (0..=u8::MAX).all(|byte| has(&format!("<{byte:#04X}>")));
            // A space may be written as a longer character, which makes the bound no smaller than it is.
            all_bytes.then(|| (self.vocab.keys().map(String::len).max().unwrap_or(0), Vec::new()))
        }
    }
}

/// The character for each byte, as GPT-2's byte-level tokenizers write them: printable ones stand for themselves.
fn byte_characters() -> BTreeMap<u8, char> {
    let printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut others = (256u32..).filter_map(char::from_u32);
    let mut character = |byte: u8| if printable(&byte) { Some(char::from(byte)) } else { others.next() };
    (0..=u8::MAX).filter_map(|byte| Some((byte, character(byte)?))).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use serde_json::json;
    use tokenizers::normalizers::{NFC, NFD};
    use tokenizers::{NormalizedString, Normalizer, Tokenizer};

    use super::*;

    /// A byte-level BPE with a few merges, as `change` makes it.
    fn tokenizer(change: impl FnOnce(&mut Value)) -> TextAssets {
        let mut vocab: serde_json::Map<String, Value> =
            byte_characters().into_iter().map(|(byte, c)| (c.to_string(), u32::from(byte).into())).collect();
        for (id, token) in (256..).zip(["ab", "abab", "Ġa", "éÃ"]) {
            vocab.insert(token.into(), Value::from(id));
        }
        let pad = json!({"id": 300, "content": "<pad>", "special": true, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false});
        let mut file = json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [pad], "normalizer": {"type": "NFC"},
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
            "post_processor": null, "decoder": null,
            "model": {"type": "BPE", "vocab": vocab, "merges": [["a", "b"], ["ab", "ab"], ["Ġ", "a"]],
                "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
                "fuse_unk": false, "byte_fallback": false, "ignore_merges": false},
        });
        change(&mut file);
        TextAssets { tokenizer_json: Some(Arc::from(file.to_string().into_bytes())), ..TextAssets::default() }
    }

    fn bytes_per_token(change: impl FnOnce(&mut Value)) -> Option<usize> {
        TextBound::of(&tokenizer(change), &ReadPolicy::default()).map(|bound| bound.bytes_per_token)
    }

    #[test]
    fn where_the_tokenizer_keeps_all_there_is_a_bound() {
        // Four characters, four times; the added token stands for itself.
        assert_eq!(bytes_per_token(|_| {}), Some(16));
        assert_eq!(bytes_per_token(|file| file["normalizer"] = Value::Null), Some(5));
        let spaces = json!({"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]});
        assert_eq!(bytes_per_token(|file| file["normalizer"] = spaces), Some(5));
        let fallback = |all: bool| {
            move |file: &mut Value| {
                (file["normalizer"], file["pre_tokenizer"]) = (Value::Null, Value::Null);
                file["model"]["byte_fallback"] = true.into();
                let bytes = (u8::from(!all)..=u8::MAX).map(|byte| format!("<{byte:#04X}>"));
                file["model"]["vocab"] =
                    bytes.chain(["▁abc".into()]).zip(0..).map(|(t, i)| (t, Value::from(i))).collect();
            }
        };
        assert_eq!(bytes_per_token(fallback(true)), Some(6));
        assert_eq!(bytes_per_token(fallback(false)), None);
    }

    #[test]
    fn where_a_part_may_drop_something_there_is_none() {
        assert_eq!(bytes_per_token(|file| file["normalizer"] = json!({"type": "Lowercase"})), None);
        let shorter = json!({"type": "Replace", "pattern": {"String": "  "}, "content": " "});
        assert_eq!(bytes_per_token(|file| file["normalizer"] = shorter), None);
        let regex = json!({"type": "Replace", "pattern": {"Regex": " +"}, "content": "▁"});
        assert_eq!(bytes_per_token(|file| file["normalizer"] = regex), None);
        assert_eq!(bytes_per_token(|file| file["pre_tokenizer"] = json!({"type": "Whitespace"})), None);
        let removed = json!({"type": "Split", "pattern": {"String": " "}, "behavior": "Removed", "invert": false});
        assert_eq!(bytes_per_token(|file| file["pre_tokenizer"] = removed), None);
        assert_eq!(bytes_per_token(|file| file["pre_tokenizer"] = Value::Null), None, "unknown characters");
        assert_eq!(bytes_per_token(|file| file["added_tokens"][0]["lstrip"] = true.into()), None);
        let lacking = |file: &mut Value| drop(file["model"]["vocab"].as_object_mut().unwrap().remove("x"));
        assert_eq!(bytes_per_token(lacking), None, "a normalizer and a byte that is lacking");
        assert_eq!(bytes_per_token(|file| file["model"]["type"] = "WordPiece".into()), None);
        let unknown = ReadPolicy { skip: Some(7), ..ReadPolicy::default() };
        assert_eq!(TextBound::of(&tokenizer(|_| {}), &unknown), None);
    }

    /// As some published vocabularies lack a few control characters: they are dropped, and do not count.
    #[test]
    fn bytes_that_are_in_no_token_do_not_count() {
        let assets = tokenizer(|file| {
            file["normalizer"] = Value::Null;
            file["model"]["vocab"].as_object_mut().unwrap().remove("x");
        });
        let bound = TextBound::of(&assets, &ReadPolicy::default()).unwrap();
        let text = |dropped: usize, kept: usize| "x".repeat(dropped) + &"y".repeat(kept);
        assert!(!bound.exceeds(&text(10_000, 50), 10));
        assert!(bound.exceeds(&text(10_000, 51), 10));
    }

    proptest! {
        /// What is refused has more tokens, and what is longer than it could be is refused.
        #[test]
        fn nothing_that_fits_is_refused(
            text in "(ab|a b|\u{212a}|K\u{327}|\u{1112}\u{1161}\u{11ab}|<pad>|\\PC| ){0,60}",
            context in 1usize..40,
        ) {
            let assets = tokenizer(|_| {});
            let skip = ReadPolicy { skip: Some(300), ..ReadPolicy::default() };
            let bound = TextBound::of(&assets, &skip).unwrap();
            let tokenizer = Tokenizer::from_bytes(assets.tokenizer_json.as_deref().unwrap()).unwrap();
            let mut ids = tokenizer.encode_fast(&*text, false).unwrap().get_ids().to_vec();
            crate::sidecar::reading::complete(&skip, true, &mut ids);
            prop_assert!(!bound.exceeds(&text, context) || ids.len() > context);
            prop_assert!(bound.exceeds(&"x".repeat(16 * context + 1), context));
        }
    }

    /// The length of what a character can come from, as a multiple of its own: the sum, over its decomposition, of the longest
    /// character that each part can be written as.
    #[test]
    fn normal_forms_are_bounded() {
        let normalized = |normalizer: &dyn Fn(&mut NormalizedString), text: &str| {
            let mut string = NormalizedString::from(text);
            normalizer(&mut string);
            string.get().to_owned()
        };
        let nfd = |text: &str| normalized(&|s| NFD.normalize(s).unwrap(), text);
        let nfc = |text: &str| normalized(&|s| NFC.normalize(s).unwrap(), text);
        // Only characters that a normal form changes can be anything but themselves.
        let all: Vec<char> = (0..=0x10_ffff).filter_map(char::from_u32).collect();
        let changed = |chunk: &&[char]| {
            let text: String = chunk.iter().collect();
            nfd(&text) != text || nfc(&text) != text
        };
        let changing: Vec<char> = all.chunks(64).filter(changed).flatten().copied().collect();
        assert!(changing.len() > 12_000, "Hangul alone are 11,172");
        let mut longest: HashMap<char, usize> = HashMap::new();
        let forms: Vec<(char, String)> = changing.iter().map(|&c| (c, nfd(&c.to_string()))).collect();
        for (c, form) in &forms {
            let mut parts = form.chars();
            if let (Some(only), None) = (parts.next(), parts.next()) {
                let longest = longest.entry(only).or_insert(only.len_utf8());
                *longest = c.len_utf8().max(*longest);
            }
        }
        let source = |form: &str| form.chars().map(|c| longest.get(&c).copied().unwrap_or(c.len_utf8())).sum::<usize>();
        let mut most = 0;
        for (c, form) in &forms {
            assert!(c.len_utf8() <= source(form), "{c:?} is longer than its parts");
            most = most.max(source(form).div_ceil(c.len_utf8()));
        }
        for (c, length) in &longest {
            most = most.max(length.div_ceil(c.len_utf8()));
        }
        assert_eq!(most, NFC_BYTES);
    }
}
