//! The gRPC transport, as a client sees it.

mod common;

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::atomic::Ordering;

use common::*;
use reward_sidecar::engine::EchoEngine;
use reward_sidecar::proto::v1::RejectionCode as Code;
use reward_sidecar::proto::v1::{self, rollout::Input};
use reward_sidecar::sidecar::{Config, OverLong, Sidecar};

#[tokio::test]
async fn a_stream_answers_each_rollout_once_by_its_id() {
    let sidecar = echo(loopback()).await;
    let (send, replies) = open(&sidecar).await;
    let tokens = |i: u32| (0..=i % 7).map(|t| t * 3 + i).collect::<Vec<_>>();
    for i in 0..100 {
        send.send(ids(format!("r{i}"), &tokens(i))).unwrap();
    }
    drop(send);
    let replies: HashMap<String, v1::Reply> = all(replies).await.into_iter().map(|r| (r.id.clone(), r)).collect();
    assert_eq!(replies.len(), 100);
    for i in 0..100 {
        let rewards = rewards(&replies[&format!("r{i}")]);
        assert_eq!(rewards.attributes, EchoEngine::expected(&tokens(i)));
        assert_eq!(rewards.reward, tokens(i).len() as f32, "the default weighting is length: 1");
        assert_eq!(rewards.tokens as usize, tokens(i).len());
        assert_eq!(rewards.model_version, *sidecar.intake().card().model_version);
    }
    sidecar.drain().await.unwrap();
}

#[tokio::test]
async fn what_is_wrong_is_rejected_by_code_and_the_stream_lives_on() {
    let sidecar = echo(loopback()).await;
    let (send, mut replies) = open(&sidecar).await;
    let weigh =
        |name: &str, weight| v1::Aggregation { weights: HashMap::from([(name.into(), weight)]), ..Default::default() };
    let with = |aggregation| v1::Rollout { aggregation: Some(aggregation), ..ids("x", &[1]) };
    let clip = v1::Clip { min: Some(2.0), max: Some(1.0) };
    let chat = |messages| Input::Chat(v1::Chat { messages, completion: "yes".into(), ..Default::default() });
    let message = v1::Message { role: "user".into(), content: "really?".into(), ..Default::default() };
    let bad = [
        (v1::Rollout { input: None, ..ids("x", &[]) }, Code::NoInput, "input"),
        (ids("x", &[]), Code::Empty, "input"),
        (ids("", &[1]), Code::BadId, "id"),
        (ids("x".repeat(257), &[1]), Code::BadId, "id"),
        (ids("x", &vec![1; CONTEXT as usize + 1]), Code::TooLong, "context is 64"),
        (ids("x", &[1, u32::MAX]), Code::TokenOutOfRange, "token_ids.ids[1]"),
        (
            v1::Rollout { input: Some(Input::Text("no tokenizer here".into())), ..ids("x", &[]) },
            Code::UnsupportedInput,
            "token_ids",
        ),
        (v1::Rollout { input: Some(chat(vec![])), ..ids("x", &[]) }, Code::BadMessages, "chat.messages"),
        (v1::Rollout { input: Some(chat(vec![message])), ..ids("x", &[]) }, Code::UnsupportedInput, "no chat template"),
        (with(weigh("humour", 1.0)), Code::UnknownAttribute, "length, checksum"),
        (with(weigh("length", f64::NAN)), Code::BadOption, "weights.length"),
        (with(weigh("length", f64::INFINITY)), Code::BadOption, "weights.length"),
        (with(v1::Aggregation { weighting: "other".into(), ..Default::default() }), Code::UnknownWeighting, "default"),
        (
            with(v1::Aggregation { name: "median".into(), ..Default::default() }),
            Code::UnknownAggregation,
            "weighted_sum",
        ),
        (with(v1::Aggregation { clip: Some(clip), ..Default::default() }), Code::BadOption, "clip"),
        (with(weigh("length", 1e300)), Code::NonFinite, "overflows"),
        (v1::Rollout { finish_reason: 77, ..ids("x", &[1]) }, Code::Malformed, "finish_reason"),
        (v1::Rollout { deadline_ms: Some(u64::MAX), ..ids("x", &[1]) }, Code::BadOption, "deadline_ms"),
        (v1::Rollout { deadline_ms: Some(0), ..ids("x", &[1]) }, Code::DeadlineExceeded, "deadline"),
    ];
    for (rollout, code, names) in bad {
        let id = rollout.id.clone();
        send.send(rollout).unwrap();
        let reply = replies.message().await.unwrap().expect("the stream lives on");
        // An id that is too long comes back cut.
        assert_eq!(reply.id, id[..id.len().min(256)]);
        let v1::reply::Outcome::Rejection(rejection) = reply.outcome.clone().unwrap() else {
            panic!("{code:?} was scored: {reply:?}")
        };
        assert_eq!(rejection.code(), code, "{}", rejection.message);
        assert!(rejection.message.contains(names), "'{}' does not name '{names}'", rejection.message);
    }
    send.send(ids("x", &[1])).unwrap();
    assert_eq!(rewards(&replies.message().await.unwrap().unwrap()).reward, 1.0);
}

