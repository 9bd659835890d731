//! Who runs the engine, and that it makes no difference to anybody else.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use crate::batch::MicroBatch;
use crate::engine::{EchoEngine, Engine, EngineError, ModelCard, ScoreTable};
use crate::reward::{Code, Outcome};
use crate::rollout::{Input, Rollout};
use crate::sidecar::{Config, Intake, Interest, Sidecar, Ticket};

/// Longer than anything here takes on a busy machine; a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// An echo engine that says on which thread it ran last, may be slow, and panics when it is told to.
#[derive(Clone)]
struct Watched {
    card: Arc<ModelCard>,
    cost: Duration,
    ran_on: Arc<Mutex<Option<ThreadId>>>,
    panics: Arc<AtomicBool>,
}

impl Watched {
    fn new(cost: Duration) -> Self {
        Self { card: Arc::clone(EchoEngine::new(64).card()), cost, ran_on: Arc::default(), panics: Arc::default() }
    }

    fn ran_here(&self) -> bool {
        *self.ran_on.lock().unwrap() == Some(std::thread::current().id())
    }

    async fn start(&self, config: Config) -> Sidecar {
        Sidecar::start(config, Box::new(self.clone())).await.unwrap()
    }

    /// Asks until the engine has run on this thread: its speed has become known, and it is idle.
    fn warm_up(&self, intake: &Intake) {
        let end = Instant::now() + PATIENCE;
        while !self.ran_here() {
            assert!(Instant::now() < end, "the engine was never run by whoever asked");
            assert!(score(intake, &[1, 2, 3]).is_ok());
        }
    }
}

impl Engine for Watched {
    fn card(&self) -> &Arc<ModelCard> {
        &self.card
    }

    fn score(&mut self, batch: &MicroBatch) -> Result<ScoreTable, EngineError> {
        *self.ran_on.lock().unwrap() = Some(std::thread::current().id());
        assert!(!self.panics.load(Ordering::SeqCst), "as told");
        if !self.cost.is_zero() {
            std::thread::sleep(self.cost);
        }
        EchoEngine::new(64).score(batch)
    }
}

fn rollout(tokens: &[u32]) -> Rollout {
    Rollout { id: "a".into(), input: Some(Input::TokenIds(tokens.to_vec())), ..Rollout::default() }
}

/// Submits quietly.
fn submit(intake: &Intake, tokens: &[u32]) -> mpsc::Receiver<Outcome> {
    let (deliver, answer) = mpsc::channel();
    let ticket = Ticket::new(Interest::default(), move |outcome| deliver.send(outcome).unwrap());
    intake.try_submit(rollout(tokens), ticket, Instant::now()).expect("ids, and a queue with room");
    answer
}

fn score(intake: &Intake, tokens: &[u32]) -> Outcome {
    let answer = submit(intake, tokens);
    intake.settle();
    answer.recv_timeout(PATIENCE).unwrap()
}

#[tokio::test]
async fn an_engine_quicker_than_a_wake_up_is_run_by_whoever_asks() {
    let engine = Watched::new(Duration::ZERO);
    // With patience for company, which is not waited for.
    let sidecar = engine.start(Config { max_wait_ms: 50, ..Config::default() }).await;
    let intake = sidecar.intake();
    engine.warm_up(intake);
    let rewards = score(intake, &[4, 5]).unwrap();
    assert_eq!(rewards.attributes, EchoEngine::expected(&[4, 5]));
    // Several go together.
    let answers = [submit(intake, &[1]), submit(intake, &[1, 2])];
    intake.settle();
    let tokens = answers.map(|answer| answer.recv_timeout(PATIENCE).unwrap().unwrap().tokens);
    assert_eq!(tokens, [1, 2]);
    sidecar.drain().await.unwrap();
}

