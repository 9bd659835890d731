//! Several callers, and callers that change their minds: one that leaves, cancels or sends much harms no other.

mod common;

use std::sync::atomic::Ordering;

use common::*;
use reward_sidecar::engine::{EchoEngine, ReadPolicy};
use reward_sidecar::proto::v1::RejectionCode as Code;
use reward_sidecar::proto::v1::{self, rollout::Input};
use reward_sidecar::sidecar::{Config, OverLong, Sidecar};

async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::task::yield_now().await;
    }
}

/// Cancelling a call cancels what the engine has not begun, at once; another client's rollouts are not touched.
#[tokio::test]
async fn a_caller_that_leaves_is_skipped() {
    let (sidecar, gate) = gated(Config { max_batch_rollouts: 1, ..loopback() }).await;
    let (send, replies) = open(&sidecar).await;
    for i in 0..50 {
        send.send(ids(format!("{i}"), &[i])).unwrap();
    }
    // Once one has reached the engine, and so its batch cannot be called back, the caller leaves.
    until(|| gate.reached.load(Ordering::SeqCst) == 1 && sidecar.unanswered() == 50).await;
    drop((send, replies));
    // Of those who left, only what runs and what lies ready may stay unanswered while the gate is closed.
    until(|| sidecar.unanswered() <= 2).await;
    let (other, other_replies) = open(&sidecar).await;
    other.send(ids("other", &[1, 2, 3])).unwrap();
    drop(other);
    gate.open();
    let replies = all(other_replies).await;
    assert_eq!(rewards(&replies[0]).tokens, 3);
    sidecar.drain().await.unwrap();
    // The one that ran when its caller left, and the other's.
    assert_eq!(gate.reached.load(Ordering::SeqCst), 2);
}

/// A rollout that its caller cancels is answered at once and never scored; its neighbours on the stream are.
#[tokio::test]
async fn one_rollout_of_a_stream_is_cancelled() {
    let (sidecar, gate) = gated(Config { max_batch_rollouts: 1, ..loopback() }).await;
    let (send, mut replies) = open(&sidecar).await;
    for i in 0..10 {
        send.send(ids(format!("{i}"), &[i])).unwrap();
    }
    until(|| gate.reached.load(Ordering::SeqCst) == 1 && sidecar.unanswered() == 10).await;
    let cancel = |id: &str| v1::Rollout { cancel: true, ..ids(id, &[]) };
    // The last two are neither in the engine nor ready for it. One that is not in flight is nobody's.
    for id in ["8", "nobody", "9", "8"] {
        send.send(cancel(id)).unwrap();
    }
    for id in ["8", "9"] {
        let reply = replies.message().await.unwrap().unwrap();
        assert_eq!((reply.id.as_str(), rejection(&reply)), (id, Some(Code::Cancelled)));
    }
    // The id is free again.
    send.send(ids("8", &[1, 2, 3])).unwrap();
    drop(send);
    gate.open();
    let scored = all(replies).await;
    assert_eq!(scored.len(), 9);
    assert_eq!(rewards(scored.iter().find(|reply| reply.id == "8").unwrap()).tokens, 3);
    assert_eq!(gate.reached.load(Ordering::SeqCst), 9);
    sidecar.drain().await.unwrap();
}

/// One stream's texts are tokenized beside each other: a long one does not hold up those behind it.
#[tokio::test]
async fn one_stream_keeps_all_tokenizer_threads_busy() {
    let engine = EchoEngine::new(CONTEXT).taking(words(), ReadPolicy::default());
    let config = Config { tokenizer_threads: 2, over_long: OverLong::TruncateLeft, ..loopback() };
    let sidecar = Sidecar::start(config, Box::new(engine)).await.unwrap();
    let text = |id: &str, text: String| v1::Rollout { input: Some(Input::Text(text)), ..ids(id, &[]) };
    let (send, mut replies) = open(&sidecar).await;
    send.send(text("long", "w1 ".repeat(1 << 20))).unwrap();
    for i in 0..50 {
        send.send(text(&format!("{i}"), "w1 w2 w3".into())).unwrap();
    }
    drop(send);
    for _ in 0..50 {
        assert_ne!(replies.message().await.unwrap().unwrap().id, "long", "a million words before three");
    }
    assert_eq!(replies.message().await.unwrap().unwrap().id, "long");
    sidecar.drain().await.unwrap();
}

/// Cancelling needs no room on the stream: with as many rollouts in flight as are allowed, it is still read.
#[tokio::test]
async fn a_full_stream_can_be_cancelled() {
    let limit = 4;
    let (sidecar, gate) = gated(Config { stream_in_flight: limit, max_batch_rollouts: 1, ..loopback() }).await;
    let (send, mut replies) = open(&sidecar).await;
    for i in 0..limit as u32 {
        send.send(ids(format!("{i}"), &[i])).unwrap();
    }
    until(|| gate.reached.load(Ordering::SeqCst) == 1 && sidecar.unanswered() == limit).await;
    send.send(v1::Rollout { cancel: true, ..ids("3", &[]) }).unwrap();
    let reply = replies.message().await.unwrap().unwrap();
    assert_eq!((reply.id.as_str(), rejection(&reply)), ("3", Some(Code::Cancelled)));
    gate.open();
    sidecar.drain().await.unwrap();
}
