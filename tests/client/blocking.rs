//! The client for threads: against a real sidecar, and against one that misbehaves as the test pleases.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::Instant;

use reward_sidecar::client;
use reward_sidecar::client::blocking::{Answers, Client, Stopped};
use reward_sidecar::engine::{EchoEngine, ReadPolicy};
use reward_sidecar::reward::{Outcome, Rewards};
use reward_sidecar::rollout::{AggregationSpec, Ids, InputRef, Message, RolloutRef, Rollouts};
use reward_sidecar::sidecar::{Config, Sidecar};
use tokio::runtime::Runtime;

use super::common::{CONTEXT, Gate, gated, loopback, words};
use super::fake::{Conversation, reward_of};
use super::*;

/// What a test does that nobody interrupts.
fn go_on() -> bool {
    true
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// An echo model that knows words, on a thread of its own.
fn echo() -> (Runtime, Sidecar, String) {
    let runtime = runtime();
    let engine = EchoEngine::new(CONTEXT).taking(words(), ReadPolicy::default());
    let sidecar = runtime.block_on(Sidecar::start(loopback(), Box::new(engine))).unwrap();
    let address = format!("grpc://{}", sidecar.grpc_addr().unwrap());
    (runtime, sidecar, address)
}

/// An echo model that answers once its gate is open.
fn behind_a_gate(config: Config) -> (Runtime, Sidecar, Arc<Gate>, String) {
    let runtime = runtime();
    let (sidecar, gate) = runtime.block_on(gated(config));
    let address = format!("grpc://{}", sidecar.grpc_addr().unwrap());
    (runtime, sidecar, gate, address)
}

fn of_texts(texts: &[String]) -> Arc<dyn Rollouts> {
    Arc::new(texts.iter().map(|text| rollout("", text)).collect::<Vec<_>>())
}

fn of_ids(ids: impl IntoIterator<Item = Vec<u32>>) -> Arc<dyn Rollouts> {
    let rollout = |ids| Rollout { input: Some(Input::TokenIds(ids)), ..Rollout::default() };
    Arc::new(ids.into_iter().map(rollout).collect::<Vec<_>>())
}

/// Without the times, which are no function of the rollout.
fn timeless(outcome: Outcome) -> Outcome {
    outcome.map(|rewards| Rewards { queue_ns: 0, forward_ns: 0, ..rewards })
}

fn drain(answers: &mut Answers) -> BTreeMap<u64, f32> {
    let mut rewards = BTreeMap::new();
    while let Some((tag, answer)) = answers.next(&mut go_on).unwrap() {
        assert!(rewards.insert(tag, answer.unwrap().unwrap().reward).is_none(), "{tag} was answered twice");
    }
    rewards
}

#[test]
fn every_form_is_answered_as_the_client_for_tasks_is() {
    let (runtime, sidecar, address) = echo();
    let aggregation = AggregationSpec {
        weights: BTreeMap::from([("length".into(), 2.0), ("checksum".into(), -1.0)]),
        ..AggregationSpec::default()
    };
    let messages = vec![
        Message::new("user", "w1"),
        Message { score: true, ..Message::new("assistant", "w2") },
        Message::new("user", "w3"),
    ];
    let inputs = [
        Some(Input::chat(messages, "w4 w5")),
        Some(Input::Text("w1 w2 w3".into())),
        Some(Input::TokenIds(vec![1, 2, 3])),
        Some(Input::PromptCompletionIds { prompt: vec![1, 2], completion: vec![3] }),
        Some(Input::TokenIds(vec![7; CONTEXT as usize + 1])),
        None,
    ];
    let rollouts: Vec<_> = inputs
        .into_iter()
        .map(|input| Rollout {
            id: "same".into(),
            input,
            aggregation: Arc::new(aggregation.clone()),
            ..Rollout::default()
        })
        .collect();

    let asked = runtime.block_on(async {
        let client = client::Client::connect(&address).await.unwrap();
        client.score_all(rollouts.clone()).await.unwrap()
    });
    assert_eq!(asked.iter().filter(|outcome| outcome.is_err()).count(), 2);

    let client = Client::connect(&address).unwrap();
    assert_eq!(client.address(), address);
    assert_eq!(client.card(&mut go_on).unwrap().model.name, "echo");
    let waited = client.score_all(Arc::new(rollouts), &mut go_on).unwrap();
    let [asked, waited] = [asked, waited].map(|outcomes| outcomes.into_iter().map(timeless).collect::<Vec<_>>());
    assert_eq!(waited, asked);
    assert_eq!(client.score_all(of_ids([]), &mut go_on), Ok(Vec::new()));
    runtime.block_on(sidecar.drain()).unwrap();
}

/// Token ids as trainers have them.
struct Wide(Vec<Vec<i64>>);

impl Rollouts for Wide {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn get(&self, index: usize) -> RolloutRef<'_> {
        static PLAIN: LazyLock<Arc<AggregationSpec>> = LazyLock::new(Arc::default);
        RolloutRef {
            id: "",
            model: "",
            input: Some(InputRef::TokenIds(Ids::I64(&self.0[index]))),
            finish_reason: Default::default(),
            group: "",
            priority: 0,
            deadline_ms: None,
            aggregation: &PLAIN,
            require_completion: false,
            answer_only: None,
            model_version: "",
            traceparent: "",
        }
    }
}

