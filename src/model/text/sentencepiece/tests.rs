use std::path::Path;

use super::*;

/// What SentencePiece said; `reference.json` beside each model.
#[cfg(feature = "sidecar")]
#[derive(serde::Deserialize)]
struct Reference {
    cases: Vec<Case>,
    special: HashMap<String, i64>,
    symbols: HashMap<String, u32>,
}

#[cfg(feature = "sidecar")]
#[derive(serde::Deserialize)]
struct Case {
    text: String,
    ids: Vec<u32>,
}

fn model(name: &str) -> Vec<u8> {
    std::fs::read(fixture(name).join("tokenizer.model")).unwrap()
}

fn fixture(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizer").join(name)
}

/// The tokenizers crate is the sidecar's.
#[cfg(feature = "sidecar")]
#[test]
fn every_id_is_that_of_sentencepiece() {
    for name in ["bpe", "bpe-no-prefix", "unigram"] {
        let bytes = std::fs::read(fixture(name).join("reference.json")).unwrap();
        let reference: Reference = serde_json::from_slice(&bytes).unwrap();
        let assets = read(&model(name), &Extra::default()).unwrap();
        let tokenizer = tokenizers::Tokenizer::from_bytes(assets.tokenizer_json.unwrap()).unwrap();
        let control: Vec<&str> = ["bos_token", "eos_token", "pad_token", "unk_token"]
            .iter()
            .filter_map(|v| assets.template_variables.get(*v)?.as_str().into())
            .collect();
        let mut compared = 0;
        for Case { text, ids } in &reference.cases {
            let found = tokenizer.encode(text.as_str(), true).unwrap().get_ids().to_vec();
            // Control pieces in text are that piece here; see the head of the module.
            if control.iter().any(|piece| text.contains(piece)) {
                assert_ne!(found, *ids, "{name} {text:?}");
                continue;
            }
            let tokens = tokenizer.encode(text.as_str(), true).unwrap().get_tokens().to_vec();
            assert_eq!(found, *ids, "{name} {text:?}: {tokens:?}");
            compared += 1;
        }
        assert!(compared > 50, "{name}");
        for (symbol, id) in &reference.symbols {
            if *id as i64 != reference.special["unk"] {
                assert_eq!(tokenizer.token_to_id(symbol), Some(*id), "{name} {symbol}");
            }
        }
    }
}

fn refused(bytes: &[u8], extra: &Extra) -> String {
    read(bytes, extra).unwrap_err()
}

/// A field of a message.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2, content.len() as u8], content].concat()
}

fn piece(text: &str, score: f32, kind: u8) -> Vec<u8> {
    let score = [&[2 << 3 | 5][..], &score.to_le_bytes()].concat();
    field(1, &[field(1, text.as_bytes()), score, vec![3 << 3, kind]].concat())
}

/// `<unk>`, `a`, `b` and one more piece, cut by an algorithm.
fn small(last: Vec<u8>, algorithm: u8, trainer: &[u8]) -> Vec<u8> {
    let pieces = [piece("<unk>", 0.0, 2), piece("a", -1.0, 1), piece("b", -2.0, 1), last];
    [pieces.concat(), field(2, &[&[3 << 3, algorithm], trainer].concat())].concat()
}

#[test]
fn what_would_be_cut_otherwise_is_refused() {
    let plain = Extra::default();
    let ab = piece("ab", -3.0, 1);
    assert!(read(&small(ab.clone(), 2, &[]), &plain).is_ok());
    assert!(refused(&small(ab.clone(), 3, &[]), &plain).contains("model type 3"));
    assert!(refused(&small(piece("ab", -3.0, 5), 2, &[]), &plain).contains("unused piece \"ab\""));
    assert!(refused(&small(piece("a", -3.0, 1), 2, &[]), &plain).contains("\"a\" has two ids, 1 and 3"));
    assert!(refused(&small(piece("ab", f32::NAN, 1), 2, &[]), &plain).contains("score NaN"));
    assert!(refused(&small(piece("", -3.0, 1), 2, &[]), &plain).contains("0 bytes"));
    assert!(refused(&small(ab.clone(), 2, &[0xc0, 1, 1]), &plain).contains("treat_whitespace_as_suffix"));
    assert!(refused(&small(ab.clone(), 2, &[0xc0, 2, 1]), &plain).contains("unk_id 1"));
    let bos = Extra { add_bos: true, ..Extra::default() };
    assert!(read(&small(ab.clone(), 2, &[]), &bos).is_ok());
    assert!(refused(&small(ab, 2, &[0xc8, 2, 99]), &bos).contains("no bos piece"));
}

