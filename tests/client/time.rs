//! The client and time: deadlines, servers that hang, outages, and rollouts that nobody waits for any more.

use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use reward_sidecar::client::{KeepAlive, blocking};

use super::*;

/// A rollout that is to be scored within so many milliseconds.
fn urgent(text: &str, deadline_ms: u64) -> Rollout {
    Rollout { deadline_ms: Some(deadline_ms), ..rollout("", text) }
}

#[tokio::test]
async fn a_deadline_that_passes_is_answered_whatever_the_server_does() {
    let (_folder, path) = socket();
    let mut fake = Fake::at(&path, Manners { in_flight_limit: 1, ..Manners::default() });
    let client = Client::connect(address(&path)).await.unwrap();
    let first = client.submit(rollout("", "first")).await.unwrap();
    let mut conversation = fake.conversation().await;
    let first_asked = conversation.rollout().await.unwrap();
    conversation.answer(&first_asked).await;
    first.await.unwrap().unwrap();

    fake.hang().await;
    // One on the wire, some in the client, and the rest in `submit`, for whom there is no room.
    let waiting: Vec<_> = (0..50)
        .map(|_| client.clone())
        .map(|client| tokio::spawn(async move { client.score(urgent("late", 200)).await }))
        .collect();
    for waiting in waiting {
        let rejection = waiting.await.unwrap().unwrap().unwrap_err();
        assert_eq!(rejection.code, Code::DeadlineExceeded, "{rejection}");
        assert!(rejection.message.contains("200 ms"), "{rejection}");
    }
    let after = client.submit(rollout("", "after")).await.unwrap();
    fake.go_on();
    // What was on the wire may come late, and is then withdrawn; its answer is nobody's, and it holds up nobody.
    loop {
        let rollout = conversation.rollout().await.unwrap();
        conversation.answer(&rollout).await;
        if text_of(&rollout) == "after" {
            break;
        }
    }
    assert_eq!(after.await.unwrap().unwrap().reward, reward_of("after"));
}

#[tokio::test]
async fn a_deadline_that_passes_without_a_connection_is_answered() {
    let (_folder, path) = socket();
    let client = Client::builder(address(&path)).back_off(PATIENT).connect_lazy().unwrap();
    let rejection = client.score(urgent("late", 20)).await.unwrap().unwrap_err();
    assert_eq!(rejection.code, Code::DeadlineExceeded);
    // The client's own deadline counts where a rollout brings none.
    let client = Client::builder(address(&path)).back_off(PATIENT).deadline(20 * MS).connect_lazy().unwrap();
    assert_eq!(client.score(rollout("", "late")).await.unwrap().unwrap_err().code, Code::DeadlineExceeded);
    assert_eq!(client.score(urgent("late", 0)).await.unwrap().unwrap_err().code, Code::DeadlineExceeded);
}

#[tokio::test]
async fn a_client_that_is_not_connected_takes_a_limited_number_of_rollouts() {
    let (_folder, path) = socket();
    let client = Client::builder(address(&path)).back_off(PATIENT).connect_lazy().unwrap();
    let mut pending = Vec::new();
    let mut context = Context::from_waker(Waker::noop());
    // The server's limit is not known, and nothing says that it is high.
    while let Poll::Ready(submitted) = pin!(client.submit(rollout("", "text"))).poll(&mut context) {
        pending.push(submitted.unwrap());
        assert!(pending.len() <= 2000, "it takes whatever comes");
    }
    let mut fake = Fake::at(&path, Manners { in_flight_limit: 2000, ..Manners::default() });
    let mut conversation = fake.conversation().await;
    // And now it is: there is room for as many.
    while pending.len() < 2000 {
        pending.push(client.submit(rollout("", "text")).await.unwrap());
    }
    conversation.rollouts(2000).await;
}