#[test]
fn what_is_no_token_id_is_its_own_rollouts_rejection() {
    let (_runtime, _sidecar, address) = echo();
    let client = Client::connect(address).unwrap();
    let outcomes = client.score_all(Arc::new(Wide(vec![vec![1, 2], vec![3, -100], vec![4]])), &mut go_on).unwrap();
    let reward = |ids: &[u32]| EchoEngine::expected(ids)[0];
    assert_eq!(outcomes[0].as_ref().unwrap().reward, reward(&[1, 2]));
    assert_eq!(outcomes[1].as_ref().unwrap_err().code, Code::TokenOutOfRange);
    assert!(outcomes[1].as_ref().unwrap_err().message.contains("-100 at position 1"));
    assert_eq!(outcomes[2].as_ref().unwrap().reward, reward(&[4]));
}

#[test]
fn threads_share_a_client_and_get_their_own_answers() {
    let (_runtime, _sidecar, address) = echo();
    // Fewer in flight than the threads want: all of them run into its limit.
    let client = Client::builder(address).in_flight_limit(4).connect().unwrap();
    thread::scope(|scope| {
        for thread in 0..8u32 {
            let client = client.clone();
            scope.spawn(move || {
                let ids = |i: u32| vec![thread, i, thread];
                let outcomes = client.score_all(of_ids((0..100).map(ids)), &mut go_on).unwrap();
                for (i, outcome) in outcomes.into_iter().enumerate() {
                    assert_eq!(outcome.unwrap().attributes, EchoEngine::expected(&ids(i as u32)));
                }
            });
        }
    });
}

#[test]
fn answers_come_as_they_finish() {
    let (mut fake, address) = Fake::on_tcp(Manners::default());
    let (runtime, texts) = (runtime(), texts(20));
    let client = Client::connect(address).unwrap();
    let rollouts = of_texts(&texts);
    let mut answers = client.answers();
    for index in 0..20 {
        answers.submit(&rollouts, index, 100 + index as u64, &mut go_on).unwrap();
    }
    assert_eq!(answers.unanswered(), 20);
    // The answers outlive the client.
    drop(client);
    let conversation = runtime.block_on(async {
        let mut conversation = fake.conversation().await;
        for rollout in conversation.rollouts(20).await.iter().rev() {
            conversation.answer(rollout).await;
        }
        conversation
    });
    for index in (0..20).rev() {
        let (tag, answer) = answers.next(&mut go_on).unwrap().unwrap();
        assert_eq!((tag, answer.unwrap().unwrap().reward), (100 + index, reward_of(&texts[index as usize])));
    }
    assert_eq!((answers.next(&mut go_on), answers.unanswered()), (Ok(None), 0));
    drop(conversation);
}

