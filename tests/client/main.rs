//! The client against a server that misbehaves as the test pleases.
#![cfg(all(feature = "client", feature = "sidecar"))]

mod blocking;
#[path = "../common/mod.rs"]
mod common;
mod fake;
mod process;
mod time;
mod version;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use reward_sidecar::client::{BackOff, BadReply, Client, ClientError};
use reward_sidecar::proto::v1;
use reward_sidecar::reward::Code;
use reward_sidecar::rollout::{Input, Rollout};
use tonic::Status;

use fake::{Fake, Manners, reward_of};

const MS: Duration = Duration::from_millis(1);

/// Quick to come back, and generous enough for a busy machine.
const PATIENT: BackOff = BackOff { initial: MS, max: Duration::from_millis(20), budget: Duration::from_secs(60) };

/// Gives up soon.
const HASTY: BackOff = BackOff { initial: MS, max: Duration::from_millis(5), budget: Duration::from_millis(100) };

fn rollout(id: &str, text: &str) -> Rollout {
    Rollout { id: id.into(), input: Some(Input::Text(text.into())), ..Rollout::default() }
}

fn text_of(rollout: &v1::Rollout) -> &str {
    match &rollout.input {
        Some(v1::rollout::Input::Text(text)) => text,
        other => panic!("these tests send texts, not {other:?}"),
    }
}

fn texts(n: usize) -> Vec<String> {
    (0..n).map(|i| format!("text {i}")).collect()
}

fn address(path: &Path) -> String {
    format!("unix://{}", path.display())
}

/// A socket's path that is nobody else's; the folder is removed with the guard.
fn socket() -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("reward.sock");
    (folder, path)
}

#[tokio::test]
async fn answers_find_their_rollouts_in_any_order() {
    let (mut fake, address) = Fake::on_tcp(Manners::default());
    let client = Client::connect(address).await.unwrap();
    assert_eq!(client.card().await.unwrap().model.name, "fake");

    // The same id each time, from clones: whose answer is whose does not depend on it.
    let mut pending = Vec::new();
    for text in texts(20) {
        pending.push((text.clone(), client.clone().submit(rollout("same", &text)).await.unwrap()));
    }
    let mut conversation = fake.conversation().await;
    let rollouts = conversation.rollouts(20).await;
    assert_eq!(rollouts.iter().map(|r| &r.id).collect::<BTreeSet<_>>().len(), 20);
    for rollout in rollouts.iter().rev() {
        conversation.answer(rollout).await;
    }
    for (text, pending) in pending {
        assert_eq!(pending.id(), "same");
        assert_eq!(pending.await.unwrap().unwrap().reward, reward_of(&text));
    }
}

#[tokio::test]
async fn a_rejection_is_the_rollouts_alone() {
    let (_folder, path) = socket();
    let mut fake = Fake::at(&path, Manners::default());
    let client = Client::connect(address(&path)).await.unwrap();
    let server = tokio::spawn(async move {
        let mut conversation = fake.conversation().await;
        for rollout in conversation.rollouts(6).await {
            match text_of(&rollout) {
                "text 2" => conversation.reject(&rollout, Code::TooLong).await,
                "text 4" => conversation.reply(v1::Reply { id: rollout.id, outcome: None }).await,
                _ => conversation.answer(&rollout).await,
            }
        }
        (fake, conversation)
    });
    let mut answers = client.stream(texts(6).into_iter().map(|text| rollout(&text, &text)));
    let mut rewarded = 0;
    while let Some((id, answer)) = answers.next().await {
        match (id.as_str(), answer) {
            ("text 2", answer) => assert_eq!(answer.unwrap().unwrap_err().code, Code::TooLong),
            // No answer that could be trusted: the client's error, not a silent retry and not a default.
            ("text 4", answer) => {
                assert!(matches!(answer, Err(ClientError::BadReply(BadReply::NoOutcome { .. }))), "{answer:?}");
            }
            (text, answer) => {
                assert_eq!(answer.unwrap().unwrap().reward, reward_of(text));
                rewarded += 1;
            }
        }
    }
    assert_eq!(rewarded, 4);
    drop(server.await.unwrap());
}