#[tokio::test]
async fn an_id_in_flight_cannot_be_used_again_until_it_is_answered() {
    let (sidecar, gate) = gated(loopback()).await;
    let (send, mut replies) = open(&sidecar).await;
    send.send(ids("same", &[1, 2])).unwrap();
    send.send(ids("same", &[3])).unwrap();
    let second = replies.message().await.unwrap().unwrap();
    assert_eq!(rejection(&second), Some(Code::DuplicateId));
    gate.open();
    assert_eq!(rewards(&replies.message().await.unwrap().unwrap()).tokens, 2);
    send.send(ids("same", &[4, 5, 6])).unwrap();
    assert_eq!(rewards(&replies.message().await.unwrap().unwrap()).tokens, 3);
}

#[tokio::test]
async fn a_batch_is_answered_in_order_with_the_bad_ones_named() {
    let sidecar = echo(loopback()).await;
    let mut client = connect(&sidecar).await;
    let rollouts = vec![ids("a", &[1]), ids("bad", &[]), ids("b", &[1, 2]), ids("a", &[1, 2, 3]), ids("c", &[9])];
    let replies = client.score_batch(v1::ScoreBatchRequest { rollouts }).await.unwrap().into_inner().replies;
    let seen: Vec<_> = replies.iter().map(|r| r.id.as_str()).collect();
    assert_eq!(seen, ["a", "bad", "b", "a", "c"]);
    let codes: Vec<_> = replies.iter().map(rejection).collect();
    assert_eq!(codes, [None, Some(Code::Empty), None, Some(Code::DuplicateId), None]);
}

#[tokio::test]
async fn the_card_says_what_may_be_asked() {
    let sidecar = echo(Config { over_long: OverLong::TruncateLeft, stream_in_flight: 17, ..loopback() }).await;
    let card = connect(&sidecar).await.get_model(v1::GetModelRequest::default()).await.unwrap().into_inner();
    assert_eq!(card.attributes, ["length", "checksum"]);
    assert_eq!(card.default_weighting, "default");
    assert_eq!(card.weightings[0].weights["length"], 1.0);
    assert_eq!((card.context_tokens, card.in_flight_limit), (CONTEXT, 17));
    assert_eq!(card.over_long, "truncate-left");
    assert_eq!(card.aggregations, ["weighted_sum"]);
}

#[tokio::test]
async fn over_long_prompts_are_cut_from_the_left_and_flagged() {
    let sidecar = echo(Config { over_long: OverLong::TruncateLeft, ..loopback() }).await;
    let (send, mut replies) = open(&sidecar).await;
    let context = CONTEXT as usize;
    let prompt: Vec<u32> = (0..context as u32).collect();
    let completion = [1000, 1001, 1002];
    let apart = |id: &str, prompt: &[u32], completion: &[u32]| {
        let (prompt, completion) = (prompt.to_vec(), completion.to_vec());
        let input = Input::PromptCompletionIds(v1::PromptCompletionIds { prompt, completion });
        v1::Rollout { input: Some(input), ..ids(id, &[]) }
    };
    send.send(apart("cut", &prompt, &completion)).unwrap();
    let reply = replies.message().await.unwrap().unwrap();
    let kept = [&prompt[3..], &completion].concat();
    assert_eq!(rewards(&reply).attributes, EchoEngine::expected(&kept));
    assert!(rewards(&reply).truncated);

    send.send(apart("completion fills the context", &[7], &prompt)).unwrap();
    let reply = replies.message().await.unwrap().unwrap();
    assert_eq!((rewards(&reply).truncated, rewards(&reply).tokens), (true, CONTEXT));
    assert_eq!(rewards(&reply).attributes, EchoEngine::expected(&prompt));

    send.send(apart("completion too long", &[7], &[&prompt[..], &completion].concat())).unwrap();
    assert_eq!(rejection(&replies.message().await.unwrap().unwrap()), Some(Code::TooLong));
}