#[test]
fn no_more_than_the_limit_are_in_flight() {
    let (mut fake, address) = Fake::on_tcp(Manners { in_flight_limit: 2, ..Manners::default() });
    let (runtime, texts) = (runtime(), texts(200));
    let client = Client::connect(address).unwrap();
    let rollouts = of_texts(&texts);
    let mut answers = client.answers();
    let mut taken = 0;
    while answers.try_submit(&rollouts, taken, taken as u64).unwrap() {
        taken += 1;
    }
    assert_eq!(answers.unanswered(), taken);
    // The thread that waits for room gets it once there is an answer.
    let server = thread::spawn(move || {
        runtime.block_on(async {
            let mut conversation = fake.conversation().await;
            for _ in 0..100 {
                for rollout in conversation.rollouts(2).await {
                    conversation.answer(&rollout).await;
                }
            }
            (fake, conversation)
        })
    });
    for index in taken..200 {
        answers.submit(&rollouts, index, index as u64, &mut go_on).unwrap();
    }
    let expected: BTreeMap<_, _> = texts.iter().enumerate().map(|(i, text)| (i as u64, reward_of(text))).collect();
    assert_eq!(drain(&mut answers), expected);
    drop(server.join().unwrap());
}

#[test]
fn room_that_others_take_is_waited_for() {
    let (_runtime, _sidecar, gate, address) = behind_a_gate(loopback());
    let client = Client::builder(address).in_flight_limit(1).connect().unwrap();
    let rollouts = of_ids((0..1000).map(|i| vec![i]));
    let mut greedy = client.answers();
    greedy.submit(&rollouts, 0, 0, &mut go_on).unwrap();
    while gate.reached.load(Ordering::SeqCst) == 0 {
        thread::yield_now();
    }
    // One is in flight; what is behind it now stays there.
    let mut taken = 1;
    while greedy.try_submit(&rollouts, taken, 0).unwrap() {
        taken += 1;
    }
    let mut modest = client.answers();
    let mut looks = 0;
    // Nothing of its own is in flight: only others' answers can make room.
    let interrupted = modest.submit(&rollouts, 0, 0, &mut || {
        looks += 1;
        looks < 3
    });
    assert_eq!((interrupted, modest.unanswered()), (Err(Stopped::Interrupted), 0));
    thread::scope(|scope| {
        scope.spawn(|| {
            modest.submit(&rollouts, 999, 999, &mut go_on).unwrap();
            let (tag, answer) = modest.next(&mut go_on).unwrap().unwrap();
            assert_eq!((tag, answer.unwrap().unwrap().attributes), (999, EchoEngine::expected(&[999]).to_vec()));
        });
        gate.open();
    });
    let mut answered = 0;
    while greedy.next(&mut go_on).unwrap().is_some() {
        answered += 1;
    }
    assert_eq!(answered, taken);
}

#[test]
fn an_interrupted_wait_loses_nothing() {
    let (_runtime, _sidecar, gate, address) = behind_a_gate(loopback());
    let client = Client::connect(address).unwrap();
    let rollouts = of_ids([vec![1, 2, 3]]);
    let mut answers = client.answers();
    answers.submit(&rollouts, 0, 7, &mut go_on).unwrap();
    let looks = AtomicUsize::new(0);
    let stopped = answers.next(&mut || looks.fetch_add(1, Ordering::Relaxed) < 2);
    assert_eq!((stopped, answers.unanswered()), (Err(Stopped::Interrupted), 1));
    assert_eq!(looks.load(Ordering::Relaxed), 3);
    assert_eq!(client.score_all(of_ids([vec![1]]), &mut || false), Err(Stopped::Interrupted));
    gate.open();
    let (tag, answer) = answers.next(&mut go_on).unwrap().unwrap();
    assert_eq!((tag, answer.unwrap().unwrap().attributes), (7, EchoEngine::expected(&[1, 2, 3]).to_vec()));
}

