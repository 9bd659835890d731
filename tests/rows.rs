//! Rows as data sets have them, through the binary: preference pairs, columns of others, tables.

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");

/// A folder with a model that takes text, and files beside it.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        let model = folder.path("model");
        std::fs::create_dir(&model).unwrap();
        for entry in std::fs::read_dir(format!("{FIXTURES}/hf/bf16-single")).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), model.join(entry.file_name())).unwrap();
        }
        let assets = common::words();
        std::fs::write(model.join("tokenizer.json"), assets.tokenizer_json.unwrap()).unwrap();
        let config = json!({"chat_template": assets.chat_template}).to_string();
        std::fs::write(model.join("tokenizer_config.json"), config).unwrap();
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Scores a file of this folder, or a fixture, into another.
    fn score(&self, input: impl AsRef<Path>, output: &str, flags: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_reward-sidecar"))
            .args(["score", "--log", "warn", "--model"])
            .arg(self.path("model"))
            .arg("--input")
            .arg(self.0.path().join(input))
            .arg("--output")
            .arg(self.path(output))
            .args(flags)
            .env_clear()
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    fn write(&self, name: &str, rows: &[Value]) {
        let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
        std::fs::write(self.path(name), text).unwrap();
    }

    fn lines(&self, name: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(self.path(name)).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

#[track_caller]
fn ended(output: &Output, code: i32) -> &str {
    let message = std::str::from_utf8(&output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{message}");
    message
}

fn message(role: &str, content: &str) -> Value {
    json!({"role": role, "content": content})
}

#[test]
fn every_way_to_write_a_conversation_has_one_reward() {
    let folder = Folder::new();
    let (user, answer) = (message("user", "w1 w2"), message("assistant", "w3"));
    folder.write(
        "in.jsonl",
        &[
            json!({"id": "a", "prompt": "w1 w2", "completion": "w3"}),
            json!({"id": 7, "prompt": [user], "completion": [answer]}),
            json!({"messages": [user, answer]}),
            json!({"text": "user w1 w2 assistant w3 end"}),
            json!({"chosen": [user, answer], "rejected": [user, message("assistant", "w4")]}),
        ],
    );
    ended(&folder.score("in.jsonl", "out.jsonl", &[]), 0);
    let answers = folder.lines("out.jsonl");
    let ids: Vec<_> = answers.iter().map(|answer| answer["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["a", "7", "3", "4", "5"]);
    for answer in &answers[1..4] {
        assert_eq!(answer["reward"], answers[0]["reward"]);
    }
    assert_eq!(answers[4]["chosen"]["reward"], answers[0]["reward"]);
    assert_ne!(answers[4]["rejected"]["reward"], answers[0]["reward"]);
}

#[test]
fn a_preference_file_ends_with_its_accuracy() {
    let folder = Folder::new();
    let pair = |chosen: &str, rejected: &str| json!({"prompt": "w1", "chosen": chosen, "rejected": rejected});
    // Both ways, so that one of two is right whatever the model says; a tie; one that cannot be read.
    let rows = [pair("w2", "w3"), pair("w3", "w2"), pair("w5", "w5"), json!({"chosen": "w1", "rejected": 5})];
    folder.write("in.jsonl", &rows);
    let summary = folder.path("summary.json");
    let output = folder.score("in.jsonl", "out.jsonl", &["--summary", summary.to_str().unwrap()]);
    let line = ended(&output, 1).lines().last().unwrap().to_owned();
    assert!(line.starts_with("3 pairs: accuracy 0.3333 (95 % interval 0.0615 to 0.7923), 1 ties, "), "{line}");
    let answers = folder.lines("out.jsonl");
    let margins: Vec<_> = answers[..3].iter().map(|answer| answer["margin"].as_f64().unwrap()).collect();
    assert_eq!((margins[0], margins[2]), (-margins[1], 0.0));
    assert_ne!(margins[0], 0.0);
    assert_eq!(answers[3]["error"]["code"], "MALFORMED");
    let summary: Value = serde_json::from_slice(&std::fs::read(summary).unwrap()).unwrap();
    let pairs = &summary["pairs"];
    assert_eq!((&pairs["scored"], &pairs["correct"], &pairs["ties"]), (&json!(3), &json!(1), &json!(1)));
    assert_eq!((&pairs["with_rejection"], &pairs["mean_margin"]), (&json!(1), &json!(0.0)));
    assert_eq!((&summary["scored"], &summary["rejections"]), (&json!(6), &json!({"MALFORMED": 1})));
}

#[test]
fn columns_of_others_are_refused_kept_or_ignored() {
    let folder = Folder::new();
    let row =
        "{\"text\":\"w1\",\"z\":12345678901234567890123,\"a\":{\"y\":1.50,\"x\":[]}}\n{\"text\":\"w1\",\"tokens\":1}\n";
    std::fs::write(folder.path("in.jsonl"), row).unwrap();
    ended(&folder.score("in.jsonl", "out.jsonl", &[]), 1);
    let message = folder.lines("out.jsonl")[0]["error"]["message"].as_str().unwrap().to_owned();
    assert!(message.starts_with("z: there is no such field") && message.contains("--extra-columns keep"), "{message}");
    ended(&folder.score("in.jsonl", "out.jsonl", &["--extra-columns", "ignore"]), 0);
    assert!(folder.lines("out.jsonl")[0].get("z").is_none());
    ended(&folder.score("in.jsonl", "out.jsonl", &["--extra-columns", "keep"]), 1);
    let text = std::fs::read_to_string(folder.path("out.jsonl")).unwrap();
    let (kept, collides) = text.split_once('\n').unwrap();
    assert!(kept.ends_with(",\"z\":12345678901234567890123,\"a\":{\"y\":1.50,\"x\":[]}}"), "{kept}");
    assert!(collides.contains("tokens: the rewards file has a field of this name"), "{collides}");
}

#[test]
fn tables_give_what_lines_give() {
    let folder = Folder::new();
    let rollouts = format!("{FIXTURES}/parquet/rollouts.parquet");
    // The last row has weights for attributes of another model: a rejection, in every format.
    ended(&folder.score(&rollouts, "lines.jsonl", &["--extra-columns", "keep"]), 1);
    let answers = folder.lines("lines.jsonl");
    assert_eq!(answers.len(), 5);
    assert_eq!((&answers[0]["id"], &answers[0]["subset"]), (&json!("7"), &json!("math")));
    assert!(answers[0]["reward"].is_number() && answers[2]["reward"].is_number(), "{answers:?}");
    assert_eq!(answers[4]["error"]["code"], "UNKNOWN_ATTRIBUTE");
    ended(&folder.score(&rollouts, "table.parquet", &["--extra-columns", "keep"]), 1);
    // What the table holds is read back as columns that nobody asked for, beside a text to score.
    let refused = folder.score("table.parquet", "again.jsonl", &[]);
    assert!(ended(&refused, 2).contains("error[INPUT]") && refused.stdout.is_empty());
    assert!(ended(&refused, 2).contains("column reward: there is no such field"));
    assert!(!folder.path("again.jsonl").exists());

    let refused = folder.score(&rollouts, "again.jsonl", &[]);
    assert!(ended(&refused, 2).contains("column subset: there is no such field"));
}

#[test]
fn pairs_of_a_table_are_counted() {
    let folder = Folder::new();
    let pairs = format!("{FIXTURES}/parquet/pairs.parquet");
    for output in ["out.parquet", "out.jsonl"] {
        let output = folder.score(&pairs, output, &["--extra-columns", "keep"]);
        let line = ended(&output, 0).lines().last().unwrap();
        assert!(line.starts_with("3 pairs: accuracy "), "{line}");
    }
    let answers = folder.lines("out.jsonl");
    assert_eq!((&answers[0]["score_chosen"], &answers[0]["messages"][0]["role"]), (&json!(8.5), &json!("user")));
    // JSON Lines into a table, too.
    folder.write("in.jsonl", &[json!({"text": "w1", "seed": 1}), json!({"text": "w2", "seed": 2})]);
    ended(&folder.score("in.jsonl", "seeds.parquet", &["--extra-columns", "keep"]), 0);
    assert!(std::fs::read(folder.path("seeds.parquet")).unwrap().ends_with(b"PAR1"));
}
