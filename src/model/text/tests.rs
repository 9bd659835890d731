//! Folders as `tools/tokenizers` makes them, against the ids that transformers gives for each.

use std::collections::BTreeMap;
use std::path::Path;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::Value;
use tokenizers::Tokenizer;

use super::folder;

/// A folder's name, its files by their numbers, the special tokens that have names, the number of tokens, what is put before and
/// behind a text, and the ids of each text by their numbers.
type Case = (String, BTreeMap<String, usize>, BTreeMap<String, String>, usize, [Vec<u32>; 2], Vec<usize>);

fn write(folder: &Path, name: &str, content: &Value) {
    let bytes = match content {
        Value::String(text) => text.clone().into_bytes(),
        Value::Object(map) if map.contains_key("base64") => {
            BASE64_STANDARD.decode(map["base64"].as_str().unwrap()).unwrap()
        }
        json => json.to_string().into_bytes(),
    };
    std::fs::write(folder.join(name), bytes).unwrap();
}

#[test]
fn every_folder_has_the_tokenizer_that_transformers_makes_of_it() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizers/folders.jsonl");
    let file = std::fs::read_to_string(path).unwrap();
    let mut lines = file.lines();
    let texts: Vec<String> = serde_json::from_str(lines.next().unwrap()).unwrap();
    let contents: Vec<Value> = serde_json::from_str(lines.next().unwrap()).unwrap();
    let pool: Vec<Vec<u32>> = serde_json::from_str(lines.next().unwrap()).unwrap();
    let mut differences = Vec::new();
    let mut compared = 0;
    for line in lines {
        let (name, files, named, size, [before, behind], ids): Case = serde_json::from_str(line).unwrap();
        let place = tempfile::tempdir().unwrap();
        files.iter().for_each(|(file, number)| write(place.path(), file, &contents[*number]));
        let (assets, read) = folder::read(place.path()).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(read.iter().all(|path| path.exists()), "{name}");
        let tokenizer = Tokenizer::from_bytes(assets.tokenizer_json.unwrap()).unwrap();
        if assets.template_variables != named || tokenizer.get_vocab_size(true) != size {
            let found = (assets.template_variables, tokenizer.get_vocab_size(true));
            differences.push(format!("{name}: {found:?}, expected {:?}", (named, size)));
        }
        for (text, own) in texts.iter().zip(&ids) {
            let own = &pool[*own];
            for (special, expected) in [(false, own.clone()), (true, [&before[..], own, &behind].concat())] {
                let found = tokenizer.encode(text.as_str(), special).unwrap().get_ids().to_vec();
                compared += 1;
                if found != expected {
                    differences.push(format!("{name} {text:?} {special}: {found:?}, expected {expected:?}"));
                }
            }
        }
    }
    assert!(differences.is_empty(), "{} of {compared}:\n{}", differences.len(), differences.join("\n"));
    assert!(compared > 1500, "{compared}");
}

#[test]
fn a_class_that_is_not_known_is_refused_by_its_name() {
    for (file, content, class) in [
        ("vocab.json", "{}", "RobertaTokenizer"),
        ("vocab.json", "{}", "LlamaTokenizer"),
        ("tokenizer.model", "", "T5Tokenizer"),
        ("tokenizer.model", "", "Qwen2Tokenizer"),
    ] {
        let place = tempfile::tempdir().unwrap();
        std::fs::write(place.path().join(file), content).unwrap();
        std::fs::write(place.path().join("merges.txt"), "").unwrap();
        let config = format!(r#"{{"tokenizer_class": "{class}"}}"#);
        std::fs::write(place.path().join("tokenizer_config.json"), config).unwrap();
        let message = folder::read(place.path()).unwrap_err().to_string();
        assert!(message.contains(class) && message.contains("save_pretrained(DIR)"), "{message}");
        assert!(message.contains(file), "{message}");
    }
}

#[test]
fn what_is_broken_is_refused_with_its_file() {
    for (files, says) in [
        (&[("vocab.json", r#"{"a": -1}"#), ("merges.txt", "")][..], "\"a\" has id -1"),
        (&[("vocab.json", r#"{"a": 0}"#), ("merges.txt", "a b c\n")], "line 1 of the merges"),
        (&[("vocab.json", r#"{"a": 0}"#), ("merges.txt", "#version: 0.2\na b\n")], "\"b\", which is no token"),
        (&[("tokenizer.model", "\u{1}")], "not a SentencePiece model"),
        (&[("tokenizer.json", "{"), ("special_tokens_map.json", r#"{"eos_token": "<e>"}"#)], "tokenizer.json"),
    ] {
        let place = tempfile::tempdir().unwrap();
        std::fs::write(place.path().join("config.json"), r#"{"model_type": "qwen3"}"#).unwrap();
        for (name, content) in files {
            std::fs::write(place.path().join(name), content).unwrap();
        }
        if files[0].0 == "tokenizer.model" {
            std::fs::write(place.path().join("tokenizer_config.json"), r#"{"tokenizer_class": "LlamaTokenizer"}"#)
                .unwrap();
        }
        let message = folder::read(place.path()).unwrap_err().to_string();
        assert!(message.contains(says), "{message}");
    }
}
