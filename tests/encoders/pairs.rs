//! Pairs of texts: a chat gets the tokens, and the score, that `tokenizer(question, answer)` of transformers leads to.

use reward_sidecar::batch::MicroBatch;
use reward_sidecar::engine::{EchoEngine, Engine};
use reward_sidecar::model::{Config, ModelEngine};
use reward_sidecar::proto::v1;
use reward_sidecar::sidecar::{OverLong, Sidecar};

use super::common::{connect, ids, loopback, rewards};
use super::{config, folder, load};

#[derive(serde::Deserialize)]
struct Reference {
    texts: Vec<Pair>,
}

#[derive(serde::Deserialize)]
struct Pair {
    question: String,
    answer: String,
    input_ids: Vec<u32>,
    scores: Vec<f32>,
}

fn pairs(name: &str) -> Vec<Pair> {
    let text = std::fs::read(folder(name).join("reference.json")).unwrap();
    serde_json::from_slice::<Reference>(&text).unwrap().texts
}

fn engine(name: &str, preset: &str) -> ModelEngine {
    load(&Config { preset: preset.into(), ..config(&folder(name)) })
}

pub fn message(role: &str, content: &str) -> v1::Message {
    v1::Message { role: role.into(), content: content.into(), ..Default::default() }
}

pub fn chat(messages: &[(&str, &str)], completion: &str) -> v1::Rollout {
    let messages = messages.iter().map(|(role, content)| message(role, content)).collect();
    let chat = v1::Chat { messages, completion: completion.into(), ..Default::default() };
    v1::Rollout { id: "chat".into(), input: Some(v1::rollout::Input::Chat(chat)), ..Default::default() }
}

pub async fn answers(sidecar: &Sidecar, mut rollouts: Vec<v1::Rollout>) -> Vec<v1::Reply> {
    for (i, rollout) in rollouts.iter_mut().enumerate() {
        rollout.id = i.to_string();
    }
    connect(sidecar).await.score_batch(v1::ScoreBatchRequest { rollouts }).await.unwrap().into_inner().replies
}

#[track_caller]
pub fn rejected(reply: &v1::Reply, code: v1::RejectionCode, words: &[&str]) {
    let Some(v1::reply::Outcome::Rejection(rejection)) = &reply.outcome else { panic!("{reply:?}") };
    assert_eq!(rejection.code(), code, "{}", rejection.message);
    for word in words {
        assert!(rejection.message.contains(word), "{word:?} is missing in: {}", rejection.message);
    }
}

#[tokio::test]
async fn a_chat_becomes_the_pair_that_the_card_scores() {
    for (name, preset) in
        [("bert-pair", "text-pair"), ("deberta-v3", "openassistant-reward"), ("xlm-roberta", "text-pair")]
    {
        let mut engine = engine(name, preset);
        let pairs = pairs(name);
        let rollouts: Vec<&[u32]> = pairs.iter().map(|pair| &pair.input_ids[..]).collect();
        let table = engine.score(&MicroBatch::pack(&rollouts, true)).unwrap();
        let sidecar = Sidecar::start(loopback(), Box::new(engine)).await.unwrap();
        let chats = pairs.iter().map(|pair| chat(&[("user", &pair.question)], &pair.answer));
        let replies = answers(&sidecar, chats.collect()).await;
        for (i, (reply, pair)) in replies.iter().zip(&pairs).enumerate() {
            let found = rewards(reply).attributes[0];
            assert_eq!(found.to_bits(), table.row(i).unwrap()[0].to_bits(), "{name}: the ids of {:?}", pair.question);
            let expected = pair.scores[0];
            assert!((found - expected).abs() <= 1e-4 * expected.abs().max(1.0), "{name}: {found}, expected {expected}");
        }
        let distinct: std::collections::BTreeSet<_> =
            replies.iter().map(|reply| rewards(reply).attributes[0].to_bits()).collect();
        assert_eq!(distinct.len(), pairs.len(), "{name}: the pairs differ, so that the test can fail");
    }
}

/// BERT's second text is of another type than its first, which a model without pairs knows nothing of.
#[test]
fn types_are_those_of_pairs_alone() {
    let pair = &pairs("bert-pair")[0];
    let batch = MicroBatch::pack(&[&pair.input_ids], true);
    let score = |preset: &str| engine("bert-pair", preset).score(&batch).unwrap().row(0).unwrap()[0];
    assert!((score("text-pair") - score("none")).abs() > 1e-3);
    let version = |preset: &str| engine("bert-pair", preset).card().model_version.clone();
    assert_ne!(version("text-pair"), version("none"));
}

#[tokio::test]
async fn what_is_no_pair_is_rejected() {
    let card = engine("deberta-v3", "openassistant-reward").card().clone();
    let echo = || EchoEngine::new(40).taking(card.text.clone(), card.reads.clone());
    let sidecar = Sidecar::start(loopback(), Box::new(echo())).await.unwrap();
    let text = v1::Rollout { id: "t".into(), input: Some(v1::rollout::Input::Text("a".into())), ..Default::default() };
    let scored = v1::Message { score: true, ..message("assistant", "four") };
    let turns = v1::Chat {
        messages: vec![message("user", "two"), scored, message("user", "why")],
        completion: "because".into(),
        ..Default::default()
    };
    let turns = v1::Rollout { id: "s".into(), input: Some(v1::rollout::Input::Chat(turns)), ..Default::default() };
    let long = "the dog ".repeat(60);
    let replies = answers(
        &sidecar,
        vec![
            text,
            chat(&[("system", "be brief"), ("user", "two")], "four"),
            chat(&[("user", "two [SEP] plus")], "four"),
            turns,
            chat(&[("user", &long)], "four"),
            ids("i", &[2, 5, 3, 6, 3]),
        ],
    )
    .await;
    rejected(&replies[0], v1::RejectionCode::UnsupportedInput, &["a pair of texts"]);
    rejected(&replies[1], v1::RejectionCode::BadMessages, &["one question and one answer"]);
    rejected(&replies[2], v1::RejectionCode::BadMessages, &["[SEP]", "leave it out"]);
    rejected(&replies[3], v1::RejectionCode::BadMessages, &["no other turn is scored"]);
    rejected(&replies[4], v1::RejectionCode::TooLong, &["context is 40"]);
    assert_eq!(rewards(&replies[5]).attributes, EchoEngine::expected(&[2, 5, 3, 6, 3]));
    let cutting = reward_sidecar::sidecar::Config { over_long: OverLong::TruncateLeft, ..loopback() };
    let sidecar = Sidecar::start(cutting, Box::new(echo())).await.unwrap();
    let replies = answers(&sidecar, vec![chat(&[("user", &long)], "four")]).await;
    rejected(&replies[0], v1::RejectionCode::TooLong, &["nothing is cut of a pair"]);
}
