//! Comparisons: a chat with a reference gets the tokens, and the score, that the code on PairRM's card leads to; what is no such
//! rollout is rejected.

use reward_sidecar::batch::MicroBatch;
use reward_sidecar::engine::{EchoEngine, Engine, Texts};
use reward_sidecar::model::{Config, Dtype, ModelEngine};
use reward_sidecar::proto::v1;
use reward_sidecar::proto::v1::RejectionCode::{BadMessages, NoReadPosition, TooLong, UnsupportedInput};
use reward_sidecar::sidecar::{OverLong, Sidecar};
use serde_json::json;

use super::common::{ids, loopback, rewards};
use super::pairs::{answers, chat, message, rejected};
use super::reference::bits;
use super::{config, folder, load};

#[derive(serde::Deserialize)]
struct Reference {
    comparisons: Vec<Comparison>,
}

#[derive(serde::Deserialize)]
struct Comparison {
    rollout: Rollout,
    input_ids: Vec<u32>,
    scores: Vec<f32>,
}

#[derive(serde::Deserialize)]
struct Rollout {
    prompt: String,
    completion: String,
    reference: String,
}

impl Rollout {
    fn chat(&self) -> v1::Rollout {
        compared(&[("user", &self.prompt)], &self.completion, &json!(self.reference).to_string())
    }
}

fn comparisons() -> Vec<Comparison> {
    let text = std::fs::read(folder("pairrm").join("reference.json")).unwrap();
    serde_json::from_slice::<Reference>(&text).unwrap().comparisons
}

/// A chat with a reference, which is JSON.
fn compared(messages: &[(&str, &str)], completion: &str, reference: &str) -> v1::Rollout {
    v1::Rollout { reference: reference.into(), ..chat(messages, completion) }
}

fn engine() -> ModelEngine {
    load(&Config { preset: "pairrm".into(), ..config(&folder("pairrm")) })
}

#[tokio::test]
async fn a_chat_becomes_the_texts_that_the_card_scores() {
    let (mut engine, cases) = (engine(), comparisons());
    let rollouts: Vec<&[u32]> = cases.iter().map(|case| &case.input_ids[..]).collect();
    let table = bits(&engine.score(&MicroBatch::pack(&rollouts, true)).unwrap());
    let sidecar = Sidecar::start(loopback(), Box::new(engine)).await.unwrap();
    let first = &cases[0].rollout;
    let user = ("user", &*first.prompt);
    let message = |content: &str| json!({"role": "assistant", "content": content});
    let with = |reference: serde_json::Value| compared(&[user], &first.completion, &reference.to_string());
    let other_ways = [
        with(json!([message(&first.reference)])),
        chat(&[("reference", &first.reference), user], &first.completion),
        with(json!([message("It is"), message("3.")])),
        with(json!("It is\n3.")),
    ];
    let replies = answers(&sidecar, cases.iter().map(|case| case.rollout.chat()).chain(other_ways).collect()).await;
    for (i, (reply, case)) in replies.iter().zip(&cases).enumerate() {
        let found = rewards(reply);
        assert_eq!(vec![found.attributes[0].to_bits()], table[i], "the ids of {:?}", case.rollout.prompt);
        assert_eq!((found.tokens as usize, found.reward), (case.input_ids.len(), found.attributes[0]));
        let (found, expected) = (found.reward, case.scores[0]);
        assert!((found - expected).abs() <= 1e-4 * expected.abs().max(1.0), "{found}, expected {expected}");
    }
    let distinct: std::collections::BTreeSet<_> = table.iter().collect();
    assert_eq!(distinct.len(), cases.len(), "the rollouts differ, so that the test can fail");
    let of = |i: usize| rewards(&replies[i]).reward;
    let [as_list, as_message, joined, of_lines] = [0, 1, 2, 3].map(|way| of(cases.len() + way));
    assert_eq!((as_list, as_message, joined), (of(0), of(0), of_lines), "however the reference comes");
    assert_ne!(of(0), -of(1), "exchanged, the answers have not the negative score");
}