#[tokio::test]
async fn a_slow_engine_never_is() {
    // Twenty times a hand-over.
    let engine = Watched::new(Duration::from_millis(1));
    let sidecar = engine.start(Config { max_wait_ms: 0, ..Config::default() }).await;
    for i in 0..50 {
        assert!(score(sidecar.intake(), &[i]).is_ok());
        assert!(!engine.ran_here());
    }
    sidecar.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_all_sides_at_once_everything_is_answered_once() {
    const THREADS: u32 = 3;
    const TASKS: u32 = 3;
    const ROLLOUTS: u32 = 200;
    let engine = Watched::new(Duration::ZERO);
    // Small limits, so that some find no room at once and micro-batches are cut off.
    let config = Config { queue_rollouts: 4, max_batch_rollouts: 2, max_wait_ms: 1, ..Config::default() };
    let sidecar = engine.start(config).await;
    let answered = Arc::new(AtomicUsize::new(0));
    let right = Arc::new(AtomicUsize::new(0));
    let ticket = |tokens: Vec<u32>| {
        let (answered, right) = (Arc::clone(&answered), Arc::clone(&right));
        Ticket::new(Interest::default(), move |outcome: Outcome| {
            answered.fetch_add(1, Ordering::SeqCst);
            let expected = EchoEngine::expected(&tokens);
            right.fetch_add(usize::from(outcome.is_ok_and(|r| r.attributes == expected)), Ordering::SeqCst);
        })
    };
    let runtime = tokio::runtime::Handle::current();
    std::thread::scope(|scope| {
        for i in 0..THREADS {
            let (intake, ticket, runtime) = (sidecar.intake(), &ticket, &runtime);
            scope.spawn(move || {
                for n in 0..ROLLOUTS {
                    let tokens = vec![i, n];
                    let submitted = intake.try_submit(rollout(&tokens), ticket(tokens), Instant::now());
                    if let Err(deferred) = submitted {
                        runtime.block_on(deferred.finish());
                    }
                    if n % 3 == 0 {
                        intake.settle();
                    }
                }
                intake.settle();
            });
        }
        for i in THREADS..THREADS + TASKS {
            let (intake, ticket, runtime) = (sidecar.intake(), &ticket, &runtime);
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
    sidecar.drain().await.unwrap();
    let all = ((THREADS + TASKS) * ROLLOUTS) as usize;
    assert_eq!((answered.load(Ordering::SeqCst), right.load(Ordering::SeqCst)), (all, all));
}

#[tokio::test]
async fn what_was_not_settled_is_drained_and_nothing_comes_in_afterwards() {
    let engine = Watched::new(Duration::ZERO);
    let sidecar = engine.start(Config::default()).await;
    let intake = sidecar.intake().clone();
    engine.warm_up(&intake);
    let answer = submit(&intake, &[1, 2]);
    sidecar.drain().await.unwrap();
    assert_eq!(answer.try_recv().unwrap().unwrap().tokens, 2);
    assert_eq!(score(&intake, &[1]).unwrap_err().code, Code::Draining);
    // The door may outlive the model.
    assert_eq!(Arc::strong_count(&engine.panics), 1);
}

#[tokio::test]
async fn a_panic_of_the_engine_fails_its_micro_batch_alone() {
    let engine = Watched::new(Duration::ZERO);
    let sidecar = engine.start(Config::default()).await;
    let end = Instant::now() + PATIENCE;
    loop {
        engine.panics.store(false, Ordering::SeqCst);
        engine.warm_up(sidecar.intake());
        engine.panics.store(true, Ordering::SeqCst);
        let rejection = score(sidecar.intake(), &[1]).unwrap_err();
        assert_eq!((rejection.code, rejection.message.contains("as told")), (Code::EngineFailed, true), "{rejection}");
        if engine.ran_here() {
            break;
        }
        // The last pass was slow: a busy machine.
        assert!(Instant::now() < end);
    }
    engine.panics.store(false, Ordering::SeqCst);
    assert!(score(sidecar.intake(), &[1]).is_ok());
    sidecar.drain().await.unwrap();
}

#[tokio::test]
async fn text_and_a_full_queue_go_the_long_way() {
    let engine = Watched::new(Duration::ZERO);
    let sidecar = engine.start(Config { queue_rollouts: 1, max_wait_ms: 1, ..Config::default() }).await;
    let intake = sidecar.intake();
    let (deliver, answers) = mpsc::channel();
    let ticket = || {
        let deliver = deliver.clone();
        Ticket::new(Interest::default(), move |outcome: Outcome| deliver.send(outcome).unwrap())
    };
    let text = Rollout { id: "a".into(), input: Some(Input::Text("text".into())), ..Rollout::default() };
    let deferred = intake.try_submit(text.clone(), ticket(), Instant::now()).unwrap_err();
    assert!(answers.try_recv().is_err(), "nothing is known before the text is read");
    deferred.finish().await;
    assert_eq!(answers.recv_timeout(PATIENCE).unwrap().unwrap_err().code, Code::NoInput, "no tokenizer");

    let first = submit(intake, &[1]);
    let second = intake.try_submit(rollout(&[1, 2]), ticket(), Instant::now()).unwrap_err();
    let third = intake.try_submit(rollout(&[1, 2, 3]), ticket(), Instant::now()).unwrap_err();
    intake.settle();
    assert!(first.recv_timeout(PATIENCE).unwrap().is_ok());
    second.finish().await;
    assert_eq!(answers.recv_timeout(PATIENCE).unwrap().unwrap().tokens, 2);
    drop(third);
    assert_eq!(answers.recv_timeout(PATIENCE).unwrap().unwrap_err().code, Code::Cancelled, "given up");
    sidecar.drain().await.unwrap();
}