#[test]
fn what_is_no_model_is_refused() {
    let plain = Extra::default();
    assert!(refused(b"", &plain).contains("no pieces"));
    assert!(refused(b"version https://git-lfs.github.com/spec/v1\n", &plain).contains("not a SentencePiece model"));
    assert!(
        refused(&[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f], &plain).contains("ends in the middle")
    );
    assert!(refused(&[0xff; 11], &plain).contains("longer than 64 bits"));
    let whole = model("bpe");
    for length in (0..whole.len()).step_by(97) {
        // A cut between two fields leaves a shorter model; anything else is refused. Either way nothing panics.
        let _ = read(&whole[..length], &plain);
    }
}

#[test]
fn pieces_that_would_multiply_are_refused() {
    let runs: Vec<_> = (1..=100).map(|length| piece(&"a".repeat(length), -(length as f32), 1)).collect();
    let bytes = [piece("<unk>", 0.0, 2), runs.concat(), field(2, &[3 << 3, 2])].concat();
    assert!(refused(&bytes, &Extra::default()).contains("more than 8 ways"));
    let long = [piece("<unk>", 0.0, 2), field(2, &[3 << 3, 2])].concat();
    assert!(read(&long, &Extra::default()).is_ok());
}

#[test]
fn special_tokens_come_from_the_trainer() {
    let assets = read(&model("bpe"), &Extra::default()).unwrap();
    let variables: Vec<_> = assets.template_variables.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let expected = [("bos_token", "<s>"), ("eos_token", "</s>"), ("pad_token", "<pad>"), ("unk_token", "<unk>")];
    assert_eq!(variables, expected);
}

/// The tokenizers crate is the sidecar's.
#[cfg(feature = "sidecar")]
#[test]
fn a_configuration_adds_tokens_and_renames_pieces() {
    let token = |id, text: &str, special| ExtraToken { id, text: text.into(), special };
    let extra =
        Extra { tokens: vec![token(4, "<|end|>", true), token(3, "<|new|>", false)], add_bos: true, add_eos: true };
    // `<free>` was left for others; bos and eos are `a` and `b`, for want of better.
    let bytes = small(piece("<free>", -3.0, 1), 2, &[]);
    let json = read(&bytes, &extra).unwrap().tokenizer_json.unwrap();
    let tokenizer = tokenizers::Tokenizer::from_bytes(json).unwrap();
    let encode = |special| tokenizer.encode("a<|new|>b<|end|>", special).unwrap().get_ids().to_vec();
    // Without byte pieces the space in front is unknown.
    assert_eq!(encode(false), [0, 1, 3, 0, 2, 4]);
    assert_eq!(encode(true), [1, 0, 1, 3, 0, 2, 4, 2]);
    assert_eq!(tokenizer.token_to_id("<free>"), None);
    let gap = Extra { tokens: vec![token(9, "<|far|>", true)], ..Extra::default() };
    assert!(refused(&bytes, &gap).contains("id 9, but there are 4 pieces"));
}

/// Beside symbols a word that is a token is taken as it is. `wxyz` is one that merging never makes, since `xy` comes first.
#[cfg(feature = "sidecar")]
#[test]
fn a_piece_that_merging_never_makes_is_no_part_of_another() {
    let normal = [("w", -9.0), ("x", -9.0), ("y", -9.0), ("z", -9.0), ("xy", -1.0), ("wx", -2.0), ("yz", -3.0)];
    let longer = [("wxyz", -4.0), ("wxyzw", -5.0)];
    let pieces: Vec<_> = normal.iter().chain(&longer).map(|(text, score)| piece(text, *score, 1)).collect();
    let bytes = [piece("<unk>", 0.0, 2), pieces.concat(), piece("#", 0.0, 4), field(2, &[3 << 3, 2])].concat();
    let json = read(&bytes, &Extra::default()).unwrap().tokenizer_json.unwrap();
    let tokenizer = tokenizers::Tokenizer::from_bytes(json).unwrap();
    let ids = |text: &str| tokenizer.encode(text, false).unwrap().get_ids().to_vec();
    assert_eq!(ids("wxyz"), [0, 1, 5, 4], "without byte pieces the space in front is unknown");
    assert_eq!(ids("wxyzw"), [0, 1, 5, 4, 1]);
    assert_eq!(ids("wx#xy"), [0, 6, 10, 5]);
}
