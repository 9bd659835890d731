//! Models that take over from each other while rollouts come: each answer is of the generation that took its rollout.

mod common;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use common::*;
use reward_sidecar::engine::EchoEngine;
use reward_sidecar::sidecar::{Accepted, Answered, Config, Observer, Sidecar};

/// An echo whose version says which one it is, and which says no rollout that another has accepted.
fn named(version: &str) -> Box<Named> {
    Box::new(Named::new(EchoEngine::new(CONTEXT), "echo", version))
}

#[tokio::test]
async fn what_a_generation_accepted_it_also_scores() {
    // Nothing of the first generation is scored before the second has taken over.
    let (mut sidecar, gate) = gated(Config { max_batch_rollouts: 3, ..loopback() }).await;
    let (send, mut replies) = open(&sidecar).await;
    for i in 0..10 {
        send.send(ids(format!("old{i}"), &[i])).unwrap();
    }
    while gate.reached.load(Ordering::SeqCst) == 0 || sidecar.unanswered() < 10 {
        tokio::task::yield_now().await;
    }
    assert_eq!(sidecar.replace(named("echo-new")).await.unwrap(), 2);
    assert_eq!(&*sidecar.intake().card().model_version, "echo-new");
    for i in 0..10 {
        send.send(ids(format!("new{i}"), &[i])).unwrap();
    }
    // The new generation does not wait for the old one.
    for _ in 0..10 {
        let reply = replies.message().await.unwrap().unwrap();
        assert!(reply.id.starts_with("new"), "{}", reply.id);
        assert_eq!(rewards(&reply).model_version, "echo-new");
    }
    gate.open();
    for _ in 0..10 {
        let reply = replies.message().await.unwrap().unwrap();
        assert!(reply.id.starts_with("old"), "{}", reply.id);
        assert_eq!(rewards(&reply).model_version, "echo-2");
    }
    drop(send);
    sidecar.drain().await.unwrap();
    assert_eq!(gate.reached.load(Ordering::SeqCst), 10, "the first engine scored what it had accepted and no more");
}

/// Over a lane, too, each reply bears the version that gave it, and the client's card follows.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_lane_learns_of_the_next_generation() {
    use reward_sidecar::client::blocking::Client;
    use reward_sidecar::rollout::{Input, Rollout};
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lanes.sock");
    let config = Config { shm: Some(path.clone()), ..Config::default() };
    let mut sidecar = Sidecar::start(config, named("v1")).await.unwrap();
    let client = tokio::task::spawn_blocking(move || Client::connect(format!("shm://{}", path.display())).unwrap());
    let client = Arc::new(client.await.unwrap());
    let score = async || {
        let client = Arc::clone(&client);
        let rollout = Rollout { id: "a".into(), input: Some(Input::TokenIds(vec![1, 2])), ..Rollout::default() };
        let ask = move || {
            let outcomes = client.score_all(Arc::new(vec![rollout]), &mut || true).unwrap();
            let card = client.card(&mut || true).unwrap();
            (outcomes.into_iter().next().unwrap().unwrap(), card.model.model_version.to_string())
        };
        let (rewards, of_card) = tokio::task::spawn_blocking(ask).await.unwrap();
        (rewards.model_version.to_string(), rewards.generation, of_card)
    };
    assert_eq!(score().await, ("v1".to_owned(), 1, "v1".to_owned()));
    for generation in 2..5 {
        assert_eq!(sidecar.replace(named(&format!("v{generation}"))).await.unwrap(), generation);
        let version = format!("v{generation}");
        assert_eq!(score().await, (version.clone(), generation, version));
    }
    sidecar.drain().await.unwrap();
}

/// Number, id, tokens and generation of an accepted rollout.
type Row = (u64, String, Arc<[u32]>, u64);

/// What an observer saw.
#[derive(Default)]
struct Seen {
    accepted: Mutex<Vec<Row>>,
    /// Number, id, and whether there were rewards.
    answered: Mutex<Vec<(Option<u64>, String, bool)>>,
}

impl Observer for Seen {
    fn accepted(&self, accepted: &Accepted<'_>) {
        let Accepted { number, id, rollout, generation, .. } = *accepted;
        self.accepted.lock().unwrap().push((number, id.to_owned(), Arc::clone(&rollout.tokens), generation));
    }

    fn answered(&self, answered: &Answered<'_>) {
        let Answered { number, id, outcome, .. } = *answered;
        self.answered.lock().unwrap().push((number, id.to_owned(), outcome.is_ok()));
    }
}

#[tokio::test]
async fn an_observer_sees_every_rollout_and_its_answer_once() {
    let seen = Arc::new(Seen::default());
    let engine = Box::new(EchoEngine::new(CONTEXT));
    let config = Config { known_answer_ms: 0, ..loopback() };
    let observers: Vec<Arc<dyn Observer>> = vec![seen.clone()];
    let sidecar = Sidecar::start_observed(config, engine, observers).await.unwrap();
    let (send, replies) = open(&sidecar).await;
    for i in 0..5 {
        send.send(ids(format!("{i}"), &[i, 7])).unwrap();
    }
    send.send(ids("bad", &[])).unwrap();
    drop(send);
    assert_eq!(all(replies).await.len(), 6);
    sidecar.drain().await.unwrap();
    let mut accepted = std::mem::take(&mut *seen.accepted.lock().unwrap());
    accepted.sort();
    let expected: Vec<Row> = (0..5u32).map(|i| (u64::from(i), i.to_string(), vec![i, 7].into(), 1)).collect();
    assert_eq!(accepted, expected);
    let mut answered = std::mem::take(&mut *seen.answered.lock().unwrap());
    answered.sort();
    let mut expected: Vec<_> = (0..5u32).map(|i| (Some(u64::from(i)), i.to_string(), true)).collect();
    expected.insert(0, (None, "bad".into(), false));
    assert_eq!(answered, expected);
}
