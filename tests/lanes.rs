//! Lanes end to end: a sidecar in this process, clients with threads that wait.
#![cfg(target_os = "linux")]

mod common;

use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::*;
use prost::Message as _;
use reward_sidecar::client::blocking::{Client, Stopped};
use reward_sidecar::client::{BackOff, ClientError, Version};
use reward_sidecar::engine::{EchoEngine, ReadPolicy};
use reward_sidecar::proto::v1;
use reward_sidecar::reward::{Code, Outcome, Rewards};
use reward_sidecar::rollout::{AggregationSpec, Input, Message, Rollout, Rollouts};
use reward_sidecar::shm::frame::{NO_OPTIONS, read_rollout};
use reward_sidecar::shm::handshake::{self, Card, HandshakeError, Hello};
use reward_sidecar::shm::lane::ClientEnd;
use reward_sidecar::shm::layout::Sizes;
use reward_sidecar::sidecar::{Config, Sidecar};

/// A lane's socket in a folder of its own.
fn lanes() -> (tempfile::TempDir, Config) {
    let folder = tempfile::tempdir().unwrap();
    let shm = Some(folder.path().join("lanes.sock"));
    (folder, Config { shm, max_wait_ms: 0, ..Config::default() })
}

fn address(config: &Config) -> String {
    format!("shm://{}", config.shm.as_deref().map(Path::display).unwrap())
}

fn quickly(builder: reward_sidecar::client::blocking::Builder) -> reward_sidecar::client::blocking::Builder {
    let (initial, max) = (Duration::from_millis(1), Duration::from_millis(20));
    builder.back_off(BackOff { initial, max, budget: Duration::from_secs(20) })
}

fn ask(input: Input) -> Rollout {
    Rollout { input: Some(input), ..Rollout::default() }
}

fn ids(ids: impl IntoIterator<Item = u32>) -> Rollout {
    ask(Input::TokenIds(ids.into_iter().collect()))
}

/// Rollouts of every length up to the context, many times over.
fn many(rollouts: u32) -> Vec<Rollout> {
    (0..rollouts).map(|n| ids((0..1 + n % CONTEXT).map(|i| n * 7 + i))).collect()
}

fn check(rollouts: &[Rollout], outcomes: &[Outcome]) {
    assert_eq!(rollouts.len(), outcomes.len());
    for (rollout, outcome) in rollouts.iter().zip(outcomes) {
        let Some(Input::TokenIds(ids)) = &rollout.input else { panic!("no ids") };
        assert_eq!(outcome.as_ref().unwrap().attributes, EchoEngine::expected(ids));
    }
}

/// Scores on a thread that may wait.
async fn score(client: &Client, rollouts: Vec<Rollout>) -> Result<Vec<Outcome>, Stopped> {
    let client = client.clone();
    tokio::task::spawn_blocking(move || client.score_all(Arc::new(rollouts), &mut || true)).await.unwrap()
}

