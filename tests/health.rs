//! A sidecar that can be trusted no longer says why, and takes nothing more.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use common::*;
use reward_sidecar::batch::MicroBatch;
use reward_sidecar::engine::{EchoEngine, Engine, EngineError, ModelCard, ScoreTable};
use reward_sidecar::proto::v1::{self, RejectionCode as Code};
use reward_sidecar::sidecar::health::FAILED_PASSES;
use reward_sidecar::sidecar::{Config, Sidecar, StartError};

/// Longer than anything here takes on a busy machine; a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a [`Broken`] engine does from its second pass on; the first is the known answer's.
#[derive(Clone, Copy)]
enum How {
    Fails,
    FailsForGood,
    Panics,
    GivesOtherBits,
}

struct Broken {
    echo: EchoEngine,
    how: How,
    passes: Arc<AtomicUsize>,
    /// Whether it is broken yet.
    now: Arc<AtomicBool>,
}

impl Engine for Broken {
    fn card(&self) -> &Arc<ModelCard> {
        self.echo.card()
    }

    fn score(&mut self, batch: &MicroBatch) -> Result<ScoreTable, EngineError> {
        self.passes.fetch_add(1, Ordering::SeqCst);
        if !self.now.load(Ordering::SeqCst) {
            return self.echo.score(batch);
        }
        match self.how {
            How::Fails => Err(EngineError::Forward("as told".into())),
            How::FailsForGood => Err(EngineError::Fatal("as told".into())),
            How::Panics => panic!("as told"),
            How::GivesOtherBits => Ok(ScoreTable::new(2, vec![0.5; 2 * batch.reads.len()])),
        }
    }
}

/// A sidecar, the count of its engine's passes, and what breaks the engine.
async fn breaking(how: How, config: Config) -> (Sidecar, Arc<AtomicUsize>, Arc<AtomicBool>) {
    let (passes, now) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let engine = Broken { echo: EchoEngine::new(CONTEXT), how, passes: Arc::clone(&passes), now: Arc::clone(&now) };
    (Sidecar::start(config, Box::new(engine)).await.unwrap(), passes, now)
}

async fn failure(sidecar: &Sidecar) -> Arc<str> {
    tokio::time::timeout(PATIENCE, sidecar.health().failed()).await.expect("it fails")
}

/// Sends rollouts one by one, each with the answer to the one before it.
async fn ask(sidecar: &Sidecar, times: u32) -> Vec<Option<Code>> {
    let mut client = connect(sidecar).await;
    let mut codes = Vec::new();
    for i in 0..times {
        let batch = v1::ScoreBatchRequest { rollouts: vec![ids(format!("{i}"), &[i, 1])] };
        codes.push(rejection(&client.score_batch(batch).await.unwrap().into_inner().replies[0]));
    }
    codes
}

#[tokio::test]
async fn an_engine_that_fails_again_and_again_is_a_failure_and_one_that_recovers_is_none() {
    for how in [How::Fails, How::Panics] {
        let (sidecar, _, broken) = breaking(how, loopback()).await;
        for _ in 0..3 {
            broken.store(true, Ordering::SeqCst);
            let codes = ask(&sidecar, FAILED_PASSES - 1).await;
            assert!(codes.iter().all(|code| *code == Some(Code::EngineFailed)), "{codes:?}");
            broken.store(false, Ordering::SeqCst);
            assert_eq!(ask(&sidecar, 1).await, [None]);
        }
        assert_eq!(sidecar.health().failure(), None);
        broken.store(true, Ordering::SeqCst);
        ask(&sidecar, FAILED_PASSES).await;
        let reason = failure(&sidecar).await;
        assert!(reason.contains("passes in a row have failed") && reason.contains("as told"), "{reason}");
        sidecar.end().await.unwrap();
    }
}

#[tokio::test]
async fn one_error_for_good_is_a_failure() {
    let (sidecar, _, broken) = breaking(How::FailsForGood, loopback()).await;
    broken.store(true, Ordering::SeqCst);
    assert_eq!(ask(&sidecar, 1).await, [Some(Code::EngineFailed)]);
    assert!(failure(&sidecar).await.contains("failed for good: as told"));
    sidecar.end().await.unwrap();
}

#[tokio::test]
async fn a_pass_that_does_not_end_is_a_failure() {
    let (sidecar, gate) = gated(Config { watchdog_ms: 20, ..loopback() }).await;
    let (send, _replies) = open(&sidecar).await;
    send.send(ids("a", &[1])).unwrap();
    let reason = failure(&sidecar).await;
    assert!(reason.contains("watchdog_ms"), "{reason}");
    gate.open();
    sidecar.end().await.unwrap();
}

/// The check comes by itself while nothing else is scored, and a changed model is found by it.
#[tokio::test]
async fn another_answer_to_the_known_rollout_is_a_failure() {
    let (sidecar, passes, broken) = breaking(How::GivesOtherBits, Config { known_answer_ms: 5, ..loopback() }).await;
    while passes.load(Ordering::SeqCst) < 3 {
        tokio::task::yield_now().await;
    }
    assert_eq!(sidecar.health().failure(), None, "the same bits again and again");
    broken.store(true, Ordering::SeqCst);
    let reason = failure(&sidecar).await;
    assert!(reason.contains("no longer gives the bits"), "{reason}");
    sidecar.end().await.unwrap();
}

#[tokio::test]
async fn a_model_that_cannot_score_is_never_served() {
    let (passes, now) = (Arc::default(), Arc::new(AtomicBool::new(true)));
    let engine = Broken { echo: EchoEngine::new(CONTEXT), how: How::Fails, passes, now };
    let Err(StartError::Engine(reason)) = Sidecar::start(loopback(), Box::new(engine)).await else {
        panic!("it started")
    };
    assert!(reason.contains("cannot score a rollout") && reason.contains("as told"), "{reason}");
}
