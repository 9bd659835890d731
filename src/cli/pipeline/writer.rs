//! The second half of the pipeline: answers, written in the order of the rows.

use std::io;

use arrow_array::RecordBatch;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{mpsc, oneshot, watch};

use crate::cli::progress::Progress;
use crate::cli::rewards_file::{RewardsFile, RowAnswer, RowOutcome};
use crate::engine::ModelCard;
use crate::json::row::ExtraField;
use crate::reward::{Code, Outcome, Rejection};

/// A row whose answer is on its way.
pub struct Pending {
    pub number: u64,
    pub consumed: u64,
    pub id: Option<String>,
    pub is_pair: bool,
    pub extra: Vec<ExtraField>,
    pub batch: Option<(RecordBatch, usize)>,
    pub outcome: PendingOutcome,
}

/// What is waited for: one outcome, or both of a pair.
pub enum PendingOutcome {
    One(oneshot::Receiver<Outcome>),
    Pair { chosen: oneshot::Receiver<Outcome>, rejected: oneshot::Receiver<Outcome> },
}

/// Writes answers in the order of the rows, until it is `interrupted`. What is ready is flushed before anything is waited for.
/// Returns whether every row that came was written.
pub fn write(
    mut pending: mpsc::Receiver<Pending>,
    mut file: Box<dyn RewardsFile>,
    card: &ModelCard,
    mut progress: Progress,
    interrupted: &watch::Receiver<bool>,
) -> io::Result<(Progress, bool)> {
    loop {
        let next = match pending.try_recv() {
            Ok(next) => next,
            Err(TryRecvError::Disconnected) => break,
            Err(TryRecvError::Empty) => {
                file.flush()?;
                match pending.blocking_recv() {
                    Some(next) => next,
                    None => break,
                }
            }
        };
        let Pending { number, consumed, id, is_pair, extra, batch, outcome } = next;
        let mut wait = |outcome| wait(outcome, file.as_mut());
        let outcome = match outcome {
            PendingOutcome::One(outcome) => RowOutcome::One(wait(outcome)?),
            PendingOutcome::Pair { chosen, rejected } => {
                RowOutcome::Pair { chosen: wait(chosen)?, rejected: wait(rejected)? }
            }
        };
        if *interrupted.borrow() {
            // What was answered by now may have been answered because of that.
            file.flush()?;
            return Ok((progress, false));
        }
        let answer = RowAnswer { id, number, is_pair, outcome, extra, batch };
        progress.answered(&answer, consumed);
        file.write(card, answer)?;
    }
    file.finish(card)?;
    Ok((progress, true))
}

fn wait(mut outcome: oneshot::Receiver<Outcome>, file: &mut dyn RewardsFile) -> io::Result<Outcome> {
    Ok(match outcome.try_recv() {
        Ok(outcome) => outcome,
        Err(oneshot::error::TryRecvError::Empty) => {
            file.flush()?;
            outcome.blocking_recv().unwrap_or_else(|_| lost())
        }
        Err(oneshot::error::TryRecvError::Closed) => lost(),
    })
}

/// A ticket answers even when dropped, so this takes a panic in its task.
fn lost() -> Outcome {
    Err(Rejection::new(Code::Lost, "the process lost this rollout; please report it as a bug"))
}
