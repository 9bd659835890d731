//! The engine, and the two threads that run micro-batches on it: the packer packs the next one while the scorer runs the current
//! one.

mod pace;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tracing::info_span;

use self::pace::Pace;
use super::Config;
use super::intake::draining;
use super::metrics::{self, Stage};
use super::outcome::{Times, outcome};
use super::queue::{LeftBehind, Pending, Queue};
use crate::batch::{MicroBatch, Wanted};
use crate::engine::{Engine, EngineError, ModelCard, ScoreTable};
use crate::reward::{Code, Rejection};

/// The scorer thread's own: nobody else runs the engine, and it ends with the thread.
struct Scorer {
    queue: Arc<Queue>,
    engine: Box<dyn Engine>,
    card: Arc<ModelCard>,
    pace: Pace,
    terms: Terms,
}

/// A micro-batch and those who wait for it, in the order of its reads: each has one or more of them in a row.
struct Packed {
    batch: MicroBatch,
    pendings: Vec<Pending>,
}

impl Packed {
    fn new(pendings: Vec<Pending>, share_prefixes: bool) -> Self {
        let began = Instant::now();
        let sequences: Vec<_> = (0..).zip(&pendings).flat_map(|(i, pending)| pending.rollout.sequences(i)).collect();
        let mut batch = MicroBatch::pack_sequences(&sequences, share_prefixes);
        let mut reads = 0;
        for pending in &pendings {
            reads += pending.rollout.read_count();
            if let Some(LeftBehind { tokens, by }) = &pending.left_behind
                && let Some(read) = reads.checked_sub(1).and_then(|last| batch.reads.get(last))
                && let Some(row) = batch.row_of(read.row, tokens - 1)
            {
                batch.wanted.push(Wanted { row, by: by.clone() });
            }
        }
        metrics::stage(Stage::Pack, began.elapsed());
        Self { batch, pendings }
    }
}

/// How micro-batches are made and run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    share_prefixes: bool,
    max_batch_tokens: usize,
}

impl Terms {
    pub(super) fn of(config: &Config) -> Self {
        let Config { share_prefixes, max_batch_tokens, .. } = *config;
        Self { share_prefixes, max_batch_tokens }
    }
}

/// A thread that panics takes nobody with it: the queue takes nothing more and answers what it holds.
struct LastWill<'a>(&'a Queue);

impl Drop for LastWill<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.close();
            self.0.abandon();
        }
    }
}

/// Starts both threads; they end when the queue is closed and empty.
pub(super) fn start(queue: &Arc<Queue>, engine: Box<dyn Engine>, terms: Terms) -> std::io::Result<[JoinHandle<()>; 2]> {
    // One micro-batch lies ready while one runs; the queue gives out no other before this one is taken.
    let (ready, next) = sync_channel(1);
    let packer = {
        let queue = Arc::clone(queue);
        std::thread::Builder::new().name("packer".into()).spawn(move || pack_all(&queue, terms, &ready))?
    };
    let card = Arc::clone(engine.card());
    let scorer = Scorer { queue: Arc::clone(queue), engine, card, pace: Pace::default(), terms };
    let scorer = std::thread::Builder::new().name("scorer".into()).spawn(move || scorer.run_all(&next))?;
    Ok([packer, scorer])
}

fn pack_all(queue: &Queue, terms: Terms, ready: &SyncSender<Packed>) {
    let _will = LastWill(queue);
    while let Some(pendings) = queue.next_batch() {
        if ready.send(Packed::new(pendings, terms.share_prefixes)).is_err() {
            // The scorer is gone, which only a panic outside the engine can do; dropped tickets answer by themselves.
            return;
        }
    }
}

impl Scorer {
    fn run_all(mut self, next: &Receiver<Packed>) {
        let queue = Arc::clone(&self.queue);
        let _will = LastWill(&queue);
        loop {
            queue.engine_idle();
            let Ok(packed) = next.recv() else { return };
            queue.batch_taken();
            if let Some(packed) = self.without_obsolete(packed) {
                self.run(packed);
            }
        }
    }

