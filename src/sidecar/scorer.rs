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
use super::batcher::{KEPT_PER_ROW, Shares};
use super::health::{Health, ThreadGuard};
use super::metrics::{self, Stage};
use super::outcome::{Times, outcome};
use super::queue::{Pending, Queue, SharedPrefix};
use super::rejections::draining;
use super::turn::{Guard, Turn};
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
    health: Health,
}

/// A micro-batch and those who wait for it, in the order of its reads: each has one or more of them in a row.
struct Packed {
    batch: MicroBatch,
    pendings: Vec<Pending>,
}

impl Packed {
    fn new(pendings: Vec<Pending>, share_prefixes: bool) -> Self {
        let began = Instant::now();
        let sequences: Vec<_> = (0..).zip(&pendings).flat_map(|(i, pending)| pending.rollout().sequences(i)).collect();
        let mut batch = MicroBatch::pack_sequences(&sequences, share_prefixes);
        let mut reads = 0;
        for pending in &pendings {
            reads += pending.rollout().read_count();
            if let Some(SharedPrefix { tokens, wanted_by }) = &pending.shared_prefix
                && let Some(read) = reads.checked_sub(1).and_then(|last| batch.reads.get(last))
                && let Some(row) = batch.row_of(read.row, tokens - 1)
            {
                batch.wanted.push(Wanted { row, by: wanted_by.clone() });
            }
        }
        metrics::stage(Stage::Pack, began.elapsed());
        Self { batch, pendings }
    }
}

/// How micro-batches are made and run.
#[derive(Clone)]
pub(super) struct Terms {
    share_prefixes: bool,
    max_batch_tokens: usize,
    generation: u64,
    /// Of all models whose engines share threads.
    turn: Arc<Turn>,
}

impl Terms {
    pub(super) fn of(config: &Config, generation: u64, turn: &Arc<Turn>) -> Self {
        let Config { share_prefixes, max_batch_tokens, .. } = *config;
        Self { share_prefixes, max_batch_tokens, generation, turn: Arc::clone(turn) }
    }
}

/// Held by a scoring thread: if the thread panics, the queue takes nothing more and answers what it holds, and the sidecar has
/// failed.
struct PanicGuard<'a> {
    queue: &'a Queue,
    _health: ThreadGuard,
}

impl<'a> PanicGuard<'a> {
    fn new(queue: &'a Queue, health: &Health, thread: &'static str) -> Self {
        Self { queue, _health: health.guard(thread) }
    }
}

impl Drop for PanicGuard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.queue.end();
            self.queue.abandon();
        }
    }
}

/// Starts both threads; they end when the queue is closed and empty. Passes, and what ends a thread, are reported to `health`.
pub(super) fn start(
    queue: &Arc<Queue>,
    engine: Box<dyn Engine>,
    terms: Terms,
    health: &Health,
) -> std::io::Result<[JoinHandle<()>; 2]> {
    // One micro-batch lies ready while one runs; the queue gives out no other before this one is taken.
    let (ready, next) = sync_channel(1);
    let packer = {
        let (queue, health, terms) = (Arc::clone(queue), health.clone(), terms.clone());
        std::thread::Builder::new().name("packer".into()).spawn(move || pack_all(&queue, &terms, &health, &ready))?
    };
    let (card, health) = (Arc::clone(engine.card()), health.clone());
    let scorer = Scorer { queue: Arc::clone(queue), engine, card, pace: Pace::default(), terms, health };
    let scorer = std::thread::Builder::new().name("scorer".into()).spawn(move || scorer.run_all(&next))?;
    Ok([packer, scorer])
}

fn pack_all(queue: &Queue, terms: &Terms, health: &Health, ready: &SyncSender<Packed>) {
    let _guard = PanicGuard::new(queue, health, "packer");
    let mut shares = Shares::default();
    while let Some(pendings) = queue.next_batch(&mut shares) {
        if ready.send(Packed::new(pendings, terms.share_prefixes)).is_err() {
            // The scorer is gone, which only a panic outside the engine can do; dropped tickets answer by themselves.
            return;
        }
    }
}

impl Scorer {
    fn run_all(mut self, next: &Receiver<Packed>) {
        let (queue, health) = (Arc::clone(&self.queue), self.health.clone());
        let _guard = PanicGuard::new(&queue, &health, "scorer");
        loop {
            queue.engine_idle();
            let Ok(packed) = next.recv() else { return };
            queue.batch_taken();
            self.run_in_parts(packed);
        }
    }

