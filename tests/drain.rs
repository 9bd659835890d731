//! The end of a sidecar: what was accepted is answered, and its answers are read, or the end says how many were not.

mod common;

use std::collections::HashSet;
use std::time::Duration;

use common::*;
use reward_sidecar::proto::v1::RejectionCode as Code;
use reward_sidecar::proto::v1::{self, reward_service_client::RewardServiceClient};
use reward_sidecar::sidecar::{Config, Sidecar};
use tokio_stream::iter;
use tonic::Streaming;
use tonic::transport::Endpoint;

/// Rollouts of a client that does not read; their replies are many times what its windows hold.
const ROLLOUTS: usize = 3000;

/// Room for all of them on one stream.
fn wide() -> Config {
    Config { stream_in_flight: ROLLOUTS, ..loopback() }
}

/// A stream of a client whose HTTP/2 windows are small, with [`ROLLOUTS`] sent and all of them answered, none read.
async fn all_answered_and_none_read(sidecar: &Sidecar, gate: &Gate) -> Streaming<v1::Reply> {
    let address = format!("http://{}", sidecar.grpc_addr().unwrap());
    let endpoint = Endpoint::from_shared(address).unwrap();
    let channel = endpoint.initial_stream_window_size(1024).initial_connection_window_size(65_535).connect().await;
    let rollouts = iter((0..ROLLOUTS).map(|i| ids(format!("r{i}"), &[i as u32, 1])));
    let replies = RewardServiceClient::new(channel.unwrap()).score(rollouts).await.unwrap().into_inner();
    while sidecar.unanswered() < ROLLOUTS {
        tokio::task::yield_now().await;
    }
    gate.open();
    while sidecar.unanswered() > 0 {
        tokio::task::yield_now().await;
    }
    replies
}

/// A trainer that is busy for a while loses nothing, as long as the drain has time for it.
#[tokio::test]
async fn a_drain_waits_for_a_client_that_pauses_reading() {
    let (sidecar, gate) = gated(wide()).await;
    let replies = all_answered_and_none_read(&sidecar, &gate).await;
    let draining = tokio::spawn(sidecar.drain());
    // The pause itself is what is tested: longer than a connection has to close when nothing is left to be read.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let scored: HashSet<String> = all(replies).await.iter().map(|r| (rewards(r), r.id.clone()).1).collect();
    assert_eq!(scored.len(), ROLLOUTS);
    draining.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_drain_says_how_many_answers_nobody_has_read() {
    let (sidecar, gate) = gated(Config { drain_ms: 50, ..wide() }).await;
    let replies = all_answered_and_none_read(&sidecar, &gate).await;
    let error = sidecar.drain().await.unwrap_err();
    assert_eq!(error.unanswered, 0);
    // What lies in buffers and windows has left; the rest is known not to have been read.
    assert!(error.unread > ROLLOUTS / 2 && error.unread <= ROLLOUTS, "{error}");
    assert!(
        error.to_string().contains(&format!("the answers of at least {} had not been read", error.unread)),
        "{error}"
    );
    drop(replies);
}

#[tokio::test]
async fn draining_answers_what_was_accepted_and_refuses_the_rest() {
    let (sidecar, gate) = gated(loopback()).await;
    let (send, mut replies) = open(&sidecar).await;
    let accepted: HashSet<String> = (0..20).map(|i| format!("{i}")).collect();
    for id in &accepted {
        send.send(ids(id, &[1])).unwrap();
    }
    // A rejection proves that the server has read all that was sent before it.
    send.send(ids("bad", &[])).unwrap();
    assert_eq!(rejection(&replies.message().await.unwrap().unwrap()), Some(Code::Empty));
    let draining = tokio::spawn(sidecar.drain());
    // The door closes before anything else can happen: sooner or later a new rollout is refused.
    let mut asked = 0;
    loop {
        send.send(ids(format!("late{asked}"), &[])).unwrap();
        asked += 1;
        if rejection(&replies.message().await.unwrap().unwrap()) == Some(Code::Draining) {
            break;
        }
    }
    gate.open();
    let answered: Vec<_> = all(replies).await;
    let scored: HashSet<String> = answered.iter().map(|r| (rewards(r), r.id.clone()).1).collect();
    assert_eq!(scored, accepted);
    assert_eq!(answered.len(), accepted.len(), "each once");
    draining.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_drain_that_runs_out_of_time_rejects_what_is_left() {
    let (sidecar, gate) = gated(Config { drain_ms: 50, max_batch_rollouts: 1, ..loopback() }).await;
    let (send, mut replies) = open(&sidecar).await;
    for i in 0..5 {
        send.send(ids(format!("{i}"), &[i])).unwrap();
    }
    send.send(ids("bad", &[])).unwrap();
    assert_eq!(rejection(&replies.message().await.unwrap().unwrap()), Some(Code::Empty));
    let (error, rejected) = tokio::join!(sidecar.drain(), async {
        // One is in the engine and one lies ready behind it; the other three are rejected when the time is up.
        let mut rejected = Vec::new();
        for _ in 0..3 {
            rejected.push(rejection(&replies.message().await.unwrap().unwrap()));
        }
        rejected
    });
    assert_eq!(error.unwrap_err().unanswered, 5);
    assert_eq!(rejected, [Some(Code::Draining); 3]);
    gate.open();
}