#[tokio::test]
async fn order_is_kept_where_it_is_asked_for() {
    let (_folder, path) = socket();
    let mut fake = Fake::at(&path, Manners { in_flight_limit: 7, ..Manners::default() });
    let client = Client::connect(address(&path)).await.unwrap();
    let server = tokio::spawn(async move {
        let mut conversation = fake.conversation().await;
        // Sevens, each answered backwards.
        for _ in 0..20 {
            for rollout in conversation.rollouts(7).await.iter().rev() {
                conversation.answer(rollout).await;
            }
        }
        (fake, conversation)
    });
    let outcomes = client.score_all(texts(140).iter().map(|text| rollout("", text))).await.unwrap();
    let rewards: Vec<f32> = outcomes.into_iter().map(|outcome| outcome.unwrap().reward).collect();
    assert_eq!(rewards, texts(140).iter().map(|text| reward_of(text)).collect::<Vec<_>>());
    drop(server.await.unwrap());
}

#[tokio::test]
async fn what_a_dead_server_left_unanswered_is_asked_again() {
    let (_folder, path) = socket();
    let mut fake = Fake::at(&path, Manners::default());
    let client = Client::builder(address(&path)).back_off(PATIENT).connect().await.unwrap();
    let mut pending = BTreeMap::new();
    for text in texts(10) {
        pending.insert(text.clone(), client.submit(rollout("", &text)).await.unwrap());
    }
    let mut conversation = fake.conversation().await;
    let rollouts = conversation.rollouts(10).await;
    for rollout in &rollouts[..4] {
        conversation.answer(rollout).await;
        // Awaited, so that the answer is known to have arrived before the server dies.
        let text = text_of(rollout);
        assert_eq!(pending.remove(text).unwrap().await.unwrap().unwrap().reward, reward_of(text));
    }
    // One more is no longer wanted.
    drop(pending.remove(text_of(&rollouts[9])));
    fake.kill();

    let mut fake = Fake::at(&path, Manners { model_version: "fake-2", ..Manners::default() });
    let mut conversation = fake.conversation().await;
    let again = conversation.rollouts(5).await;
    assert_eq!(again.iter().map(text_of).collect::<BTreeSet<_>>(), pending.keys().map(String::as_str).collect());
    for rollout in &again {
        conversation.answer(rollout).await;
    }
    for (text, pending) in pending {
        assert_eq!(pending.await.unwrap().unwrap().reward, reward_of(&text));
    }
    assert_eq!(&*client.card().await.unwrap().model.model_version, "fake-2");
    // Nothing was asked thrice: the stream ends without another rollout.
    tokio::join!(client.close(), async { assert_eq!(conversation.answer_all().await, 0) });
}

#[tokio::test]
async fn a_broken_stream_over_a_living_connection_is_begun_anew() {
    let (_folder, path) = socket();
    let mut fake = Fake::at(&path, Manners::default());
    let client = Client::builder(address(&path)).back_off(PATIENT).connect().await.unwrap();
    let pending = client.submit(rollout("a", "text")).await.unwrap();
    for status in [Status::unavailable("gone"), Status::internal("oops"), Status::resource_exhausted("full")] {
        let mut conversation = fake.conversation().await;
        conversation.rollouts(1).await;
        conversation.fail(status).await;
    }
    let mut conversation = fake.conversation().await;
    conversation.rollouts(1).await;
    // Ended in order, and yet nothing is answered.
    drop(conversation);
    let mut conversation = fake.conversation().await;
    for rollout in conversation.rollouts(1).await {
        conversation.answer(&rollout).await;
    }
    assert_eq!(pending.await.unwrap().unwrap().reward, reward_of("text"));
}

#[tokio::test]
async fn a_draining_servers_rollouts_go_to_the_next() {
    let (_folder, path) = socket();
    let mut fake = Fake::at(&path, Manners::default());
    let client = Client::builder(address(&path)).back_off(PATIENT).connect().await.unwrap();
    let accepted = client.submit(rollout("a", "accepted")).await.unwrap();
    let refused = client.submit(rollout("b", "refused")).await.unwrap();
    let mut conversation = fake.conversation().await;
    let rollouts = conversation.rollouts(2).await;
    conversation.reject(&rollouts[1], Code::Draining).await;
    // Accepted work is still finished over the old connection, and answered once.
    conversation.answer(&rollouts[0]).await;
    assert_eq!(accepted.await.unwrap().unwrap().reward, reward_of("accepted"));

    let mut next = fake.conversation().await;
    for rollout in next.rollouts(1).await {
        assert_eq!(text_of(&rollout), "refused");
        next.answer(&rollout).await;
    }
    assert_eq!(refused.await.unwrap().unwrap().reward, reward_of("refused"));
}

