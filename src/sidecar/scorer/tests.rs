//! From intake through the scoring threads to the answers.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::Terms;
use crate::batch::{MicroBatch, Wanted};
use crate::engine::{EchoEngine, Engine, EngineError, ModelCard, Prefixes, ScoreTable};
use crate::reward::{Code, Outcome};
use crate::rollout::{Input, Rollout};
use crate::sidecar::health::Health;
use crate::sidecar::observer::Observers;
use crate::sidecar::queue::{self, Queue};
use crate::sidecar::rules::Rules;
use crate::sidecar::{Config, Identity, Intake, Interest, Served, Ticket};

/// Longer than anything here takes on a busy machine; a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// An echo engine that panics or fails for good when it is told to.
#[derive(Clone)]
struct Watched {
    card: Arc<ModelCard>,
    panics: Arc<AtomicBool>,
    fails: Arc<AtomicBool>,
    /// Says that it keeps everything, which is not so.
    boasts: Arc<AtomicBool>,
    /// Tokens of its largest micro-batch of several rollouts.
    largest: Arc<AtomicUsize>,
    /// The prefixes that others were said to want, and those others.
    wanted: Arc<Mutex<Vec<WantedPrefix>>>,
}

impl Watched {
    fn new() -> Self {
        Self {
            card: Arc::clone(EchoEngine::new(64).card()),
            panics: Arc::default(),
            fails: Arc::default(),
            boasts: Arc::default(),
            largest: Arc::default(),
            wanted: Arc::default(),
        }
    }
}

impl Engine for Watched {
    fn card(&self) -> &Arc<ModelCard> {
        &self.card
    }

    fn prefixes(&self) -> Option<Arc<dyn Prefixes>> {
        self.boasts.load(Ordering::SeqCst).then(|| Arc::new(parts::Everything) as Arc<dyn Prefixes>)
    }

    fn score(&mut self, batch: &MicroBatch) -> Result<ScoreTable, EngineError> {
        assert!(!self.panics.load(Ordering::SeqCst), "as told");
        if self.fails.load(Ordering::SeqCst) {
            return Err(EngineError::Fatal("as told".into()));
        }
        if batch.reads.len() > 1 {
            self.largest.fetch_max(batch.tokens.len(), Ordering::SeqCst);
        }
        for Wanted { row, by } in &batch.wanted {
            assert!(by.strong_count() > 0, "nobody wants it");
            self.wanted.lock().unwrap().push((batch.path(*row).into_owned(), by.clone()));
        }
        EchoEngine::new(64).score(batch)
    }
}

/// Tokens, and who wanted them.
type WantedPrefix = (Vec<u32>, Weak<()>);

/// An engine, its threads, and the intake in front of them.
struct Running {
    intake: Intake,
    queue: Arc<Queue>,
    health: Health,
    threads: [JoinHandle<()>; 2],
    caller: Arc<Identity>,
}

impl Running {
    fn new(config: &Config, engine: &Watched) -> Self {
        let (health, shared) = (Health::default(), queue::Shared::new(config));
        let queue = Arc::new(Queue::new(config, shared.clone()).with_prefixes(engine.prefixes()));
        let threads =
            super::start(&queue, Box::new(engine.clone()), Terms::of(config, 1, &Arc::default()), &health).unwrap();
        let rules = Rules::new(Arc::clone(&engine.card), config).unwrap();
        let served = Arc::new(Served { generation: 1, rules, queue: Arc::clone(&queue) });
        let intake = Intake::new(vec![served], config, shared, Observers::new(Vec::new()));
        Self { intake, queue, health, threads, caller: Identity::new("test", None) }
    }

    /// Submits without waking the packer.
    fn submit(&self, tokens: &[u32]) -> mpsc::Receiver<Outcome> {
        self.submit_rollout(rollout(tokens))
    }

    fn submit_rollout(&self, rollout: Rollout) -> mpsc::Receiver<Outcome> {
        let (deliver, answer) = mpsc::channel();
        let ticket = Ticket::new(Interest::of(&self.caller), move |outcome| deliver.send(outcome).unwrap());
        self.intake.try_submit(rollout, ticket, Instant::now()).expect("ids, and a queue with room");
        answer
    }

    /// The same, whether or not the queue takes anything any more.
    fn submit_anyway(&self, ticket: Ticket, tokens: &[u32]) {
        if let Err(deferred) = self.intake.try_submit(rollout(tokens), ticket, Instant::now()) {
            tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(deferred.finish());
        }
    }

    /// Submits twenty rollouts that way, and wakes the packer; their codes where they are rejected.
    fn reject_twenty(&self) -> Vec<Code> {
        let (deliver, answers) = mpsc::channel();
        for n in 0..20 {
            let deliver = deliver.clone();
            let deliver = move |outcome: Outcome| deliver.send(outcome).unwrap();
            self.submit_anyway(Ticket::new(Interest::of(&self.caller), deliver), &[n]);
        }
        self.intake.wake();
        (0..20).map(|_| answers.recv_timeout(PATIENCE).unwrap().unwrap_err().code).collect()
    }

