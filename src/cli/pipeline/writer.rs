//! The second half of the pipeline: answers, written in the order of the lines.

use std::io::{self, Write};

use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{mpsc, oneshot};

use crate::cli::progress::Progress;
use crate::cli::rewards_file;
use crate::engine::ModelCard;
use crate::reward::{Code, Outcome, Rejection};

/// A line whose answer is on its way.
pub struct Pending {
    pub number: u64,
    pub consumed: u64,
    pub id: Option<String>,
    pub outcome: oneshot::Receiver<Outcome>,
}

/// Writes answers in the order of the lines. What is ready is flushed before anything is waited for.
pub fn write(
    mut pending: mpsc::Receiver<Pending>,
    mut output: Box<dyn Write + Send>,
    card: &ModelCard,
    mut progress: Progress,
) -> io::Result<Progress> {
    loop {
        let next = match pending.try_recv() {
            Ok(next) => next,
            Err(TryRecvError::Disconnected) => break,
            Err(TryRecvError::Empty) => {
                output.flush()?;
                match pending.blocking_recv() {
                    Some(next) => next,
                    None => break,
                }
            }
        };
        let Pending { number, consumed, id, mut outcome } = next;
        let outcome = match outcome.try_recv() {
            Ok(outcome) => outcome,
            Err(oneshot::error::TryRecvError::Empty) => {
                output.flush()?;
                outcome.blocking_recv().unwrap_or_else(|_| lost())
            }
            Err(oneshot::error::TryRecvError::Closed) => lost(),
        };
        rewards_file::write(&mut output, card, id.as_deref(), number, &outcome)?;
        progress.answered(&outcome, consumed);
    }
    output.flush()?;
    Ok(progress)
}

/// A ticket answers even when dropped, so this takes a panic in its task.
fn lost() -> Outcome {
    Err(Rejection::new(Code::Lost, "the process lost this rollout; please report it as a bug"))
}