#[tokio::test]
async fn a_server_that_never_returns_fails_everything_and_loudly() {
    let (_folder, path) = socket();
    let mut fake = Fake::at(&path, Manners { in_flight_limit: 4, ..Manners::default() });
    let client = Client::builder(address(&path)).back_off(HASTY).connect().await.unwrap();
    let mut pending = Vec::new();
    for text in texts(4) {
        pending.push(client.submit(rollout("", &text)).await.unwrap());
    }
    // These wait for room, in `submit`.
    let waiting: Vec<_> = texts(40)
        .into_iter()
        .map(|text| (client.clone(), text))
        .map(|(client, text)| tokio::spawn(async move { client.score(rollout("", &text)).await }))
        .collect();
    let mut conversation = fake.conversation().await;
    conversation.rollouts(4).await;
    fake.kill();
    for pending in pending {
        let error = pending.await.unwrap_err();
        assert!(matches!(error, ClientError::Disconnected { .. }), "{error:?}");
        assert!(error.to_string().contains(&address(&path)), "{error}");
    }
    for waiting in waiting {
        let error = waiting.await.unwrap().unwrap_err();
        assert!(matches!(error, ClientError::Disconnected { .. }), "{error:?}");
    }
    // So does a series, to its last rollout.
    let mut answers = client.stream(texts(100).into_iter().map(|text| rollout(&text, &text)));
    let mut ids = BTreeSet::new();
    while let Some((id, answer)) = answers.next().await {
        assert!(matches!(answer, Err(ClientError::Disconnected { .. })), "{answer:?}");
        ids.insert(id);
    }
    assert_eq!(ids, texts(100).into_iter().collect());

    // And yet the client is not dead: a later rollout finds a later server.
    let mut fake = Fake::at(&path, Manners::default());
    let server = tokio::spawn(async move { fake.conversation().await.answer_all().await });
    assert_eq!(client.score(rollout("", "late")).await.unwrap().unwrap().reward, reward_of("late"));
    client.close().await;
    assert_eq!(server.await.unwrap(), 1);
}

#[tokio::test]
async fn a_server_that_is_not_ready_yet_is_waited_for() {
    let (_folder, path) = socket();
    // Nobody listens: the client is made, and its rollout waits.
    let client = Client::builder(address(&path)).back_off(PATIENT).connect_lazy().unwrap();
    let pending = client.submit(rollout("a", "text")).await.unwrap();
    // Then somebody does who is not ready.
    let mut fake = Fake::at(&path, Manners { refusals: (3, Status::unavailable("loading")), ..Manners::default() });
    let mut conversation = fake.conversation().await;
    for rollout in conversation.rollouts(1).await {
        conversation.answer(&rollout).await;
    }
    assert_eq!(pending.await.unwrap().unwrap().reward, reward_of("text"));
}

#[tokio::test]
async fn a_stranger_at_the_address_is_not_tried_again() {
    let (_folder, path) = socket();
    let manners = Manners { refusals: (usize::MAX, Status::unimplemented("who?")), ..Manners::default() };
    let _fake = Fake::at(&path, manners);
    let error = Client::builder(address(&path)).back_off(PATIENT).connect().await.unwrap_err();
    assert!(matches!(&error, ClientError::Refused { reason, .. } if reason.contains("who?")), "{error:?}");
}

#[tokio::test]
async fn a_rollout_that_breaks_every_stream_is_given_up_alone() {
    let (_folder, path) = socket();
    let mut fake = Fake::at(&path, Manners::default());
    let client = Client::builder(address(&path)).back_off(HASTY).connect().await.unwrap();
    let poison = client.submit(rollout("a", "poison")).await.unwrap();
    let server = tokio::spawn(async move {
        loop {
            let mut conversation = fake.conversation().await;
            while let Some(rollout) = conversation.rollout().await {
                if text_of(&rollout) == "poison" {
                    break;
                }
                conversation.answer(&rollout).await;
            }
        }
    });
    let error = poison.await.unwrap_err();
    assert!(matches!(error, ClientError::NeverAnswered { .. }), "{error:?}");
    assert_eq!(client.score(rollout("b", "sound")).await.unwrap().unwrap().reward, reward_of("sound"));
    server.abort();
}

