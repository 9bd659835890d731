//! One rollout on its way.
//!
//! Invariant: dropped before it is answered, it withdraws its rollout.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::sync::{mpsc, oneshot};

use super::command::Command;
use super::error::ClientError;
use super::waiter::Answer;
use crate::reward::Outcome;

/// A rollout on its way: resolves to its outcome.
///
/// Dropping it withdraws the rollout: its room is free at once, and the server is told not to score it if that has not begun.
#[derive(Debug)]
#[must_use = "the rollout is withdrawn unless this is awaited"]
pub struct Pending {
    id: String,
    answer: oneshot::Receiver<Answer>,
    /// The way to withdraw it; `None` once it is answered.
    withdrawal: Option<Withdrawal>,
}

#[derive(Debug)]
struct Withdrawal {
    number: u64,
    commands: mpsc::UnboundedSender<Command>,
}

impl Pending {
    pub(super) fn new(
        id: String,
        number: u64,
        answer: oneshot::Receiver<Answer>,
        commands: mpsc::UnboundedSender<Command>,
    ) -> Self {
        Self { id, answer, withdrawal: Some(Withdrawal { number, commands }) }
    }

    /// One that was answered before it was on its way.
    pub(super) fn answered(id: String, answer: Answer) -> Self {
        let (sender, receiver) = oneshot::channel();
        // The receiver is here.
        let _ = sender.send(answer);
        Self { id, answer: receiver, withdrawal: None }
    }

    /// The caller's id of the rollout.
    pub fn id(&self) -> &str {
        &self.id
    }
}

impl Future for Pending {
    type Output = Result<Outcome, ClientError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = ready!(Pin::new(&mut self.answer).poll(context));
        self.withdrawal = None;
        // Without a sender there is no driver any more: its runtime has shut down.
        Poll::Ready(answer.unwrap_or(Err(ClientError::Closed)))
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(Withdrawal { number, commands }) = self.withdrawal.take() {
            // Without a driver there is nothing to withdraw.
            let _ = commands.send(Command::Cancel(number));
        }
    }
}