    /// Runs a micro-batch as a whole, or in parts where the engine would have to compute more rows of it than a micro-batch may
    /// have: what the batcher counted as kept may be gone. Only a single rollout may be longer.
    fn run_in_parts(&mut self, packed: Packed) {
        let mut parts = vec![packed];
        let turns = Arc::clone(&self.terms.turn);
        while let Some(part) = parts.pop() {
            let turn = turns.take();
            let Some(mut part) = self.without_obsolete(part) else { continue };
            let members = part.pendings.len();
            if members == 1 || self.engine.rows(&part.batch) <= self.terms.max_batch_tokens.max(1) {
                self.run(part, turn);
            } else {
                let later = part.pendings.split_off(members / 2);
                parts.push(Packed::new(later, self.terms.share_prefixes));
                parts.push(Packed::new(part.pendings, self.terms.share_prefixes));
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

    /// Runs a micro-batch and answers it, which takes no turn.
    fn run(&mut self, packed: Packed, turn: Guard) {
        let Packed { batch, pendings } = packed;
        // One span per rollout, so that each trace shows its own forward pass.
        let spans: Vec<_> = pendings.iter().map(|p| info_span!(parent: p.ticket.span(), "forward")).collect();
        self.health.pass_started();
        let started = Instant::now();
        let scored = score(self.engine.as_mut(), &batch, self.card.attributes.len());
        let forward = started.elapsed();
        self.health.pass_ended(scored.as_ref().map(drop));
        drop(turn);
        drop(spans);
        metrics::stage(Stage::Forward, forward);
        match &scored {
            Ok(table) => {
                let submitted = pendings.iter().map(|p| p.rollout().total_tokens()).sum();
                let (unique, reused) = (batch.tokens.len(), table.reused());
                metrics::batch(metrics::Batch {
                    rollouts: pendings.len(),
                    submitted,
                    unique,
                    reused,
                    recomputed: table.recomputed(),
                    limit: self.terms.max_batch_tokens,
                });
                self.pace.saw(unique.saturating_sub(reused) + reused.div_ceil(KEPT_PER_ROW), forward);
                self.queue.set_budget(self.pace.budget(self.terms.max_batch_tokens));
            }
            Err(EngineError::Fatal(_)) => {
                // No later pass can succeed. What waits is answered now; the sidecar's health says why it ends.
                self.queue.end();
                self.queue.abandon();
            }
            Err(EngineError::Forward(_)) => {}
        }
        reply(&self.card, self.terms.generation, pendings, scored, started, forward);
    }
}

/// A panic in the engine fails the batch, not the process.
pub(super) fn score(engine: &mut dyn Engine, batch: &MicroBatch, columns: usize) -> Result<ScoreTable, EngineError> {
    let table = catch_unwind(AssertUnwindSafe(|| engine.score(batch))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref().copied());
        Err(EngineError::Forward(format!("panic: {}", text.unwrap_or("without a message"))))
    })?;
    let (found, expected) = ((table.rows(), table.columns()), (batch.reads.len(), columns));
    if found == expected {
        Ok(table)
    } else {
        Err(EngineError::Forward(format!("{found:?} scores, expected {expected:?} (reads, attributes)")))
    }
}

fn reply(
    card: &ModelCard,
    generation: u64,
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
                let queued = started.saturating_duration_since(pending.accepted());
                let reads = first..first + pending.rollout().read_count();
                first = reads.end;
                let rows = table.slice(reads).expect("`score` has counted the rows");
                let times = Times { generation, queued, forward };
                let outcome = outcome(card, pending.rollout(), &pending.bound, &rows, times);
                if let Ok(rewards) = &outcome {
                    metrics::rewards(card, rewards);
                }
                metrics::stage(Stage::Queue, queued);
                metrics::stage(Stage::Total, pending.received.elapsed());
                pending.ticket.answer(outcome);
                metrics::stage(Stage::Reply, replying.elapsed());
            }
        }
        Err(error) => {
            metrics::engine_failed();
            tracing::error!(rollouts = pendings.len(), %error, "a micro-batch failed");
            let advice = match error {
                EngineError::Forward(_) => "the rollout may be sent again",
                EngineError::Fatal(_) => "this server ends; send the rollout to another",
            };
            let rejection = Rejection::new(Code::EngineFailed, format!("{error}; {advice}"));
            pendings.into_iter().for_each(|p| p.ticket.answer(Err(rejection.clone())));
        }
    }
}

#[cfg(test)]
mod tests;