#[test]
fn waiting_for_a_server_can_be_interrupted() {
    let (_folder, path) = socket();
    let client = Client::builder(address(&path)).back_off(PATIENT).connect_lazy().unwrap();
    assert_eq!(client.card(&mut || false), Err(Stopped::Interrupted));
    // It is waited for again, and found once it is there.
    let _fake = Fake::at(&path, Manners::default());
    assert_eq!(client.card(&mut go_on).unwrap().model.name, "fake");
}

#[test]
fn what_was_unanswered_is_asked_again() {
    let (_folder, path) = socket();
    let (runtime, texts) = (runtime(), texts(10));
    let mut fake = Fake::at(&path, Manners::default());
    let client = Client::builder(address(&path)).back_off(PATIENT).connect().unwrap();
    let rollouts = of_texts(&texts);
    let (mut wanted, mut unwanted) = (client.answers(), client.answers());
    for index in 0..5 {
        wanted.submit(&rollouts, index, index as u64, &mut go_on).unwrap();
        unwanted.submit(&rollouts, index + 5, 0, &mut go_on).unwrap();
    }
    runtime.block_on(async { fake.conversation().await.rollouts(10).await });
    drop(unwanted);
    fake.kill();

    let mut fake = Fake::at(&path, Manners::default());
    let conversation: Conversation = runtime.block_on(async {
        let mut conversation = fake.conversation().await;
        let again = conversation.rollouts(5).await;
        // What nobody waits for is not.
        assert_eq!(again.iter().map(text_of).collect::<BTreeSet<_>>(), texts[..5].iter().map(String::as_str).collect());
        for rollout in &again {
            conversation.answer(rollout).await;
        }
        conversation
    });
    let rewards = drain(&mut wanted);
    assert_eq!(rewards, (0..5).map(|i| (i, reward_of(&texts[i as usize]))).collect());
    drop(conversation);
}

#[test]
fn one_thread_submits_while_another_waits() {
    let (_runtime, _sidecar, address) = echo();
    let client = Client::builder(address).in_flight_limit(4).connect().unwrap();
    let mut answers = client.answers();
    assert_eq!(answers.try_next(), None);
    let submitter = answers.submitter();
    let rollouts = of_ids((0..500).map(|i| vec![i, 1]));
    thread::scope(|scope| {
        scope.spawn(|| {
            for index in 0..500 {
                while !submitter.try_submit(&rollouts, index, index as u64, Instant::now()).unwrap() {
                    thread::yield_now();
                }
            }
        });
        let mut seen = BTreeSet::new();
        while seen.len() < 500 {
            answers.wait(PATIENT.max);
            while let Some((tag, answer)) = answers.try_next() {
                assert_eq!(answer.unwrap().unwrap().attributes, EchoEngine::expected(&[tag as u32, 1]));
                assert!(seen.insert(tag));
            }
        }
    });
    assert_eq!(answers.unanswered(), 0);
    drop(answers);
    // The client's thread may still be telling it of room.
    while submitter.try_submit(&rollouts, 0, 0, Instant::now()) != Err(ClientError::Closed) {
        thread::yield_now();
    }
}

#[test]
fn once_given_up_the_rest_is_not_tried() {
    let (_folder, path) = socket();
    let client = Client::builder(address(&path)).back_off(HASTY).connect_lazy().unwrap();
    let rollouts = of_texts(&texts(2));
    let mut answers = client.answers();
    answers.submit(&rollouts, 0, 5, &mut go_on).unwrap();
    let (tag, answer) = answers.next(&mut go_on).unwrap().unwrap();
    let error = answer.unwrap_err();
    assert!(tag == 5 && matches!(error, ClientError::Disconnected { .. }), "{error:?}");
    assert_eq!(answers.try_submit(&rollouts, 1, 6), Err(error.clone()));
    assert_eq!(answers.submit(&rollouts, 1, 6, &mut go_on), Err(Stopped::Failed(error)));
    assert_eq!(answers.next(&mut go_on), Ok(None));
    // A new series tries again.
    let failed = client.score_all(rollouts, &mut go_on).unwrap_err();
    assert!(matches!(failed, Stopped::Failed(ClientError::Disconnected { .. })), "{failed:?}");
    assert!(matches!(Client::builder(address(&path)).back_off(HASTY).connect(), Err(ClientError::Disconnected { .. })));
}