/// The stated limit holds: with `stream_in_flight` rollouts unanswered or their replies unread, the next is not read.
/// A bad rollout is answered the moment it is read, so its place among the replies tells when that was.
#[tokio::test]
async fn a_stream_is_not_read_beyond_its_limit() {
    let limit = 4;
    let config = Config { stream_in_flight: limit, max_batch_rollouts: 1, ..loopback() };
    let (sidecar, gate) = gated(config).await;
    let (send, replies) = open(&sidecar).await;
    for i in 0..10 {
        send.send(ids(format!("{i}"), &[i])).unwrap();
    }
    send.send(ids("bad", &[])).unwrap();
    drop(send);
    while gate.reached.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    gate.open();
    let replies = all(replies).await;
    assert_eq!(replies.len(), 11);
    let place = replies.iter().position(|reply| reply.id == "bad").unwrap();
    assert!(place > 10 - limit, "read when {} were unanswered", 10 - place);
}

#[tokio::test]
async fn closing_the_sending_side_lets_what_is_in_flight_finish() {
    let (sidecar, gate) = gated(loopback()).await;
    let (send, replies) = open(&sidecar).await;
    for i in 0..10 {
        send.send(ids(format!("{i}"), &[i])).unwrap();
    }
    drop(send);
    gate.open();
    assert_eq!(all(replies).await.len(), 10);
}

#[tokio::test]
async fn a_unix_socket_for_its_owner_alone_beside_tcp() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sidecar.sock");
    let config = || Config { uds: Some(path.clone()), ..loopback() };
    let sidecar = echo(config()).await;
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let Err(taken) = Sidecar::start(config(), Box::new(EchoEngine::new(CONTEXT))).await else {
        panic!("two sidecars on one socket")
    };
    assert!(taken.to_string().contains("sidecar.sock"), "{taken}");

    let channel = tonic::transport::Endpoint::from_shared(format!("unix://{}", path.display())).unwrap();
    let mut client = v1::reward_service_client::RewardServiceClient::new(channel.connect().await.unwrap());
    let batch = v1::ScoreBatchRequest { rollouts: vec![ids("a", &[1, 2])] };
    let over_uds = client.score_batch(batch.clone()).await.unwrap().into_inner();
    let over_tcp = connect(&sidecar).await.score_batch(batch).await.unwrap().into_inner();
    assert_eq!(rewards(&over_uds.replies[0]).attributes, rewards(&over_tcp.replies[0]).attributes);
    drop(client);
    sidecar.drain().await.unwrap();
    assert!(!path.exists(), "the socket's file goes with its server");

    // A file that a dead process left is no obstacle.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    echo(config()).await.drain().await.unwrap();
}

/// A tokenizer may know more tokens than the model: such a text is rejected alone, before it reaches the engine.
#[tokio::test]
async fn tokens_that_the_model_does_not_have_never_reach_it() {
    use reward_sidecar::batch::MicroBatch;
    use reward_sidecar::engine::{Engine, EngineError, ModelCard, ScoreTable, TextAssets};
    struct Small(EchoEngine, std::sync::Arc<ModelCard>);
    impl Engine for Small {
        fn card(&self) -> &std::sync::Arc<ModelCard> {
            &self.1
        }
        fn score(&mut self, batch: &MicroBatch) -> Result<ScoreTable, EngineError> {
            self.0.score(batch)
        }
    }
    let tokenizer = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": {"known": 0, "unk": 1, "beyond": 2}, "unk_token": "unk"},
    });
    let echo = EchoEngine::new(CONTEXT);
    let text = TextAssets { tokenizer_json: Some(tokenizer.to_string().into_bytes().into()), ..TextAssets::default() };
    let card = ModelCard { vocabulary_size: 2, text, ..echo.card().as_ref().clone() };
    let sidecar = Sidecar::start(loopback(), Box::new(Small(echo, card.into()))).await.unwrap();
    let (send, mut replies) = open(&sidecar).await;
    for (words, code) in [("known beyond", Some(Code::TokenOutOfRange)), ("known strange", None)] {
        send.send(v1::Rollout { input: Some(Input::Text(words.into())), ..ids("x", &[]) }).unwrap();
        assert_eq!(rejection(&replies.message().await.unwrap().unwrap()), code, "{words}");
    }
}