    /// Takes out those who left or expired while the batch lay ready, and packs the rest again where there were any.
    fn without_obsolete(&self, packed: Packed) -> Option<Packed> {
        let (now, abandoned) = (Instant::now(), self.queue.abandoned());
        let obsolete = |pending: &Pending| if abandoned { Some(draining()) } else { pending.obsolete(now) };
        if packed.pendings.iter().all(|p| obsolete(p).is_none()) {
            return Some(packed);
        }
        let mut rest = Vec::with_capacity(packed.pendings.len());
        for pending in packed.pendings {
            match obsolete(&pending) {
                Some(rejection) => pending.ticket.answer(Err(rejection)),
                None => rest.push(pending),
            }
        }
        (!rest.is_empty()).then(|| Packed::new(rest, self.terms.share_prefixes))
    }

    /// Runs a micro-batch and answers it.
    fn run(&mut self, packed: Packed) {
        let Packed { batch, pendings } = packed;
        let submitted = pendings.iter().map(|p| p.rollout.total_tokens()).sum();
        metrics::batch(batch.tokens.len(), submitted, pendings.len(), self.terms.max_batch_tokens);
        // One span per rollout, so that each trace shows its own forward pass.
        let spans: Vec<_> = pendings.iter().map(|p| info_span!(parent: p.ticket.span(), "forward")).collect();
        let started = Instant::now();
        let scored = score(self.engine.as_mut(), &batch, self.card.attributes.len());
        let forward = started.elapsed();
        if let Ok(table) = &scored {
            metrics::reused(table.reused());
            self.pace.saw(batch.tokens.len() - table.reused().min(batch.tokens.len()), forward);
            self.queue.set_budget(self.pace.budget(self.terms.max_batch_tokens));
        }
        drop(spans);
        metrics::stage(Stage::Forward, forward);
        reply(&self.card, pendings, scored, started, forward);
    }
}

/// A panic in the engine fails the batch, not the process.
pub(super) fn score(engine: &mut dyn Engine, batch: &MicroBatch, columns: usize) -> Result<ScoreTable, EngineError> {
    let table = catch_unwind(AssertUnwindSafe(|| engine.score(batch))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref().copied());
        Err(EngineError::Forward(format!("panic: {}", text.unwrap_or("without a message"))))
    })?;
    let (found, expected) = ((table.rows(), table.columns()), (batch.reads.len(), columns));
    match found == expected {
        true => Ok(table),
        false => Err(EngineError::Forward(format!("{found:?} scores, expected {expected:?} (reads, attributes)"))),
    }
}

fn reply(
    card: &ModelCard,
    pendings: Vec<Pending>,
    scored: Result<ScoreTable, EngineError>,
    started: Instant,
    forward: Duration,
) {
    match scored {
        Ok(table) => {
            let mut first = 0;
            for pending in pendings {
                let _span = info_span!(parent: pending.ticket.span(), "reply").entered();
                let replying = Instant::now();
                let queued = started.saturating_duration_since(pending.arrived);
                let reads = first..first + pending.rollout.read_count();
                first = reads.end;
                let rows = table.slice(reads).expect("`score` has counted the rows");
                let times = Times { generation: 1, queued, forward };
                let outcome = outcome(card, &pending.rollout, &pending.bound, &rows, times);
                if let Ok(rewards) = &outcome {
                    metrics::rewards(card, rewards);
                }
                metrics::stage(Stage::Queue, queued);
                metrics::stage(Stage::Total, pending.arrived.elapsed());
                pending.ticket.answer(outcome);
                metrics::stage(Stage::Reply, replying.elapsed());
            }
        }
        Err(error) => {
            metrics::engine_failed();
            tracing::error!(rollouts = pendings.len(), %error, "a micro-batch failed");
            let rejection = Rejection::new(Code::EngineFailed, format!("{error}; the rollout may be sent again"));
            pendings.into_iter().for_each(|p| p.ticket.answer(Err(rejection.clone())));
        }
    }
}

#[cfg(test)]
mod tests;