/// Of a completion's tokens, those alone that are its own.
#[tokio::test]
async fn the_completion_is_counted_without_what_is_put_around_it() {
    let card = engine().card().clone();
    let echo = EchoEngine::new(2048).taking(card.text.clone(), card.reads.clone());
    let sidecar = Sidecar::start(loopback(), Box::new(echo)).await.unwrap();
    let counted = |completion: &str| {
        let penalty = v1::LengthPenalty { per_token: 1.0, ..Default::default() };
        let aggregation = v1::Aggregation { length_penalty: Some(penalty), ..Default::default() };
        v1::Rollout { aggregation: Some(aggregation), ..compared(&[("user", "two")], completion, "\"three\"") }
    };
    let replies = answers(&sidecar, vec![counted(""), counted("the dog"), counted("the dog the dog")]).await;
    // The default weighting of an echo is its length in tokens: what is put around it counts there, and is not punished.
    let around = rewards(&replies[0]).reward;
    for reply in &replies {
        let found = rewards(reply);
        assert_eq!((found.reward, found.tokens > 0), (around, true), "{found:?}");
    }
    assert!(rewards(&replies[2]).tokens > rewards(&replies[1]).tokens);
}

#[tokio::test]
async fn what_is_no_comparison_is_rejected() {
    let card = engine().card().clone();
    let echo = EchoEngine::new(2048).taking(card.text.clone(), card.reads.clone());
    let sidecar = Sidecar::start(loopback(), Box::new(echo)).await.unwrap();
    let user = ("user", "two");
    let text = v1::Rollout { id: "t".into(), input: Some(v1::rollout::Input::Text("a".into())), ..Default::default() };
    let scored = v1::Message { score: true, ..message("assistant", "four") };
    let turns = v1::Chat {
        messages: vec![message("user", "two"), scored, message("user", "why")],
        completion: "because".into(),
        ..Default::default()
    };
    let turns = v1::Rollout {
        id: "s".into(),
        input: Some(v1::rollout::Input::Chat(turns)),
        reference: "\"r\"".into(),
        ..Default::default()
    };
    let [source, first, second] = card.reads.anchors[..] else { panic!("{:?}", card.reads) };
    let cases = [
        (chat(&[user], "four"), BadMessages, &["send it as the rollout's reference"][..]),
        (compared(&[("reference", "r"), user], "four", "\"r\""), BadMessages, &["given twice"]),
        (compared(&[user], "four", "[{\"role\": \"a\"}]"), BadMessages, &["no content that is a text"]),
        (compared(&[("system", "s"), user], "four", "\"r\""), BadMessages, &["send one message for the prompt"]),
        (compared(&[("user", "a <|source|> b")], "four", "\"r\""), BadMessages, &["the prompt holds", "<|source|>"]),
        (
            compared(&[("user", "<|candidate1|>")], "four", "\"r\""),
            BadMessages,
            &["the prompt holds", "<|candidate1|>"],
        ),
        (compared(&[user], "four [SEP]", "\"r\""), BadMessages, &["the completion holds", "[SEP]", "leave it out"]),
        (compared(&[user], "four", "\"<|candidate2|> r\""), BadMessages, &["the reference holds", "<|candidate2|>"]),
        (turns, BadMessages, &["no other turn is scored"]),
        (text, UnsupportedInput, &["three texts", "with a reference"]),
        (ids("i", &[1, source, 9, first, 9]), NoReadPosition, &["once each, in this order"]),
        (ids("i", &[1, source, 9, second, 9, first, 9]), NoReadPosition, &["once each, in this order"]),
        (ids("i", &[1, source, source, first, 9, second]), NoReadPosition, &["once each, in this order"]),
    ];
    let replies = answers(&sidecar, cases.iter().map(|(rollout, ..)| rollout.clone()).collect()).await;
    for (reply, (_, code, says)) in replies.iter().zip(&cases) {
        rejected(reply, *code, says);
    }
    let well = [1, source, 9, first, 9, second];
    let replies = answers(&sidecar, vec![ids("i", &well)]).await;
    assert_eq!(rewards(&replies[0]).attributes, EchoEngine::expected(&well));
}

