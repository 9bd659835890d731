//! From row to row: a reader, a submitter and a writer with bounded room between them, so that memory does not grow
//! with the file. Answers come in any order and are written in the order of the input.

mod reader;
mod writer;

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use self::reader::Read;
use self::writer::{Pending, PendingOutcome};
use super::failure::Failure;
use super::progress::Progress;
use super::resume::Kept;
use super::rewards_file::RewardsFile;
use super::rollout_file::Rows;
use crate::json::row::{Content, ExtraColumns};
use crate::reward::Outcome;
use crate::rollout::{AggregationSpec, Rollout};
use crate::sidecar::{Identity, Intake, Interest, Sidecar, Ticket};

/// Rows that are read ahead: enough that the reader never holds up the rest.
const READ_AHEAD: usize = 16;

/// What is to be scored, and how.
pub struct Job {
    /// The rollout file.
    pub input: Box<dyn Rows>,
    /// The rewards file.
    pub output: Box<dyn RewardsFile>,
    /// What happens to columns that are not a rollout's.
    pub extra_columns: ExtraColumns,
    /// For messages.
    pub input_name: String,
    /// For messages.
    pub output_name: String,
    /// Weights or weighting of rollouts that bring none.
    pub defaults: AggregationSpec,
    /// Answers that may wait for an earlier one.
    pub window: usize,
    /// Rollouts that may be on their way through intake at a time.
    pub submissions: usize,
    /// Rows at the beginning of the input that an earlier run has answered.
    pub kept: Option<Kept>,
    /// Turns true when no more rows are to be written.
    pub interrupted: watch::Receiver<bool>,
}

/// What [`run`] has done.
pub struct Scored {
    /// What was counted.
    pub progress: Progress,
    /// Whether every row has been answered and written. False only after an interruption.
    pub complete: bool,
}

/// Scores the whole input, or as much of it as there is time for until it is interrupted.
pub async fn run(sidecar: &Sidecar, job: Job, progress: Progress) -> Result<Scored, Failure> {
    let Job {
        input,
        output,
        extra_columns,
        input_name,
        output_name,
        defaults,
        window,
        submissions,
        kept,
        mut interrupted,
    } = job;
    let intake = sidecar.intake();
    let (read_to, mut rows) = mpsc::channel(READ_AHEAD);
    let (pending_to, pending) = mpsc::channel(window);
    let (read_result_to, mut read_result) = oneshot::channel();

    // Not joined: it may wait for ever on an input that nobody closes, when the output has failed.
    std::thread::Builder::new()
        .name("reader".into())
        .spawn(move || {
            // Fails only where nobody waits for it any more.
            let _ = read_result_to.send(reader::read(input, extra_columns, kept, &read_to));
        })
        .map_err(|e| Failure::internal(format!("cannot start a thread: {e}")))?;
    let card = intake.card().clone();
    let stop = interrupted.clone();
    let writer = tokio::task::spawn_blocking(move || writer::write(pending, output, &card, progress, &stop));

    let interest = Interest::of(&Identity::new("file", None));
    let permits = Arc::new(Semaphore::new(submissions));
    let submitter = Submitter { intake: intake.clone(), interest, permits: permits.clone(), defaults };
    let feed = async {
        while let Some(Read { number, consumed, row, batch }) = rows.recv().await {
            let (answer, outcome) = oneshot::channel();
            let (other_answer, other_outcome) = oneshot::channel();
            let outcome = match &row.content {
                Ok(Content::Pair { .. }) => PendingOutcome::Pair { chosen: outcome, rejected: other_outcome },
                _ => PendingOutcome::One(outcome),
            };
            let pending =
                Pending { number, consumed, id: row.id, is_pair: row.is_pair, extra: row.extra, batch, outcome };
            if pending_to.send(pending).await.is_err() {
                // The writer failed: what is in flight need not be scored.
                submitter.interest.withdraw();
                break;
            }
            match row.content {
                Ok(Content::One(rollout)) => submitter.submit(*rollout, answer).await,
                Ok(Content::Pair { chosen, rejected }) => {
                    submitter.submit(*chosen, answer).await;
                    submitter.submit(*rejected, other_answer).await;
                }
                Err(rejection) => drop(answer.send(Err(rejection))),
            }
        }
    };
    let all_fed = tokio::select! {
        () = feed => true,
        Ok(_) = interrupted.wait_for(|interrupted| *interrupted) => {
            submitter.interest.withdraw();
            false
        }
    };
    drop(pending_to);
    // All are in, or answered, once every submission has given its permit back: no company is to be waited for.
    drop(permits.acquire_many(submissions as u32).await);
    sidecar.flush();
    let (progress, all_written) = writer
        .await
        .map_err(|e| Failure::internal(format!("the writer ended early: {e}")))?
        .map_err(|e| Failure::output(&output_name, &e))?;
    if !(all_fed && all_written) {
        return Ok(Scored { progress, complete: false });
    }
    match read_result.try_recv() {
        Ok(Ok(())) => Ok(Scored { progress, complete: true }),
        Ok(Err(e)) => Err(Failure::usage("INPUT", format!("cannot read {input_name} to its end: {e}"))),
        // It sends its result before it ends, unless it panics.
        Err(_) => Err(Failure::internal(format!("the reader of {input_name} ended early; not all of it was read"))),
    }
}

/// Hands rollouts to intake.
struct Submitter {
    intake: Intake,
    interest: Interest,
    permits: Arc<Semaphore>,
    defaults: AggregationSpec,
}

impl Submitter {
    /// Submits one, as soon as few enough are on their way.
    async fn submit(&self, mut rollout: Rollout, answer: oneshot::Sender<Outcome>) {
        if rollout.aggregation.weights.is_empty() && rollout.aggregation.weighting.is_none() {
            let aggregation = Arc::make_mut(&mut rollout.aggregation);
            aggregation.weights = self.defaults.weights.clone();
            aggregation.weighting = self.defaults.weighting.clone();
        }
        // Fails only where the writer is gone.
        let ticket = Ticket::new(self.interest.clone(), move |outcome| drop(answer.send(outcome)));
        let permit = self.permits.clone().acquire_owned().await.expect("the semaphore is never closed");
        let (intake, received) = (self.intake.clone(), Instant::now());
        tokio::spawn(async move {
            intake.submit(rollout, ticket, received).await;
            drop(permit);
        });
    }
}

#[cfg(test)]
#[path = "pipeline_tests.rs"]
mod tests;