#[tokio::test]
async fn an_engine_that_fails_fails_its_batch_alone() {
    use reward_sidecar::batch::MicroBatch;
    use reward_sidecar::engine::{Engine, EngineError, ModelCard, ScoreTable};
    /// Panics on token 13, errs on 14, gives NaN on 15.
    struct Moody(EchoEngine);
    impl Engine for Moody {
        fn card(&self) -> &std::sync::Arc<ModelCard> {
            self.0.card()
        }
        fn score(&mut self, batch: &MicroBatch) -> Result<ScoreTable, EngineError> {
            assert!(!batch.tokens.contains(&13), "thirteen");
            match batch.tokens.contains(&14) {
                true => Err(EngineError::Forward("fourteen".into())),
                false if batch.tokens.contains(&15) => Ok(ScoreTable::new(2, vec![1.0, f32::NAN])),
                false => self.0.score(batch),
            }
        }
    }
    let config = Config { max_batch_rollouts: 1, ..loopback() };
    let sidecar = Sidecar::start(config, Box::new(Moody(EchoEngine::new(CONTEXT)))).await.unwrap();
    let (send, mut replies) = open(&sidecar).await;
    for (token, expected) in
        [(13, Some(Code::EngineFailed)), (14, Some(Code::EngineFailed)), (15, Some(Code::NonFinite)), (16, None)]
    {
        send.send(ids("x", &[token])).unwrap();
        assert_eq!(rejection(&replies.message().await.unwrap().unwrap()), expected, "token {token}");
    }
}

/// A deadline that passes while the engine is busy is answered then, not when the engine is done.
#[tokio::test]
async fn an_expired_rollout_does_not_wait_for_the_engine() {
    let (sidecar, gate) = gated(Config { max_batch_rollouts: 1, ..loopback() }).await;
    let (send, mut replies) = open(&sidecar).await;
    // One in the engine, one ready, one waiting; all of them before the late one.
    for id in ["running", "ready", "waiting"] {
        send.send(v1::Rollout { priority: 1, ..ids(id, &[1]) }).unwrap();
    }
    while gate.reached.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    send.send(v1::Rollout { deadline_ms: Some(20), ..ids("late", &[2]) }).unwrap();
    // The gate is closed: only the deadline can be the answer.
    let reply = replies.message().await.unwrap().unwrap();
    assert_eq!((reply.id.as_str(), rejection(&reply)), ("late", Some(Code::DeadlineExceeded)));
    gate.open();
    drop(send);
    assert_eq!(all(replies).await.len(), 3);
}

/// A queue that is full is company enough, however patient the batcher is: waiting for more would be waiting for ever.
#[tokio::test]
async fn a_full_queue_does_not_wait_for_company() {
    let patience = reward_sidecar::limits::MAX_DEADLINE_MS;
    for (queue_rollouts, queue_tokens) in [(3, 1 << 20), (1 << 10, 7)] {
        let sidecar = echo(Config { max_wait_ms: patience, queue_rollouts, queue_tokens, ..loopback() }).await;
        let (send, mut replies) = open(&sidecar).await;
        for i in 0..20 {
            send.send(ids(format!("{i}"), &[i, i])).unwrap();
        }
        // What is left at the end waits for company that will not come, so only the drain ends it.
        for _ in 0..14 {
            rewards(&replies.message().await.unwrap().unwrap());
        }
        drop(send);
        let (rest, drained) = tokio::join!(all(replies), sidecar.drain());
        drained.unwrap();
        assert_eq!(rest.len(), 6);
    }
}