/// Whatever the published code would cut is rejected, under either policy, and nothing else is.
#[tokio::test]
async fn nothing_is_cut() {
    let card = engine().card().clone();
    let mut assets = card.text.clone();
    let Texts::Comparison(comparison) = &mut assets.texts else { panic!("{:?}", card.text.texts) };
    assert_eq!((card.context_tokens, comparison.longest_prompt), (2048, 1224));
    comparison.longest_prompt = 20;
    for over_long in [OverLong::Reject, OverLong::TruncateLeft] {
        let echo = EchoEngine::new(48).taking(assets.clone(), card.reads.clone());
        let config = reward_sidecar::sidecar::Config { over_long, ..loopback() };
        let sidecar = Sidecar::start(config, Box::new(echo)).await.unwrap();
        // Each word is at least a token: up to some number they fit, and no more of them.
        let words = |count: usize| vec!["dog"; count].join(" ");
        let mut most = [0; 3];
        for part in 0..3 {
            let rollouts = (1..=40).map(|count| {
                let texts = [0, 1, 2].map(|at| words(if at == part { count } else { 1 }));
                compared(&[("user", &texts[0])], &texts[1], &json!(texts[2]).to_string())
            });
            let replies = answers(&sidecar, rollouts.collect()).await;
            let fit = replies.iter().take_while(|reply| super::common::rejection(reply).is_none()).count();
            assert!((1..40).contains(&fit), "{part}: {fit}");
            let name = ["the prompt is", "the completion is", "the reference is"][part];
            for reply in &replies[fit..] {
                rejected(
                    reply,
                    TooLong,
                    &[name, "nothing is cut", if part == 0 { "at most 20 of them" } else { "at most" }],
                );
            }
            most[part] = fit;
        }
        assert_eq!(most[1], most[2], "both answers have the same room");
        // Ids that hold all anchors are cut nowhere, either.
        let [source, first, second] = card.reads.anchors[..] else { panic!("{:?}", card.reads) };
        let long = [vec![9; 60], vec![source, first, second]].concat();
        let replies = answers(&sidecar, vec![ids("i", &long)]).await;
        rejected(&replies[0], TooLong, &["context is 48"]);
    }
}

/// One rollout without its anchors has no score, and the others keep theirs.
#[test]
fn without_anchors_there_is_no_number() {
    let (mut engine, cases) = (engine(), comparisons());
    let alone = bits(&engine.score(&MicroBatch::pack(&[&cases[0].input_ids], true)).unwrap());
    let source = engine.card().reads.anchors[0];
    let twice = [&cases[0].input_ids[..], &[source]].concat();
    let table = engine.score(&MicroBatch::pack(&[&cases[0].input_ids[..], &[1, 9, 2], &twice], true)).unwrap();
    assert_eq!(bits(&table)[0], alone[0]);
    assert!(table.row(1).unwrap()[0].is_nan() && table.row(2).unwrap()[0].is_nan());
}

/// What types of weights are tried on are rollouts that such a model has a number for.
#[test]
fn the_fastest_type_of_weights_is_tried_on_comparisons() {
    for name in ["pairrm", "pairrm-tasks"] {
        let engine = load(&Config { dtype: Dtype::Fast, ..config(&folder(name)) });
        let choice = engine.report().precision_choice.unwrap();
        assert!(
            choice.tried.iter().all(|(_, deviation)| deviation.is_finite()) && !choice.tried.is_empty(),
            "{choice:?}"
        );
    }
}

/// What is loaded and nobody can vouch for is refused: texts whose tokens are not those at which the model reads.
#[test]
fn anchors_are_the_tokens_that_the_model_reads() {
    let card = engine().card().clone();
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(folder("pairrm")).unwrap().map(Result::unwrap) {
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    let path = copy.path().join("config.json");
    let mut changed: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    changed["source_prefix_id"] = json!(7);
    std::fs::write(&path, changed.to_string()).unwrap();
    let pairrm = Config { preset: "pairrm".into(), ..config(copy.path()) };
    let message = ModelEngine::load(&pairrm).err().unwrap().to_string();
    let found = format!("has as token {}, but the model reads at token 7", card.reads.anchors[0]);
    assert!(message.contains("config.json") && message.contains(&found), "{message}");
    let elsewhere = Config { preset: "pairrm".into(), ..config(&folder("deberta-v3")) };
    let message = ModelEngine::load(&elsewhere).err().unwrap().to_string();
    assert!(message.contains("DebertaV2ForSequenceClassification does not"), "{message}");
    let linear = copy.path().join("linear.toml");
    std::fs::write(&linear, "name = \"linear\"\n[head]\nkind = \"linear\"\n").unwrap();
    let linear = Config { preset: linear.to_str().unwrap().into(), ..config(&folder("pairrm")) };
    let message = ModelEngine::load(&linear).err().unwrap().to_string();
    assert!(
        message.contains("\"linear\"") && message.contains("sees 1 side by side, and the model shows 3"),
        "{message}"
    );
    let both = copy.path().join("both.toml");
    std::fs::write(
        &both,
        "name = \"both\"\npair = true\n[compare]\nanchors = [\"a\", \"b\", \"c\"]\nlongest_prompt = 9\n",
    )
    .unwrap();
    let both = Config { preset: both.to_str().unwrap().into(), ..config(&folder("pairrm")) };
    let message = ModelEngine::load(&both).err().unwrap().to_string();
    assert!(message.contains("both.toml") && message.contains("say one of them"), "{message}");
}
