//! From intake through the scoring threads to the answers.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::Terms;
use crate::batch::{MicroBatch, Wanted};
use crate::engine::{EchoEngine, Engine, EngineError, ModelCard, ScoreTable};
use crate::reward::{Code, Outcome};
use crate::rollout::{Input, Rollout};
use crate::sidecar::queue::Queue;
use crate::sidecar::rules::Rules;
use crate::sidecar::{Config, Identity, Intake, Interest, Ticket};

/// Longer than anything here takes on a busy machine; a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// An echo engine that panics when it is told to.
#[derive(Clone)]
struct Watched {
    card: Arc<ModelCard>,
    panics: Arc<AtomicBool>,
    /// The prefixes that others were said to want, and those others.
    wanted: Arc<Mutex<Vec<WantedPrefix>>>,
}

impl Watched {
    fn new() -> Self {
        Self { card: Arc::clone(EchoEngine::new(64).card()), panics: Arc::default(), wanted: Arc::default() }
    }
}

impl Engine for Watched {
    fn card(&self) -> &Arc<ModelCard> {
        &self.card
    }

    fn score(&mut self, batch: &MicroBatch) -> Result<ScoreTable, EngineError> {
        assert!(!self.panics.load(Ordering::SeqCst), "as told");
        for Wanted { row, by } in &batch.wanted {
            assert!(by.strong_count() > 0, "nobody wants it");
            self.wanted.lock().unwrap().push((batch.path(*row).into_owned(), by.clone()));
        }
        EchoEngine::new(64).score(batch)
    }
}

/// Tokens, and who wanted them.
type WantedPrefix = (Vec<u32>, Weak<()>);

/// An engine, its threads, and the door to them.
struct House {
    intake: Intake,
    queue: Arc<Queue>,
    threads: [JoinHandle<()>; 2],
}

impl House {
    fn new(config: &Config, engine: &Watched) -> Self {
        let queue = Arc::new(Queue::new(config));
        let threads = super::start(&queue, Box::new(engine.clone()), Terms::of(config)).unwrap();
        let intake = Intake::new(Rules::new(Arc::clone(&engine.card), config).unwrap(), config, Arc::clone(&queue));
        Self { intake, queue, threads }
    }

    /// Submits without waking the packer.
    fn submit(&self, tokens: &[u32]) -> mpsc::Receiver<Outcome> {
        self.submit_rollout(rollout(tokens))
    }

    fn submit_rollout(&self, rollout: Rollout) -> mpsc::Receiver<Outcome> {
        let (deliver, answer) = mpsc::channel();
        let ticket =
            Ticket::new(Interest::of(&Identity::new("test", None)), move |outcome| deliver.send(outcome).unwrap());
        self.intake.try_submit(rollout, ticket, Instant::now()).expect("ids, and a queue with room");
        answer
    }

    fn score(&self, tokens: &[u32]) -> Outcome {
        let answer = self.submit(tokens);
        self.intake.wake();
        answer.recv_timeout(PATIENCE).unwrap()
    }

    /// Answers what is left, and ends the threads.
    fn drain(self) -> Intake {
        self.intake.close();
        self.queue.close();
        for thread in self.threads {
            thread.join().unwrap();
        }
        self.intake
    }
}

fn rollout(tokens: &[u32]) -> Rollout {
    Rollout { id: "a".into(), input: Some(Input::TokenIds(tokens.to_vec())), ..Rollout::default() }
}

