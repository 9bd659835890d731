//! Several reads per rollout, as a client sees them: steps of a process reward model, and every labelled turn of a
//! conversation. With prefix sharing and without, the answers are the same.

mod common;

use std::path::Path;
use std::sync::Arc;

use common::*;
use reward_sidecar::batch::{At, MicroBatch, Sequence};
use reward_sidecar::client::Client;
use reward_sidecar::engine::{
    EchoEngine, Engine, EngineError, ModelCard, ReadAt, ReadPolicy, Reduce, ScoreTable, TextAssets,
};
use reward_sidecar::model::{self, ModelEngine};
use reward_sidecar::proto::v1::RejectionCode as Code;
use reward_sidecar::proto::v1::{self, rollout::Input};
use reward_sidecar::rollout::{self, Message, Rollout};
use reward_sidecar::sidecar::{Config, Sidecar};

/// The end of a step.
const STEP: u32 = 7;

fn steps(reduce: Reduce) -> ReadPolicy {
    ReadPolicy { at: ReadAt::EveryToken { token: STEP, reduce }, ..ReadPolicy::default() }
}

/// An engine that gives NaN wherever it has read a 13.
struct Superstitious(EchoEngine);

impl Engine for Superstitious {
    fn card(&self) -> &Arc<ModelCard> {
        self.0.card()
    }

    fn score(&mut self, batch: &MicroBatch) -> Result<ScoreTable, EngineError> {
        let table = self.0.score(batch)?;
        let row = |(i, read): (usize, &reward_sidecar::batch::Read)| match batch.path(read.row).contains(&13) {
            true => vec![1.0, f32::NAN],
            false => table.row(i).expect("a row for each read").to_vec(),
        };
        Ok(ScoreTable::new(2, batch.reads.iter().enumerate().flat_map(row).collect()))
    }
}

async fn start(share_prefixes: bool, text: TextAssets, reads: ReadPolicy) -> Sidecar {
    let engine = Superstitious(EchoEngine::new(CONTEXT).taking(text, reads));
    // Patience, so that one micro-batch takes all that a test sends.
    let config = Config { share_prefixes, max_wait_ms: 20, ..loopback() };
    Sidecar::start(config, Box::new(engine)).await.unwrap()
}

async fn batch(sidecar: &Sidecar, rollouts: Vec<v1::Rollout>) -> Vec<v1::Reply> {
    connect(sidecar).await.score_batch(v1::ScoreBatchRequest { rollouts }).await.unwrap().into_inner().replies
}

#[tokio::test]
async fn every_step_is_read_and_the_rollout_is_made_of_its_steps() {
    for share_prefixes in [true, false] {
        let sidecar = start(share_prefixes, TextAssets::default(), steps(Reduce::Product)).await;
        let (two, one) = ([1, 2, STEP, 3, STEP, 4], [1, 2, STEP, 5, 6]);
        let rollouts = vec![
            ids("two", &two),
            ids("none", &[1, 2, 3]),
            // Its second step is not to be trusted, and so it is not; those that share its beginning are.
            ids("bad", &[1, 2, STEP, 13, STEP]),
            // What comes behind the last step is not read.
            ids("one", &[&one[..], &[13]].concat()),
        ];
        let replies = batch(&sidecar, rollouts).await;
        let found = rewards(&replies[0]);
        let ending = |tokens: &[u32]| v1::ReadRewards { end_tokens: Some(tokens.len() as u32), ..read_of(tokens) };
        let expected = [ending(&two[..3]), ending(&two[..5])];
        assert_eq!(found.reads, expected);
        assert_eq!((found.reward, found.attributes[0], found.tokens), (15.0, 15.0, 6));
        let checksum: f64 = expected.iter().map(|read| f64::from(read.attributes[1])).product();
        assert_eq!(found.attributes[1], checksum as f32);
        assert_eq!(rejection(&replies[1]), Some(Code::NoReadPosition));
        assert_eq!(rejection(&replies[2]), Some(Code::NonFinite));
        assert_eq!(rewards(&replies[3]).reads, [ending(&one[..3])]);
        assert_eq!(rewards(&replies[3]).attributes, EchoEngine::expected(&one[..3]));

        let card = connect(&sidecar).await.get_model(v1::GetModelRequest::default()).await.unwrap().into_inner();
        let reads = card.reads.unwrap();
        assert_eq!((reads.step_token, reads.reduce()), (Some(STEP), v1::Reduce::Product));
        sidecar.drain().await.unwrap();
    }
}