async fn connect(config: &Config) -> Client {
    let builder = quickly(Client::builder(address(config)));
    tokio::task::spawn_blocking(move || builder.connect().unwrap()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lane_answers_everything_once() {
    let (_folder, config) = lanes();
    let sidecar = echo(config.clone()).await;
    let client = connect(&config).await;
    let card = client.card(&mut || true).unwrap();
    assert_eq!((card.model.name.as_str(), card.in_flight_limit), ("echo", 1024));
    let rollouts = many(5_000);
    check(&rollouts, &score(&client, rollouts.clone()).await.unwrap());
    sidecar.drain().await.unwrap();
}

/// The smallest ring, and more rollouts in flight than it holds, from several threads of one client and several clients.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_rings_many_threads_and_many_lanes() {
    let (_folder, config) = lanes();
    let config = Config { shm_ring_bytes: 4096, stream_in_flight: 7, ..config };
    let sidecar = echo(config.clone()).await;
    let mut threads = Vec::new();
    for _ in 0..4 {
        let client = connect(&config).await;
        for thread in 0..4 {
            let client = client.clone();
            threads.push(std::thread::spawn(move || {
                let rollouts = many(300 + thread);
                let outcomes = client.score_all(Arc::new(rollouts.clone()), &mut || true).unwrap();
                check(&rollouts, &outcomes);
            }));
        }
    }
    for thread in threads {
        tokio::task::spawn_blocking(move || thread.join().unwrap()).await.unwrap();
    }
    sidecar.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_form_and_option_gives_what_grpc_gives() {
    let (_folder, config) = lanes();
    let config = Config { grpc: loopback().grpc, ..config };
    let engine = EchoEngine::new(CONTEXT).taking(words(), ReadPolicy::default());
    let sidecar = Sidecar::start(config.clone(), Box::new(engine)).await.unwrap();
    let weights = |length: f64, checksum: f64| AggregationSpec {
        weights: BTreeMap::from([("length".into(), length), ("checksum".into(), checksum)]),
        ..AggregationSpec::default()
    };
    let chat = |score| {
        let turns = [
            Message::new("user", "w1 w2"),
            Message { score, ..Message::new("assistant", "w3") },
            Message::new("user", "w4"),
        ];
        Input::chat(turns, "w5 w6")
    };
    let mut rollouts = vec![
        ask(chat(false)),
        ask(chat(true)),
        ask(Input::Text("user w1 end".into())),
        ids([1, 2, 3]),
        ask(Input::PromptCompletionIds { prompt: vec![1, 2, 3], completion: vec![4] }),
        Rollout::default(),
        ids([]),
        ids(0..CONTEXT + 1),
        Rollout { id: "x".repeat(300), ..ids([1]) },
        Rollout { deadline_ms: Some(0), ..ids([1]) },
        Rollout { deadline_ms: Some(60_000), priority: -5, group: "g".into(), ..ids([1]) },
        Rollout { traceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into(), ..ids([1, 2]) },
        Rollout {
            aggregation: AggregationSpec { weighting: Some("nobody's".into()), ..weights(0.0, 0.0) }.into(),
            ..ids([1])
        },
        Rollout {
            aggregation: AggregationSpec { name: "none".into(), ..AggregationSpec::default() }.into(),
            ..ids([1])
        },
    ];
    // More weightings than a lane's table holds, each used again and again.
    rollouts.extend((0..1200).map(|n| Rollout { aggregation: weights(f64::from(n % 400), 0.5).into(), ..ids([n, 7]) }));
    let lane = connect(&config).await;
    let grpc = format!("grpc://{}", sidecar.grpc_addr().unwrap());
    let grpc = tokio::task::spawn_blocking(move || Client::connect(grpc).unwrap()).await.unwrap();
    let shown = |outcomes: Vec<Outcome>| -> Vec<Outcome> {
        let untimed = |mut rewards: reward_sidecar::reward::Rewards| {
            (rewards.queue_ns, rewards.forward_ns) = (0, 0);
            // gRPC does not say.
            rewards.generation = 0;
            rewards
        };
        outcomes.into_iter().map(|outcome| outcome.map(untimed)).collect()
    };
    // gRPC wants ids that are not empty.
    let named: Vec<Rollout> = rollouts
        .iter()
        .enumerate()
        .map(|(n, rollout)| match rollout.id.is_empty() {
            true => Rollout { id: n.to_string(), ..rollout.clone() },
            false => rollout.clone(),
        })
        .collect();
    let by_lane = shown(score(&lane, rollouts).await.unwrap());
    let by_grpc = shown(score(&grpc, named).await.unwrap());
    for (n, (lane, grpc)) in by_lane.iter().zip(&by_grpc).enumerate() {
        match n {
            // The client for tasks shortens what the lane sends as it is.
            8 => assert_eq!(lane.as_ref().unwrap_err().code, Code::BadId),
            // The client counts the time that is left, too.
            9 => assert_eq!(lane.as_ref().unwrap_err().code, Code::DeadlineExceeded),
            _ => assert_eq!(lane, grpc, "rollout {n}"),
        }
    }
    assert!(by_lane[1].as_ref().unwrap().reads.len() == 2);
    sidecar.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollout_larger_than_the_ring_is_told_so() {
    let (_folder, config) = lanes();
    let config = Config { shm_ring_bytes: 4096, ..config };
    let sidecar = echo(config.clone()).await;
    let client = connect(&config).await;
    let outcomes = score(&client, vec![ids([1]), ids(0..2_000), ids([2])]).await.unwrap();
    assert!(outcomes[0].is_ok() && outcomes[2].is_ok());
    let rejection = outcomes[1].as_ref().unwrap_err();
    assert!(rejection.code == Code::TooLong && rejection.message.contains("shm_ring_bytes"), "{rejection}");
    sidecar.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_that_comes_back_is_asked_again() {
    let (_folder, config) = lanes();
    let (sidecar, gate) = gated(config.clone()).await;
    let client = connect(&config).await;
    let rollouts = many(100);
    let asked = tokio::spawn({
        let (client, rollouts) = (client.clone(), rollouts.clone());
        async move { score(&client, rollouts).await }
    });
    while gate.reached.load(std::sync::atomic::Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    // It goes without a word to those who wait; another comes in its place.
    drop(sidecar);
    let another = echo(config.clone()).await;
    check(&rollouts, &asked.await.unwrap().unwrap());
    gate.open();
    another.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_that_stays_away_is_an_error_and_no_hang() {
    let (_folder, config) = lanes();
    let sidecar = echo(config.clone()).await;
    let budget = Duration::from_millis(200);
    let back_off = BackOff { initial: Duration::from_millis(1), max: Duration::from_millis(50), budget };
    let builder = Client::builder(address(&config)).back_off(back_off);
    let client = tokio::task::spawn_blocking(move || builder.connect().unwrap()).await.unwrap();
    sidecar.drain().await.unwrap();
    let stopped = score(&client, many(3)).await.unwrap_err();
    assert!(matches!(stopped, Stopped::Failed(ClientError::Disconnected { .. })), "{stopped:?}");
    // The next one tries anew.
    let sidecar = echo(config.clone()).await;
    assert!(score(&client, many(3)).await.is_ok());
    sidecar.drain().await.unwrap();
}

/// However long a thread would wait, it notices that the sidecar is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endless_wait_ends_with_the_sidecar() {
    let (_folder, config) = lanes();
    let (sidecar, gate) = gated(config.clone()).await;
    let (initial, max) = (Duration::from_millis(1), Duration::from_millis(5));
    let back_off = BackOff { initial, max, budget: Duration::from_millis(50) };
    let builder = Client::builder(address(&config)).back_off(back_off).spin(Duration::MAX);
    let answered = tokio::task::spawn_blocking(move || {
        let mut answers = builder.connect().unwrap().answers();
        let rollouts: Arc<dyn Rollouts> = Arc::new(many(1));
        answers.submit(&rollouts, 0, 7, &mut || true).unwrap();
        loop {
            if let Some(answered) = answers.try_next() {
                break answered;
            }
            answers.wait(Duration::MAX);
        }
    });
    while gate.reached.load(std::sync::atomic::Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    drop(sidecar);
    let (tag, answer) = answered.await.unwrap();
    assert!(tag == 7 && matches!(answer, Err(ClientError::Disconnected { .. })), "{answer:?}");
    gate.open();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_can_be_interrupted() {
    let (_folder, config) = lanes();
    let (sidecar, gate) = gated(config.clone()).await;
    let client = connect(&config).await;
    let stopped = tokio::task::spawn_blocking(move || {
        let mut checks = 0;
        let began = Instant::now();
        let stopped = client.score_all(Arc::new(many(3)), &mut || {
            checks += 1;
            checks < 3
        });
        (stopped, began.elapsed())
    });
    assert_eq!(stopped.await.unwrap().0, Err(Stopped::Interrupted));
    gate.open();
    sidecar.drain().await.unwrap();
}

/// While one lane is flooded and its client reads nothing, another is answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_on_one_lane_does_not_starve_another() {
    let (_folder, config) = lanes();
    let config = Config { stream_in_flight: 64, ..config };
    let sidecar = echo(config.clone()).await;
    let path = config.shm.clone().unwrap();
    let flood = handshake::connect(&path, Duration::from_secs(10)).unwrap();
    let ClientEnd { rollouts: mut sending, rewards, line, .. } = flood.end;
    let one = ids(0..CONTEXT);
    // Until its ring is full: the sidecar has admitted as many as it may, and reads no further.
    let mut number = 0;
    while sending.rollout(number, NO_OPTIONS, None, &one.borrowed()).unwrap() {
        number += 1;
    }
    assert!(number > 64);
    let client = connect(&config).await;
    let rollouts = many(500);
    check(&rollouts, &score(&client, rollouts.clone()).await.unwrap());
    assert_eq!(line.closed(), None);
    drop((sending, rewards, line));
    sidecar.drain().await.unwrap();
}

/// Those who connect before others have greeted count as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_are_no_more_lanes_than_there_may_be() {
    let (_folder, config) = lanes();
    let config = Config { shm_lanes: 1, ..config };
    let sidecar = echo(config.clone()).await;
    let path = config.shm.clone().unwrap();
    let sockets: Vec<_> = (0..3).map(|_| UnixStream::connect(&path).unwrap()).collect();
    let greeted: Vec<_> =
        sockets.into_iter().map(|socket| handshake::greet(socket, &path, Duration::from_secs(10))).collect();
    assert!(greeted[0].is_ok());
    for refused in &greeted[1..] {
        assert!(matches!(refused, Err(HandshakeError::Refused { transient: true, .. })), "{refused:?}");
    }
    drop(greeted);
    sidecar.drain().await.unwrap();
}

/// A process that was forked has a copy of the socket, which keeps no lane.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lane_ends_with_its_client_although_others_have_a_copy_of_the_socket() {
    let (_folder, config) = lanes();
    let config = Config { shm_lanes: 1, ..config };
    let sidecar = echo(config.clone()).await;
    let path = config.shm.clone().unwrap();
    let socket = UnixStream::connect(&path).unwrap();
    let copy = socket.try_clone().unwrap();
    drop(handshake::greet(socket, &path, Duration::from_secs(10)).unwrap());
    let client = connect(&config).await;
    assert!(score(&client, many(3)).await.is_ok());
    drop(copy);
    sidecar.drain().await.unwrap();
}

struct Panicking;

impl Rollouts for Panicking {
    fn len(&self) -> usize {
        1
    }

    fn get(&self, _: usize) -> reward_sidecar::rollout::RolloutRef<'_> {
        panic!("a caller's mistake")
    }
}

/// A caller's own panic is the caller's, and the client goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_of_one_caller_is_no_others() {
    let (_folder, config) = lanes();
    let sidecar = echo(config.clone()).await;
    let client = connect(&config).await;
    let panicking = client.clone();
    let joined = std::thread::spawn(move || panicking.score_all(Arc::new(Panicking), &mut || true)).join();
    assert!(joined.is_err());
    assert!(score(&client, many(10)).await.is_ok());
    sidecar.drain().await.unwrap();
}

/// Weights that find no room where their rollout alone would: the client waits for theirs, and notices that nobody will make any.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weights_that_find_no_room_are_no_hang() {
    let (folder, config) = lanes();
    let sidecar = echo(config.clone()).await;
    let card = handshake::connect(config.shm.as_deref().unwrap(), Duration::from_secs(10)).unwrap().card;
    sidecar.drain().await.unwrap();
    // A sidecar that opens one lane, reads nothing, and goes when it is told.
    let path = folder.path().join("idle.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let (go, told) = std::sync::mpsc::channel();
    let idle = std::thread::spawn(move || {
        let (socket, _) = listener.accept().unwrap();
        while Hello::default().read(&socket).unwrap().is_none() {}
        socket.set_nonblocking(true).unwrap();
        let sizes = Sizes { card_bytes: card.len(), rollout_bytes: 4096, reward_bytes: 4096 };
        let _end = handshake::open(socket, Card { generation: 1, bytes: &card }, sizes, 100).unwrap();
        told.recv().unwrap()
    });
    let weights = (0..60).map(|n| (format!("attribute {n}"), 1.0)).collect();
    let aggregation = AggregationSpec { weights, ..AggregationSpec::default() };
    // 440 of 512 words, and one whose weights take more than what is left.
    let mut rollouts: Vec<Rollout> = (0..11).map(|_| ids(0..64)).collect();
    rollouts.push(Rollout { aggregation: aggregation.into(), ..ids([1]) });
    let budget = Duration::from_millis(200);
    let client =
        Client::builder(format!("shm://{}", path.display())).back_off(BackOff { budget, ..BackOff::default() });
    let stopped = std::thread::spawn(move || {
        let mut answers = client.connect().unwrap().answers();
        let rollouts: Arc<dyn Rollouts> = Arc::new(rollouts);
        for index in 0..11 {
            answers.submit(&rollouts, index, index as u64, &mut || true).unwrap();
        }
        let until = Instant::now() + Duration::from_secs(20);
        let mut waits = || {
            // A sidecar that is told already has gone.
            let _ = go.send(());
            Instant::now() < until
        };
        answers.submit(&rollouts, 11, 11, &mut waits).and_then(|()| answers.next(&mut waits).map(drop))
    });
    let stopped = tokio::task::spawn_blocking(move || stopped.join().unwrap()).await.unwrap();
    assert!(!matches!(stopped, Err(Stopped::Interrupted)), "it waits for ever");
    idle.join().unwrap();
}

/// A sidecar whose model is replaced while a client is connected: each reply has the version of the model that gave it, and the
/// client's card follows, over the same lane.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_generation_is_known_to_the_client() {
    let (folder, config) = lanes();
    let sidecar = echo(config.clone()).await;
    let first = handshake::connect(config.shm.as_deref().unwrap(), Duration::from_secs(10)).unwrap().card;
    sidecar.drain().await.unwrap();
    let card = |version: &str| {
        let card = v1::ModelCard::decode(&*first).unwrap();
        v1::ModelCard { model_version: version.into(), ..card }.encode_to_vec()
    };
    let (before, after) = (card("before"), card("after"));
    let path = folder.path().join("replaced.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let serving = std::thread::spawn(move || {
        let (socket, _) = listener.accept().unwrap();
        while Hello::default().read(&socket).unwrap().is_none() {}
        socket.set_nonblocking(true).unwrap();
        let sizes = Sizes { card_bytes: before.len(), rollout_bytes: 4096, reward_bytes: 4096 };
        let mut end = handshake::open(socket, Card { generation: 3, bytes: &before }, sizes, 100).unwrap();
        let mut next = || loop {
            if let Some(record) = end.rollouts.next().unwrap() {
                return read_rollout(record).unwrap().number;
            }
            std::thread::yield_now();
        };
        let numbers = [next(), next(), next()];
        let rewards = |generation| Rewards {
            reward: 1.0,
            attributes: vec![1.0, 2.0],
            tokens: 1,
            truncated: false,
            model_version: "it travels in the card".into(),
            generation,
            queue_ns: 0,
            forward_ns: 0,
            reads: Vec::new(),
            thinking: None,
        };
        assert!(end.rewards.rewards(numbers[0], &rewards(3)).unwrap());
        for part in after.chunks(50) {
            assert!(end.rewards.card(4, after.len(), part).unwrap());
        }
        assert!(end.rewards.rewards(numbers[1], &rewards(4)).unwrap());
        // It was in the engine of the model before.
        assert!(end.rewards.rewards(numbers[2], &rewards(3)).unwrap());
        end
    });
    let client = quickly(Client::builder(format!("shm://{}", path.display()))).version(Version::Any);
    let (client, outcomes) = tokio::task::spawn_blocking(move || {
        let client = client.connect().unwrap();
        assert_eq!(&*client.card(&mut || true).unwrap().model.model_version, "before");
        let outcomes = client.score_all(Arc::new(many(3)), &mut || true).unwrap();
        (client, outcomes)
    })
    .await
    .unwrap();
    let said: Vec<_> = outcomes.iter().map(|outcome| outcome.as_ref().unwrap()).collect();
    let said: Vec<_> = said.iter().map(|rewards| (rewards.generation, &*rewards.model_version)).collect();
    assert_eq!(said, [(3, "before"), (4, "after"), (3, "before")]);
    assert_eq!(&*client.known_card().unwrap().model.model_version, "after");
    drop(serving.join().unwrap());
}