#[tokio::test]
async fn the_server_is_told_what_remains_of_a_deadline() {
    const GIVEN_MS: u64 = 600_000;
    let (_folder, path) = socket();
    let mut fake = Fake::at(&path, Manners { in_flight_limit: 1, ..Manners::default() });
    let client = Client::builder(address(&path)).back_off(PATIENT).connect().await.unwrap();
    let before = client.submit(rollout("", "before")).await.unwrap();
    let waiting = client.submit(urgent("waiting", GIVEN_MS)).await.unwrap();
    let mut conversation = fake.conversation().await;
    let first = conversation.rollout().await.unwrap();
    assert_eq!((text_of(&first), first.deadline_ms), ("before", None));
    tokio::time::sleep(30 * MS).await;
    conversation.answer(&first).await;
    before.await.unwrap().unwrap();
    // It has waited in the client, and now less is left.
    let second = conversation.rollout().await.unwrap();
    let remaining = second.deadline_ms.unwrap();
    assert!(text_of(&second) == "waiting" && remaining <= GIVEN_MS - 30, "{remaining}");
    tokio::time::sleep(30 * MS).await;
    // And less again when it is sent anew.
    fake.kill();
    let mut fake = Fake::at(&path, Manners::default());
    let mut conversation = fake.conversation().await;
    let again = conversation.rollout().await.unwrap();
    assert!(again.deadline_ms.unwrap() <= remaining - 30, "{:?} after {remaining}", again.deadline_ms);
    conversation.answer(&again).await;
    waiting.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_server_that_hangs_is_noticed_without_a_deadline() {
    let (_folder, path) = socket();
    let mut fake = Fake::at(&path, Manners::default());
    let keep_alive = KeepAlive { interval: 50 * MS, timeout: 500 * MS };
    let builder = Client::builder(address(&path)).back_off(PATIENT).keep_alive(keep_alive);
    let client = builder.connect().await.unwrap();
    let pending = client.submit(rollout("", "text")).await.unwrap();
    let mut hanging = fake.conversation().await;
    hanging.rollout().await.unwrap();
    fake.hang().await;
    // Another server takes its place; only a client that has noticed asks there.
    let mut next = Fake::at(&path, Manners::default());
    let mut conversation = next.conversation().await;
    let rollout = conversation.rollout().await.unwrap();
    conversation.answer(&rollout).await;
    assert_eq!(pending.await.unwrap().unwrap().reward, reward_of("text"));
    drop((hanging, fake));
}

#[tokio::test]
async fn rollouts_survive_two_outages_with_a_long_wait_between_them() {
    const ROLLOUTS: usize = 40;
    let budget = Duration::from_secs(3);
    let (_folder, path) = socket();
    let mut fake = Fake::at(&path, Manners::default());
    let client = Client::builder(address(&path)).back_off(BackOff { budget, ..PATIENT }).connect().await.unwrap();
    let mut pending = Vec::new();
    for text in texts(ROLLOUTS) {
        pending.push((client.submit(rollout("", &text)).await.unwrap(), text));
    }
    for _ in 0..2 {
        fake.conversation().await.rollouts(ROLLOUTS).await;
        fake.kill();
        fake = Fake::at(&path, Manners::default());
        let mut conversation = fake.conversation().await;
        let asked = conversation.rollouts(ROLLOUTS).await;
        // Connected and unanswered for longer than the budget: the server has much to do, and nothing is lost.
        tokio::time::sleep(budget + 100 * MS).await;
        assert_eq!(asked.len(), ROLLOUTS);
        drop(conversation);
    }
    let mut conversation = fake.conversation().await;
    for rollout in conversation.rollouts(ROLLOUTS).await {
        conversation.answer(&rollout).await;
    }
    for (pending, text) in pending {
        assert_eq!(pending.await.unwrap().unwrap().reward, reward_of(&text));
    }
}

#[tokio::test]
async fn a_future_that_is_dropped_withdraws_its_rollout() {
    let (_folder, path) = socket();
    let mut fake = Fake::at(&path, Manners { in_flight_limit: 1, ..Manners::default() });
    let client = Client::connect(address(&path)).await.unwrap();
    let scoring = tokio::spawn({
        let client = client.clone();
        async move { client.score(rollout("", "unwanted")).await }
    });
    let mut conversation = fake.conversation().await;
    let unwanted = conversation.rollout().await.unwrap();
    // One behind it is on no wire yet: the server never hears of it.
    drop(client.submit(rollout("", "unheard")).await.unwrap());
    scoring.abort();
    let cancellation = conversation.message().await.unwrap();
    assert_eq!(cancellation, v1::Rollout { id: unwanted.id.clone(), cancel: true, ..Default::default() });
    conversation.reject(&unwanted, Code::Cancelled).await;
    // Its room is free again.
    let wanted = client.submit(rollout("", "wanted")).await.unwrap();
    let asked = conversation.message().await.unwrap();
    assert_eq!(text_of(&asked), "wanted");
    conversation.answer(&asked).await;
    assert_eq!(wanted.await.unwrap().unwrap().reward, reward_of("wanted"));

    // A series that is dropped withdraws its own.
    let mut series = client.stream(texts(1).into_iter().map(|text| rollout(&text, &text)));
    let asked = tokio::select! {
        _ = series.next() => panic!("nobody answers"),
        asked = conversation.message() => asked.unwrap(),
    };
    drop(series);
    let cancellation = conversation.message().await.unwrap();
    assert_eq!((cancellation.cancel, cancellation.id), (true, asked.id));
}

/// A path that is mistyped is no server that takes its time. One that was connected to is waited for.
#[tokio::test]
async fn a_socket_that_never_was_is_not_waited_for() {
    let (_folder, path) = socket();
    let asked = Instant::now();
    let builder = || Client::builder(address(&path)).back_off(PATIENT).socket_timeout(50 * MS);
    let error = builder().connect().await.unwrap_err();
    assert!(matches!(&error, ClientError::Disconnected { reason, .. } if reason.contains("No such file")), "{error}");
    let shm = format!("shm://{}", path.display());
    let error = tokio::task::spawn_blocking(move || {
        blocking::Client::builder(shm).back_off(PATIENT).socket_timeout(50 * MS).connect().unwrap_err()
    });
    let error = error.await.unwrap();
    assert!(matches!(&error, ClientError::Disconnected { reason, .. } if reason.contains("No such file")), "{error}");
    assert!(asked.elapsed() < PATIENT.budget);

    let mut fake = Fake::at(&path, Manners::default());
    let client = builder().connect().await.unwrap();
    let pending = client.submit(rollout("", "text")).await.unwrap();
    fake.conversation().await.rollout().await.unwrap();
    fake.kill();
    std::fs::remove_file(&path).unwrap();
    // Longer than a socket that never was is waited for.
    tokio::time::sleep(100 * MS).await;
    let mut fake = Fake::at(&path, Manners::default());
    let mut conversation = fake.conversation().await;
    let again = conversation.rollout().await.unwrap();
    conversation.answer(&again).await;
    assert_eq!(pending.await.unwrap().unwrap().reward, reward_of("text"));
}
