//! Conversations in published templates against the ids that transformers' `apply_chat_template(tokenize=True)` gives, as
//! `tools/tokenizers` stores them.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::{Conversation, Form, Locate, Text, within};
use crate::engine::TextAssets;
use crate::rollout::Message;

/// A tokenizer's name, its file, the special tokens that have names, and what Python says of its vocabulary: fingerprint, size
/// and hashes of blocks.
type Stored = (String, Value, BTreeMap<String, String>, (String, u32, String));

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
    let rendered = rendered(text, &messages, &last.1)?;
    Some(text.encode(&rendered, Form::Chat).unwrap())
}

fn rendered(text: &Text, messages: &[Message], completion: &str) -> Option<String> {
    let conversation = Conversation::of(messages, completion, None).unwrap();
    Some(text.render(&conversation, messages.len()..messages.len() + 1, Locate::Nothing).ok()?.text)
}

fn text((_, json, named, _): &Stored, template: &str) -> Text {
    let text = Text::new(&TextAssets {
        tokenizer_json: Some(json.to_string().into_bytes().into()),
        chat_template: Some(template.into()),
        template_variables: named.clone(),
        ..TextAssets::default()
    });
    text.unwrap_or_else(|e| panic!("{template}: {e}"))
}

/// Python's `get_vocab()` and the lines in the protocol.
#[test]
fn a_vocabulary_has_the_fingerprint_that_python_computes() {
    for stored in tokenizers(&lines()[1]) {
        let text = text(&stored, "{{ messages }}");
        let (vocabulary, (fingerprint, size, block_hashes)) = (text.vocabulary().unwrap(), stored.3);
        assert_eq!((&vocabulary.fingerprint, vocabulary.size), (&fingerprint, size), "{}", stored.0);
        assert_eq!(hex(&vocabulary.block_hashes), block_hashes, "{}", stored.0);
    }
}

/// However an engine ends an answer: with the token that ends a turn, with all that the template writes there, with the
/// model's end-of-sequence token, or with none of them.
#[test]
fn an_ended_completion_has_the_tokens_of_the_clean_one_in_every_family() {
    let lines = lines();
    let tokenizers = tokenizers(&lines[1]);
    let turns =
        |completion: &str| [("user".to_owned(), "What is 2+2?".to_owned()), ("assistant".into(), completion.into())];
    let (mut with_words, mut compared) = (Vec::new(), 0);
    for line in &lines[2..] {
        let (family, source, _): Row = serde_json::from_str(line).unwrap();
        for stored in &tokenizers {
            let text = text(stored, &source);
            let sample = rendered(&text, &[Message::new("user", "Q")], "ANSWER").unwrap();
            // Some templates of the corpus are of one construct alone.
            let Some((_, behind)) = sample.rsplit_once("ANSWER") else { continue };
            let added = stored.1["added_tokens"].as_array().unwrap();
            let mut added = added.iter().map(|token| token["content"].as_str().unwrap());
            let Some(token) = added.find(|token| behind.trim_start().starts_with(token)) else {
                let kept = rendered(&text, &[Message::new("user", "Q")], "4.<|im_end|>").unwrap();
                assert!(kept.contains("4.<|im_end|>"), "{source}");
                with_words.push(family.clone());
                continue;
            };
            let clean = ids(&text, &turns("4."));
            let eos = stored.2["eos_token"].as_str();
            let both = format!("{token}{eos}{eos}");
            for end in ["", token, &format!("{token}\n"), behind, behind.trim(), eos, &both] {
                let ended = format!("4.{end}");
                let found = ids(&text, &turns(&ended));
                assert_eq!(found, clean, "{family}, {}: {end:?}\n{source}", stored.0);
                compared += 1;
            }
        }
    }
    // Two templates of one construct each, and two families of which the corpus has no end of turn: what a completion brings
    // is taken for the policy's words there.
    with_words.dedup();
    assert_eq!(with_words, ["qwen", "nemotron", "command_r"]);
    assert!(compared > 100, "{compared}");
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
        for (stored, (whole, each)) in tokenizers.iter().zip(expected) {
            // What a completion brings of its end is taken off by us alone.
            let (name, mut text) = (&stored.0, text(stored, &source));
            text.templates.values_mut().for_each(|template| template.terminator = None);
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

/// A template's family, its source, and for each completion its tokens: -1 where the reference cannot tell, -2 where the template
/// refuses it.
type Places = (String, String, Vec<i64>);

#[test]
fn completions_have_as_many_tokens_as_the_reference_counts() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizers/places.jsonl");
    let file = std::fs::read_to_string(path).unwrap();
    let mut rows = file.lines();
    let completions: Vec<String> = serde_json::from_str(rows.next().unwrap()).unwrap();
    let stored = &tokenizers(&lines()[1])[0];
    let prompt = [Message::new("user", "What is 2+2?")];
    let (mut compared, mut untold, mut differences) = (0, 0, Vec::new());
    for row in rows {
        let (family, source, counts): Places = serde_json::from_str(row).unwrap();
        let text = text(stored, &source);
        for (completion, expected) in completions.iter().zip(counts).filter(|(_, expected)| *expected >= 0) {
            let conversation = Conversation::of(&prompt, completion, None).unwrap();
            let counted = text.render(&conversation, 1..2, Locate::Whole).map(|rendered| {
                let (_, bytes) = text.encode_located(&rendered.text, Form::Chat).unwrap();
                let places = rendered.completion.unwrap();
                places.iter().map(|place| within(&bytes, &place.bytes).len() as i64).sum::<i64>()
            });
            compared += 1;
            match counted {
                Ok(counted) if counted == expected => {}
                Ok(counted) => {
                    differences.push(format!("{family}: {completion:?} has {counted}, expected {expected}\n{source}"));
                }
                Err(_) => {
                    untold += 1;
                    differences.push(format!("{family}: {completion:?} is refused, expected {expected}\n{source}"));
                }
            }
        }
    }
    let shown = differences.iter().take(8).map(String::as_str).collect::<Vec<_>>().join("\n\n");
    assert!(differences.is_empty(), "{} of {compared}, {untold} refused:\n{shown}", differences.len());
    assert!(compared > 2500, "{compared}");
}
