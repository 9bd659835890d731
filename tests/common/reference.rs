//! What a library that is not ours said of a fixture: `reference.json` in its folder; and how ours is held to it.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::fs;
use std::path::{Path, PathBuf};

use reward_sidecar::engine::ScoreTable;

/// What was asked, and what the library said.
#[derive(serde::Deserialize)]
pub struct Reference {
    pub cases: Vec<Case>,
}

#[derive(serde::Deserialize)]
pub struct Case {
    pub input_ids: Vec<u32>,
    /// The outputs at the last token.
    pub scores: Vec<f32>,
}

/// Where all fixtures are.
pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// What was said of the model in a folder.
pub fn reference(folder: &Path) -> Reference {
    serde_json::from_slice(&fs::read(folder.join("reference.json")).unwrap()).unwrap()
}

/// The bits of a table's rows.
pub fn bits(table: &ScoreTable) -> Vec<Vec<u32>> {
    (0..table.rows()).map(|i| table.row(i).unwrap().iter().map(|x| x.to_bits()).collect()).collect()
}

/// The promise: the library's numbers in float32.
#[track_caller]
pub fn compare(name: &str, table: &ScoreTable, reference: &Reference) {
    for (i, case) in reference.cases.iter().enumerate() {
        let row = table.row(i).unwrap();
        assert_eq!(row.len(), case.scores.len(), "{name}, case {i}");
        for (score, expected) in row.iter().zip(&case.scores) {
            let difference = (score - expected).abs() / expected.abs().max(1.0);
            assert!(difference <= 1e-4, "{name}, case {i}: {score}, expected {expected}");
        }
    }
}