#[tokio::test]
async fn every_labelled_turn_is_scored_by_its_own_prefix() {
    let (user, assistant, end) = (100, 101, 102);
    let message = |role: &str, content: &str, score| v1::Message {
        role: role.into(),
        content: content.into(),
        score,
        ..Default::default()
    };
    let chat = |completion: &str| {
        let messages = vec![
            message("user", "w1", false),
            message("assistant", "w2 w3", true),
            message("user", "w4", false),
            message("assistant", "w5", false),
            message("user", "w6", false),
            message("assistant", "w8", true),
            message("user", "w9", false),
        ];
        v1::Rollout {
            input: Some(Input::Chat(v1::Chat { messages, completion: completion.into(), ..Default::default() })),
            ..ids(completion, &[])
        }
    };
    let whole = [user, 1, assistant, 2, 3, user, 4, assistant, 5, user, 6, assistant, 8, user, 9, assistant];
    let prefix = |n: usize, rest: &[u32]| [&whole[..n], rest].concat();
    for share_prefixes in [true, false] {
        let sidecar = start(share_prefixes, words(), ReadPolicy::default()).await;
        let replies = batch(&sidecar, vec![chat("w10"), chat("w13"), chat("w11 w12")]).await;
        let turns = [read_of(&prefix(5, &[end])), read_of(&prefix(13, &[end]))];
        for (reply, completion) in [(&replies[0], &[10][..]), (&replies[2], &[11, 12])] {
            let own = prefix(16, &[completion, &[end]].concat());
            let found = rewards(reply);
            assert_eq!(found.attributes, EchoEngine::expected(&own));
            assert_eq!((found.reward, found.tokens), (own.len() as f32, own.len() as u32));
            assert_eq!(found.reads, [&turns[..], &[read_of(&own)]].concat());
        }
        assert_eq!(rejection(&replies[1]), Some(Code::NonFinite));
        sidecar.drain().await.unwrap();
    }
}

/// Through a real model, too: a read in the middle has the bits of a rollout that ends there.
#[test]
fn a_read_has_the_bits_of_a_rollout_that_ends_there() {
    for name in ["llama3-sharded", "mistral-window"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/hf").join(name);
        let model = folder.to_str().unwrap().into();
        let config = model::Config { model, threads: 2, cache_dir: "/nonexistent".into(), ..Default::default() };
        let mut engine = ModelEngine::load(&config).unwrap();
        let vocabulary = u64::from(engine.card().vocabulary_size);
        let mut random = Random(7);
        let tokens: Vec<u32> = (0..100).map(|_| random.below(vocabulary) as u32).collect();
        let ends: Vec<u32> = (0..tokens.len() as u32).filter(|_| random.below(3) == 0).collect();
        let mut bits = |batch: &MicroBatch| -> Vec<Vec<u32>> {
            let table = engine.score(batch).unwrap();
            (0..table.rows()).map(|i| table.row(i).unwrap().iter().map(|v| v.to_bits()).collect()).collect()
        };
        let prefixes: Vec<&[u32]> = ends.iter().map(|&end| &tokens[..=end as usize]).collect();
        let alone: Vec<_> = prefixes.iter().flat_map(|prefix| bits(&MicroBatch::pack(&[prefix], false))).collect();
        let steps = [Sequence { tokens: &tokens, at: At::Positions(&ends), rollout: 0 }];
        assert_eq!(bits(&MicroBatch::pack_sequences(&steps, true)), alone, "{name}");
        let turns: Vec<_> =
            prefixes.iter().map(|prefix| Sequence { tokens: prefix, at: At::Last, rollout: 0 }).collect();
        assert_eq!(bits(&MicroBatch::pack_sequences(&turns, true)), alone, "{name}");
    }
}

/// The client's own types carry all of it.
#[tokio::test]
async fn the_client_knows_reads() {
    let reads = ReadPolicy { append: Some(102), needs: vec![101, 2], ..ReadPolicy::default() };
    let sidecar = start(true, words(), reads.clone()).await;
    let client = Client::connect(format!("grpc://{}", sidecar.grpc_addr().unwrap())).await.unwrap();
    assert_eq!(client.card().await.unwrap().model.reads, reads);
    let turn = Message { score: true, ..Message::new("assistant", "w2") };
    let messages = vec![Message::new("user", "w1"), turn];
    let input = Some(rollout::Input::chat(messages, "w3"));
    let rewards = client.score(Rollout { id: "a".into(), input, ..Rollout::default() }).await.unwrap().unwrap();
    let lengths: Vec<u32> = rewards.reads.iter().map(|read| read.tokens).collect();
    assert_eq!((lengths, rewards.reads[1].reward), (vec![5, 7], rewards.reward));
    // Tokens are completed, and must hold what the head looks for.
    let score = |ids: Vec<u32>| {
        let input = Some(rollout::Input::TokenIds(ids));
        client.score(Rollout { id: "b".into(), input, ..Rollout::default() })
    };
    assert_eq!(score(vec![101, 2]).await.unwrap().unwrap().attributes, EchoEngine::expected(&[101, 2, 102]));
    let rejection = score(vec![2, 101]).await.unwrap().unwrap_err();
    assert_eq!(rejection.code.name(), "NO_READ_POSITION");
    assert!(rejection.message.contains("[101, 2]"), "{rejection}");
    client.close().await;
    sidecar.drain().await.unwrap();
}