    fn score(&self, tokens: &[u32]) -> Outcome {
        let answer = self.submit(tokens);
        self.intake.wake();
        answer.recv_timeout(PATIENCE).unwrap()
    }

    /// Answers what is left, and ends the threads.
    fn drain(self) -> Intake {
        self.intake.close();
        self.queue.end();
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
    let running = Running::new(&Config { max_batch_tokens: 5, max_wait_ms: 0, ..Config::default() }, &engine);
    let (deliver, answers) = mpsc::channel();
    let caller = Identity::new("test", None);
    for n in 0..100 {
        let deliver = deliver.clone();
        let ticket =
            Ticket::new(Interest::of(&caller), move |outcome: Outcome| deliver.send((n, outcome.unwrap())).unwrap());
        running.intake.try_submit(rollout(&[n, n]), ticket, Instant::now()).expect("ids, and a queue with room");
    }
    running.intake.wake();
    for n in 0..100 {
        let (answered, rewards) = answers.recv_timeout(PATIENCE).unwrap();
        assert_eq!((answered, rewards.attributes), (n, EchoEngine::expected(&[n, n]).to_vec()));
    }
    running.drain();
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
        let running = Running::new(&config, &engine);
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
                let (intake, ticket, runtime) = (&running.intake, &ticket, &runtime);
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
                let (intake, ticket, runtime) = (&running.intake, &ticket, &runtime);
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
        running.drain();
        let all = ((THREADS + TASKS) * ROLLOUTS) as usize;
        assert_eq!((answered.load(Ordering::SeqCst), right.load(Ordering::SeqCst)), (all, all));
    }
}

#[test]
fn what_no_thread_was_woken_for_is_drained_and_nothing_comes_in_afterwards() {
    let engine = Watched::new();
    let running = Running::new(&Config::default(), &engine);
    assert!(running.score(&[1]).is_ok());
    let answer = running.submit(&[1, 2]);
    let intake = running.drain();
    assert_eq!(answer.try_recv().unwrap().unwrap().tokens, 2);
    let (deliver, answer) = mpsc::channel();
    let ticket =
        Ticket::new(Interest::of(&Identity::new("test", None)), move |outcome: Outcome| deliver.send(outcome).unwrap());
    intake.try_submit(rollout(&[1]), ticket, Instant::now()).unwrap();
    intake.wake();
    assert_eq!(answer.try_recv().unwrap().unwrap_err().code, Code::Draining);
    // Intake may outlive the model.
    assert_eq!(Arc::strong_count(&engine.panics), 1);
}

#[test]
fn a_panic_of_the_engine_fails_its_micro_batch_alone() {
    let engine = Watched::new();
    let running = Running::new(&Config::default(), &engine);
    assert!(running.score(&[1]).is_ok());
    engine.panics.store(true, Ordering::SeqCst);
    let rejection = running.score(&[1]).unwrap_err();
    assert_eq!((rejection.code, rejection.message.contains("as told")), (Code::EngineFailed, true), "{rejection}");
    engine.panics.store(false, Ordering::SeqCst);
    assert!(running.score(&[1]).is_ok());
    running.drain();
}

#[tokio::test]
async fn text_and_a_full_queue_go_the_long_way() {
    let engine = Watched::new();
    let running = Running::new(&Config { queue_rollouts: 1, max_wait_ms: 1, ..Config::default() }, &engine);
    let intake = &running.intake;
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

    let first = running.submit(&[1]);
    let second = intake.try_submit(rollout(&[1, 2]), ticket(), Instant::now()).unwrap_err();
    let third = intake.try_submit(rollout(&[1, 2, 3]), ticket(), Instant::now()).unwrap_err();
    intake.wake();
    assert!(first.recv_timeout(PATIENCE).unwrap().is_ok());
    second.finish().await;
    assert_eq!(answers.recv_timeout(PATIENCE).unwrap().unwrap().tokens, 2);
    drop(third);
    assert_eq!(answers.recv_timeout(PATIENCE).unwrap().unwrap_err().code, Code::Cancelled, "given up");
    running.drain();
}

#[test]
fn what_a_group_shares_is_wanted_until_its_last_member_is_answered() {
    let engine = Watched::new();
    let running = Running::new(&Config { max_batch_rollouts: 2, ..Config::default() }, &engine);
    assert!(running.score(&[1]).is_ok());
    let member = |last: u32| Rollout { group: "g".into(), ..rollout(&[7, 8, 9, last]) };
    let mut answers: Vec<_> = (0..5).map(|last| running.submit_rollout(member(last))).collect();
    // Begins alike, and is none of them.
    answers.push(running.submit(&[7, 8]));
    running.intake.wake();
    assert!(answers.into_iter().all(|answer| answer.recv_timeout(PATIENCE).unwrap().is_ok()));
    running.drain();
    let wanted = engine.wanted.lock().unwrap();
    assert!(!wanted.is_empty());
    for (prefix, by) in &*wanted {
        assert_eq!((&prefix[..], by.strong_count()), (&[7, 8, 9][..], 0));
    }
}