#[test]
fn a_dropped_client_says_goodbye() {
    let (mut fake, address) = Fake::on_tcp(Manners::default());
    let client = Client::connect(address).unwrap();
    let mut answers = client.answers();
    answers.submit(&of_texts(&texts(1)), 0, 0, &mut go_on).unwrap();
    let runtime = runtime();
    let mut conversation = runtime.block_on(fake.conversation());
    let rollout = runtime.block_on(conversation.rollout()).unwrap();
    drop((client, answers));
    runtime.block_on(async {
        // Nobody waits for it any more, and the server is told; then the stream ends in order.
        let cancellation = conversation.message().await.unwrap();
        assert_eq!((cancellation.cancel, cancellation.id), (true, rollout.id));
        assert!(conversation.message().await.is_none());
    });
}

#[test]
fn what_is_withdrawn_is_answered_at_once_and_the_server_is_told() {
    let (mut fake, address) = Fake::on_tcp(Manners::default());
    let client = Client::connect(address).unwrap();
    let (rollouts, runtime) = (of_texts(&texts(4)), runtime());
    let mut answers = client.answers();
    let mut others = client.answers();
    for tag in 0..4 {
        answers.submit(&rollouts, tag, tag as u64, &mut go_on).unwrap();
    }
    others.submit(&rollouts, 1, 1, &mut go_on).unwrap();
    let mut conversation = runtime.block_on(fake.conversation());
    let asked = runtime.block_on(conversation.rollouts(5));
    answers.submitter().cancel(1..=2);
    for _ in 0..2 {
        let (tag, answer) = answers.next(&mut go_on).unwrap().unwrap();
        assert!((1..=2).contains(&tag));
        assert_eq!(answer.unwrap().unwrap_err().code, Code::Cancelled);
    }
    runtime.block_on(async {
        for rollout in &asked[1..3] {
            let message = conversation.message().await.unwrap();
            assert_eq!((message.cancel, &message.id), (true, &rollout.id));
            // What was already scored comes nevertheless, and is discarded.
            conversation.answer(rollout).await;
        }
        for rollout in [&asked[0], &asked[3], &asked[4]] {
            conversation.answer(rollout).await;
        }
    });
    assert_eq!(drain(&mut answers).into_keys().collect::<Vec<_>>(), [0, 3]);
    // The tags of another series are its own.
    assert_eq!(drain(&mut others).into_keys().collect::<Vec<_>>(), [1]);
}

#[test]
fn a_thread_that_waits_for_room_has_its_answer_at_the_deadline() {
    let (_runtime, _sidecar, gate, address) = behind_a_gate(loopback());
    let client = Client::builder(address).in_flight_limit(1).connect().unwrap();
    let rollouts = of_ids((0..1000).map(|i| vec![i]));
    let mut greedy = client.answers();
    greedy.submit(&rollouts, 0, 0, &mut go_on).unwrap();
    while greedy.try_submit(&rollouts, 1, 0).unwrap() {}
    let late: Arc<dyn Rollouts> =
        Arc::new(vec![Rollout { input: Some(Input::TokenIds(vec![1])), deadline_ms: Some(20), ..Rollout::default() }]);
    // No answer comes while the gate is closed, and with it no room.
    let outcomes = client.score_all(late, &mut go_on).unwrap();
    assert_eq!(outcomes[0].as_ref().unwrap_err().code, Code::DeadlineExceeded);
    gate.open();
    drain_any(&mut greedy);
}

/// Takes all answers, whose tags may be equal.
fn drain_any(answers: &mut Answers) {
    while let Some((_, answer)) = answers.next(&mut go_on).unwrap() {
        answer.unwrap().unwrap();
    }
}