/// More than one micro-batch takes, and in order of arrival.
#[test]
fn all_that_waits_is_scored_in_order() {
    let engine = Watched::new();
    let house = House::new(&Config { max_batch_tokens: 5, max_wait_ms: 0, ..Config::default() }, &engine);
    let (deliver, answers) = mpsc::channel();
    let caller = Identity::new("test", None);
    for n in 0..100 {
        let deliver = deliver.clone();
        let ticket =
            Ticket::new(Interest::of(&caller), move |outcome: Outcome| deliver.send((n, outcome.unwrap())).unwrap());
        house.intake.try_submit(rollout(&[n, n]), ticket, Instant::now()).expect("ids, and a queue with room");
    }
    house.intake.wake();
    for n in 0..100 {
        let (answered, rewards) = answers.recv_timeout(PATIENCE).unwrap();
        assert_eq!((answered, rewards.attributes), (n, EchoEngine::expected(&[n, n]).to_vec()));
    }
    house.drain();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_all_sides_at_once_everything_is_answered_once() {
    const THREADS: u32 = 3;
    const TASKS: u32 = 3;
    const ROLLOUTS: u32 = 200;
    // Small limits, so that some find no room at once and micro-batches are cut off.
    let config = Config { queue_rollouts: 4, max_batch_rollouts: 2, max_wait_ms: 1, ..Config::default() };
    let engine = Watched::new();
    {
        let house = House::new(&config, &engine);
        let answered = Arc::new(AtomicUsize::new(0));
        let right = Arc::new(AtomicUsize::new(0));
        let ticket = |tokens: Vec<u32>| {
            let (answered, right) = (Arc::clone(&answered), Arc::clone(&right));
            Ticket::new(Interest::of(&Identity::new("test", None)), move |outcome: Outcome| {
                answered.fetch_add(1, Ordering::SeqCst);
                let expected = EchoEngine::expected(&tokens);
                right.fetch_add(usize::from(outcome.is_ok_and(|r| r.attributes == expected)), Ordering::SeqCst);
            })
        };
        let runtime = tokio::runtime::Handle::current();
        std::thread::scope(|scope| {
            for i in 0..THREADS {
                let (intake, ticket, runtime) = (&house.intake, &ticket, &runtime);
                scope.spawn(move || {
                    for n in 0..ROLLOUTS {
                        let tokens = vec![i, n];
                        if let Err(deferred) = intake.try_submit(rollout(&tokens), ticket(tokens), Instant::now()) {
                            runtime.block_on(deferred.finish());
                        }
                        if n % 3 == 0 {
                            intake.wake();
                        }
                    }
                    intake.wake();
                });
            }
            for i in THREADS..THREADS + TASKS {
                let (intake, ticket, runtime) = (&house.intake, &ticket, &runtime);
                scope.spawn(move || {
                    runtime.block_on(async {
                        for n in 0..ROLLOUTS {
                            let tokens = vec![i, n];
                            intake.submit(rollout(&tokens), ticket(tokens), Instant::now()).await;
                        }
                    });
                });
            }
        });
        house.drain();
        let all = ((THREADS + TASKS) * ROLLOUTS) as usize;
        assert_eq!((answered.load(Ordering::SeqCst), right.load(Ordering::SeqCst)), (all, all));
    }
}

#[test]
fn what_no_thread_was_woken_for_is_drained_and_nothing_comes_in_afterwards() {
    let engine = Watched::new();
    let house = House::new(&Config::default(), &engine);
    assert!(house.score(&[1]).is_ok());
    let answer = house.submit(&[1, 2]);
    let intake = house.drain();
    assert_eq!(answer.try_recv().unwrap().unwrap().tokens, 2);
    let (deliver, answer) = mpsc::channel();
    let ticket =
        Ticket::new(Interest::of(&Identity::new("test", None)), move |outcome: Outcome| deliver.send(outcome).unwrap());
    intake.try_submit(rollout(&[1]), ticket, Instant::now()).unwrap();
    intake.wake();
    assert_eq!(answer.try_recv().unwrap().unwrap_err().code, Code::Draining);
    // The door may outlive the model.
    assert_eq!(Arc::strong_count(&engine.panics), 1);
}

#[test]
fn a_panic_of_the_engine_fails_its_micro_batch_alone() {
    let engine = Watched::new();
    let house = House::new(&Config::default(), &engine);
    assert!(house.score(&[1]).is_ok());
    engine.panics.store(true, Ordering::SeqCst);
    let rejection = house.score(&[1]).unwrap_err();
    assert_eq!((rejection.code, rejection.message.contains("as told")), (Code::EngineFailed, true), "{rejection}");
    engine.panics.store(false, Ordering::SeqCst);
    assert!(house.score(&[1]).is_ok());
    house.drain();
}

#[tokio::test]
async fn text_and_a_full_queue_go_the_long_way() {
    let engine = Watched::new();
    let house = House::new(&Config { queue_rollouts: 1, max_wait_ms: 1, ..Config::default() }, &engine);
    let intake = &house.intake;
    let (deliver, answers) = mpsc::channel();
    let ticket = || {
        let deliver = deliver.clone();
        Ticket::new(Interest::of(&Identity::new("test", None)), move |outcome: Outcome| deliver.send(outcome).unwrap())
    };
    let text = Rollout { id: "a".into(), input: Some(Input::Text("text".into())), ..Rollout::default() };
    let deferred = intake.try_submit(text, ticket(), Instant::now()).unwrap_err();
    assert!(answers.try_recv().is_err(), "nothing is known before the text is read");
    deferred.finish().await;
    assert_eq!(answers.recv_timeout(PATIENCE).unwrap().unwrap_err().code, Code::UnsupportedInput, "no tokenizer");

    let first = house.submit(&[1]);
    let second = intake.try_submit(rollout(&[1, 2]), ticket(), Instant::now()).unwrap_err();
    let third = intake.try_submit(rollout(&[1, 2, 3]), ticket(), Instant::now()).unwrap_err();
    intake.wake();
    assert!(first.recv_timeout(PATIENCE).unwrap().is_ok());
    second.finish().await;
    assert_eq!(answers.recv_timeout(PATIENCE).unwrap().unwrap().tokens, 2);
    drop(third);
    assert_eq!(answers.recv_timeout(PATIENCE).unwrap().unwrap_err().code, Code::Cancelled, "given up");
    house.drain();
}

#[test]
fn what_a_group_shares_is_wanted_until_its_last_member_is_answered() {
    let engine = Watched::new();
    let house = House::new(&Config { max_batch_rollouts: 2, ..Config::default() }, &engine);
    assert!(house.score(&[1]).is_ok());
    let member = |last: u32| Rollout { group: "g".into(), ..rollout(&[7, 8, 9, last]) };
    let mut answers: Vec<_> = (0..5).map(|last| house.submit_rollout(member(last))).collect();
    // Begins alike, and is none of them.
    answers.push(house.submit(&[7, 8]));
    house.intake.wake();
    assert!(answers.into_iter().all(|answer| answer.recv_timeout(PATIENCE).unwrap().is_ok()));
    house.drain();
    let wanted = engine.wanted.lock().unwrap();
    assert!(!wanted.is_empty());
    for (prefix, by) in &*wanted {
        assert_eq!((&prefix[..], by.strong_count()), (&[7, 8, 9][..], 0));
    }
}
