//! Conversations in published templates against the ids that transformers' `apply_chat_template(tokenize=True)` gives, as
//! `tools/tokenizers` stores them.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::{Form, Locate, Text};
use crate::engine::TextAssets;
use crate::rollout::Message;

/// A tokenizer's name, its file, and the special tokens that have names.
type Stored = (String, Value, BTreeMap<String, String>);

/// A template's family, its source, and for each tokenizer the digest of all ids and the first digits of each conversation's.
type Row = (String, String, Vec<(String, String)>);

fn lines() -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizers/conversations.jsonl");
    std::fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
}

/// The tokenizers; the second is the first with another post-processor.
fn tokenizers(line: &str) -> Vec<Stored> {
    let mut stored: Vec<Stored> = serde_json::from_str(line).unwrap();
    let (mut second, post_processor) = (stored[0].1.clone(), stored[1].1.take());
    second["post_processor"] = post_processor;
    stored[1].1 = second;
    stored
}

fn digest(ids: &[u32]) -> [u8; 32] {
    Sha256::digest(ids.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<_>>()).into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn ids(text: &Text, turns: &[(String, String)]) -> Option<Vec<u32>> {
    let (last, before) = turns.split_last()?;
    let messages: Vec<_> = before.iter().map(|(role, content)| Message::new(role.as_str(), content.as_str())).collect();
    let rendered = text.render(&messages, &last.1, Locate::Nothing).ok()?;
    Some(text.encode(&rendered.text, Form::Chat).unwrap())
}

#[test]
fn conversations_have_the_tokens_of_apply_chat_template() {
    let lines = lines();
    let conversations: Vec<Vec<(String, String)>> = serde_json::from_str(&lines[0]).unwrap();
    assert_eq!(conversations.len(), 200);
    let tokenizers = tokenizers(&lines[1]);
    let (mut compared, mut refused, mut differences) = (0, 0, Vec::new());
    for line in &lines[2..] {
        let (family, source, expected): Row = serde_json::from_str(line).unwrap();
        for ((name, json, named), (whole, each)) in tokenizers.iter().zip(expected) {
            let text = Text::new(&TextAssets {
                tokenizer_json: Some(json.to_string().into_bytes().into()),
                chat_template: Some(source.clone()),
                template_variables: named.clone(),
                ..TextAssets::default()
            });
            let text = text.unwrap_or_else(|e| panic!("{family}: {e}"));
            let mut all = Sha256::new();
            for (at, turns) in conversations.iter().enumerate() {
                let found = ids(&text, turns).map(|ids| digest(&ids));
                found.iter().for_each(|digest| all.update(digest));
                let found = found.map_or_else(|| "----".to_owned(), |digest| hex(&digest[..2]));
                if found != each[at * 4..][..4] {
                    differences.push(format!("{family}, {name}, conversation {at}: {turns:?}\n{source}"));
                }
                compared += 1;
                refused += usize::from(found == "----");
            }
            if hex(&all.finalize()) != whole {
                differences.push(format!("{family}, {name}: the digest of all ids"));
            }
        }
    }
    assert!(differences.is_empty(), "{} of {compared}:\n{}", differences.len(), differences.join("\n"));
    assert!(compared >= 9000 && refused * 10 < compared, "{compared}, {refused} refused");
}
