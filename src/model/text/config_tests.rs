//! Tests of what a configuration says of tokens.

use serde_json::json;

use super::*;

fn read(tokenizer_config: Value, special_tokens_map: Value, added_tokens: Value) -> TokenizerConfig {
    TokenizerConfig::read(&Files { tokenizer_config, special_tokens_map, added_tokens }).unwrap()
}

fn texts(config: &TokenizerConfig) -> Vec<String> {
    config.tokens_beyond(|_| false).into_iter().map(|token| token.content).collect()
}

#[test]
fn the_older_files_count_where_there_is_no_decoder() {
    let map = json!({"eos_token": "<map>", "additional_special_tokens": ["<x>"]});
    let added = json!({"<tool>": 8, "<map>": 7});
    let config = read(json!({"eos_token": "<config>"}), map.clone(), added.clone());
    assert_eq!(config.special_token("eos_token"), Some("<map>"));
    assert_eq!(texts(&config), ["<map>", "<tool>", "<x>"]);
    assert!(config.decoder[&7].special && !config.decoder[&8].special && config.decoder[&8].normalized);
    let decoder = json!({"eos_token": "<config>", "added_tokens_decoder": {"9": {"content": "<d>", "special": true}}});
    let config = read(decoder, map, added);
    assert_eq!(texts(&config), ["<d>", "<config>"]);
}

#[test]
fn names_without_a_token_keep_the_classs_default_away() {
    let mut config = read(json!({"pad_token": null}), Value::Null, Value::Null);
    config.or(&[("pad_token", "<pad>"), ("eos_token", "<eos>")], vec![]);
    assert_eq!((config.special_token("pad_token"), config.special_token("eos_token")), (None, Some("<eos>")));
}

#[test]
fn what_cannot_be_read_is_refused_by_its_field() {
    for (config, says) in [
        (json!({"split_special_tokens": true}), "split_special_tokens"),
        (json!({"added_tokens_decoder": {"x": {"content": "<d>"}}}), "added_tokens_decoder has \"x\""),
        (json!({"added_tokens_decoder": {"1": {"content": ""}}}), "added_tokens_decoder has \"1\""),
        (json!({"extra_special_tokens": [7]}), "list of special tokens is [7]"),
    ] {
        let files = Files { tokenizer_config: config, ..Files::default() };
        let message = TokenizerConfig::read(&files).unwrap_err();
        assert!(message.contains(says), "{message}");
    }
    let files = Files { added_tokens: json!({"<a>": "b"}), ..Files::default() };
    assert!(TokenizerConfig::read(&files).unwrap_err().contains("added_tokens.json"));
}
