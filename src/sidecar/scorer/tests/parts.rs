//! Micro-batches that are larger than the batcher thought run in parts.

use super::*;

/// Keeps all tokens, as it says.
pub(super) struct Everything;

impl Prefixes for Everything {
    fn known(&self, tokens: &[u32]) -> usize {
        tokens.len()
    }

    fn version(&self) -> u64 {
        0
    }
}

/// What the batcher counts as kept may be gone: the engine is not given more than a micro-batch may have on that account.
#[test]
fn a_wrong_hint_costs_time_and_no_memory() {
    let config = Config { max_batch_tokens: 40, max_wait_ms: 1000, max_batch_rollouts: 20, ..Config::default() };
    let engine = Watched::new();
    engine.boasts.store(true, Ordering::SeqCst);
    let running = Running::new(&config, &engine);
    let answers: Vec<_> = (0..20).map(|n| running.submit(&[n; 15])).collect();
    running.intake.wake();
    for answer in answers {
        assert!(answer.recv_timeout(PATIENCE).unwrap().is_ok());
    }
    assert_eq!(engine.largest.load(Ordering::SeqCst), 30, "two by two");
    running.drain();
}