#[tokio::test]
async fn no_more_than_the_limit_is_in_flight() {
    const LIMIT: usize = 5;
    const ROLLOUTS: usize = 200;
    let (_folder, path) = socket();
    let mut fake = Fake::at(&path, Manners { in_flight_limit: LIMIT as u32, ..Manners::default() });
    let client = Client::connect(address(&path)).await.unwrap();
    let server = tokio::spawn(async move {
        let mut conversation = fake.conversation().await;
        let (mut unanswered, mut most, mut seen) = (Vec::new(), 0, 0);
        while seen < ROLLOUTS {
            unanswered.extend(conversation.rollouts(1).await);
            seen += 1;
            // A client that overshoots does so now: its rollouts come in one breath. One that keeps the limit
            // makes this wait in vain, which fails nothing.
            while let Ok(Some(rollout)) = tokio::time::timeout(5 * MS, conversation.rollout()).await {
                unanswered.push(rollout);
                seen += 1;
            }
            most = most.max(unanswered.len());
            for rollout in unanswered.drain(..) {
                conversation.answer(&rollout).await;
            }
        }
        (fake, conversation, most)
    });
    let outcomes = client.score_all(texts(ROLLOUTS).iter().map(|text| rollout("", text))).await.unwrap();
    assert_eq!(outcomes.len(), ROLLOUTS);
    assert_eq!(server.await.unwrap().2, LIMIT);
}

#[tokio::test]
async fn closing_finishes_what_is_in_flight() {
    let (_folder, path) = socket();
    let mut fake = Fake::at(&path, Manners { in_flight_limit: 3, ..Manners::default() });
    let client = Client::connect(address(&path)).await.unwrap();
    let other = client.clone();
    // More than fit in flight: some are still on their way to the driver when the client is closed.
    let mut pending = Vec::new();
    for text in texts(9) {
        pending.push((text.clone(), client.submit(rollout("", &text)).await.unwrap()));
    }
    let server = tokio::spawn(async move {
        let conversation = fake.conversation().await;
        conversation.answer_all().await
    });
    client.close().await;
    // The client's side of the stream was closed in order, after everything.
    assert_eq!(server.await.unwrap(), 9);
    for (text, pending) in pending {
        assert_eq!(pending.await.unwrap().unwrap().reward, reward_of(&text));
    }
    assert_eq!(other.submit(rollout("", "late")).await.unwrap_err(), ClientError::Closed);
    let mut answers = other.stream([rollout("late", "late")]);
    assert_eq!(answers.next().await, Some(("late".into(), Err(ClientError::Closed))));
    assert_eq!(answers.next().await, None);
}

#[tokio::test]
async fn dropping_the_client_finishes_what_is_in_flight() {
    let (_folder, path) = socket();
    let mut fake = Fake::at(&path, Manners::default());
    let client = Client::connect(address(&path)).await.unwrap();
    let pending = client.submit(rollout("a", "text")).await.unwrap();
    drop(client);
    let conversation = fake.conversation().await;
    let (answered, outcome) = tokio::join!(conversation.answer_all(), pending);
    assert_eq!(answered, 1);
    assert_eq!(outcome.unwrap().unwrap().reward, reward_of("text"));
}

#[tokio::test]
async fn many_tasks_share_one_client_through_a_crashing_server() {
    const TASKS: usize = 16;
    const EACH: usize = 50;
    let (_folder, path) = socket();
    let client = Client::builder(address(&path)).back_off(PATIENT).in_flight_limit(64).connect_lazy().unwrap();
    let place = path.clone();
    let server = tokio::spawn(async move {
        // Every 37th rollout kills it, with whatever else was on its way.
        let mut received = 0;
        loop {
            let mut fake = Fake::at(&place, Manners::default());
            let mut conversation = fake.conversation().await;
            loop {
                let Some(rollout) = conversation.rollout().await else { return received };
                received += 1;
                if received % 37 == 0 {
                    break;
                }
                conversation.answer(&rollout).await;
            }
            fake.kill();
        }
    });
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let client = client.clone();
            tokio::spawn(async move {
                let texts: Vec<String> = (0..EACH).map(|i| format!("{task}/{i}")).collect();
                let mut answers = client.stream(texts.iter().map(|text| rollout(text, text)));
                let mut answered = BTreeSet::new();
                while let Some((id, answer)) = answers.next().await {
                    assert_eq!(answer.unwrap().unwrap().reward, reward_of(&id));
                    assert!(answered.insert(id), "answered twice");
                }
                answered.len()
            })
        })
        .collect();
    for task in tasks {
        assert_eq!(task.await.unwrap(), EACH);
    }
    client.close().await;
    let received = server.await.unwrap();
    // It died that often, and each time something had to be asked again.
    assert!(received >= TASKS * EACH + received / 37, "{received}");
}
