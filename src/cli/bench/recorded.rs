//! An engine that notes the micro-batches it is given, so that they can be given to it again without all that is around it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::batch::MicroBatch;
use crate::engine::{Engine, EngineError, ModelCard, Prefixes, ScoreTable};

/// See the module. Clones are the same engine.
#[derive(Clone)]
pub struct Recorded {
    card: Arc<ModelCard>,
    prefixes: Option<Arc<dyn Prefixes>>,
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    engine: Box<dyn Engine>,
    batches: Vec<MicroBatch>,
    busy: Duration,
}

/// What the engine has done since it was last asked.
#[derive(Default)]
pub struct Recording {
    pub batches: Vec<MicroBatch>,
    /// Time in the engine.
    pub busy: Duration,
}

impl Recorded {
    pub fn new(engine: Box<dyn Engine>) -> Self {
        let (card, prefixes) = (Arc::clone(engine.card()), engine.prefixes());
        Self {
            card,
            prefixes,
            inner: Arc::new(Mutex::new(Inner { engine, batches: Vec::new(), busy: Duration::ZERO })),
        }
    }

    /// Forgets all prefixes, and hands out what was noted.
    pub fn restart(&self) -> Recording {
        let mut inner = self.lock();
        inner.engine.forget();
        Recording { batches: std::mem::take(&mut inner.batches), busy: std::mem::take(&mut inner.busy) }
    }

    /// Scores micro-batches one after the other, with something else after each, whose time does not count.
    pub fn replay(&self, batches: &[MicroBatch], mut after_each: impl FnMut()) -> Result<Duration, EngineError> {
        let mut inner = self.lock();
        let mut time = Duration::ZERO;
        for batch in batches {
            let began = Instant::now();
            inner.engine.score(batch)?;
            time += began.elapsed();
            after_each();
        }
        Ok(time)
    }

    /// A panic in the engine ends the measurement anyway.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine for Recorded {
    fn card(&self) -> &Arc<ModelCard> {
        &self.card
    }

    fn rows(&self, batch: &MicroBatch) -> usize {
        self.lock().engine.rows(batch)
    }

    fn prefixes(&self) -> Option<Arc<dyn Prefixes>> {
        self.prefixes.clone()
    }

    fn score(&mut self, batch: &MicroBatch) -> Result<ScoreTable, EngineError> {
        let mut inner = self.lock();
        inner.batches.push(batch.clone());
        let began = Instant::now();
        let table = inner.engine.score(batch);
        inner.busy += began.elapsed();
        table
    }
}