#[test]
fn after_a_fatal_failure_nothing_waits_for_the_engine() {
    let engine = Watched::new();
    let running = Running::new(&Config { max_batch_rollouts: 1, max_wait_ms: 0, ..Config::default() }, &engine);
    assert!(running.score(&[1]).is_ok());
    engine.fails.store(true, Ordering::SeqCst);
    let codes = running.reject_twenty();
    assert!(codes.iter().all(|code| [Code::EngineFailed, Code::Draining].contains(code)), "{codes:?}");
    assert!(codes.contains(&Code::EngineFailed));
    assert!(running.health.failure().is_some_and(|reason| reason.contains("as told")));
    assert!(running.reject_twenty().iter().all(|code| *code == Code::Draining));
    running.drain();
}

/// What a transport does with an answer may panic, on the scorer's own thread.
#[test]
fn a_panic_of_a_scoring_thread_answers_all_and_is_reported() {
    let engine = Watched::new();
    let running = Running::new(&Config { max_batch_rollouts: 1, ..Config::default() }, &engine);
    let ticket = Ticket::new(Interest::of(&running.caller), |_| panic!("on purpose"));
    running.submit_anyway(ticket, &[1]);
    // The one that lay ready for the scorer goes with it.
    let codes = running.reject_twenty();
    assert!(codes.iter().all(|code| [Code::Draining, Code::Lost].contains(code)), "{codes:?}");
    let Running { health, threads, .. } = running;
    assert_eq!(threads.map(|thread| thread.join().is_err()), [false, true]);
    assert!(health.failure().is_some_and(|reason| reason.contains("the scorer thread panicked")));
}

#[test]
fn time_in_the_queue_counts_from_acceptance() {
    const EARLIER: Duration = Duration::from_secs(24 * 60 * 60);
    let engine = Watched::new();
    let running = Running::new(&Config { max_wait_ms: 0, ..Config::default() }, &engine);
    let (deliver, answer) = mpsc::channel();
    let ticket = Ticket::new(Interest::of(&running.caller), move |outcome: Outcome| deliver.send(outcome).unwrap());
    // As if it had waited for a tokenizer since yesterday.
    let received = Instant::now().checked_sub(EARLIER).unwrap_or_else(Instant::now);
    running.intake.try_submit(rollout(&[1]), ticket, received).expect("ids, and a queue with room");
    running.intake.wake();
    let rewards = answer.recv_timeout(PATIENCE).unwrap().unwrap();
    assert!(u128::from(rewards.queue_ns) <= 2 * PATIENCE.as_nanos(), "{} ns", rewards.queue_ns);
    running.drain();
}

/// The smallest budgets there are: each rollout goes alone.
#[test]
fn a_budget_of_a_few_tokens_scores_everything() {
    for max_batch_tokens in 0..4 {
        let engine = Watched::new();
        let running = Running::new(&Config { max_batch_tokens, max_wait_ms: 0, ..Config::default() }, &engine);
        let answers: Vec<_> = (0..40).map(|n| running.submit(&[n, n, n, n, n])).collect();
        running.intake.wake();
        assert!(answers.into_iter().all(|answer| answer.recv_timeout(PATIENCE).unwrap().is_ok()));
        running.drain();
    }
}

/// Two callers who call their groups alike, with nothing in common.
#[test]
fn what_is_kept_for_a_group_does_not_depend_on_others_of_that_name() {
    let engine = Watched::new();
    let running = Running::new(&Config { max_batch_rollouts: 2, ..Config::default() }, &engine);
    let (deliver, answers) = mpsc::channel();
    for prompt in [[7, 8, 9], [5, 5, 5]] {
        let caller = Identity::new("test", None);
        for last in 0..5 {
            let deliver = deliver.clone();
            let ticket = Ticket::new(Interest::of(&caller), move |outcome: Outcome| deliver.send(outcome).unwrap());
            let rollout = Rollout { group: "g".into(), ..rollout(&[&prompt[..], &[100 + last]].concat()) };
            running.intake.try_submit(rollout, ticket, Instant::now()).expect("ids, and a queue with room");
        }
    }
    running.intake.wake();
    (0..10).for_each(|_| drop(answers.recv_timeout(PATIENCE).unwrap().unwrap()));
    running.drain();
    let mut wanted: Vec<Vec<u32>> = engine.wanted.lock().unwrap().iter().map(|(prefix, _)| prefix.clone()).collect();
    wanted.sort();
    wanted.dedup();
    assert_eq!(wanted, [[5, 5, 5], [7, 8, 9]]);
}

mod parts;
