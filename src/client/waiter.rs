//! Who waits for an answer: a task, or a thread.
//!
//! Invariant: a waiter is answered once, or dropped, and then knows that the client is closed.

use tokio::sync::oneshot;

use super::error::ClientError;
use crate::reward::Outcome;

/// How a submitted rollout ends: with the server's answer, or with the client's failure to get one.
pub type Answer = Result<Outcome, ClientError>;

/// One who waits for an [`Answer`].
pub(super) trait Waiter: std::fmt::Debug + Send {
    /// Whether it waits no more.
    fn is_gone(&self) -> bool;

    /// Gives it the answer. One who is gone does not get it.
    fn answer(self: Box<Self>, answer: Answer);

    /// The model version that the rollout is held to by now, where nothing was known of that when it was submitted.
    fn model_version(&self) -> Option<String> {
        None
    }

    /// The series of rollouts that this one belongs to, and its tag there; `None`: it is a single one.
    fn origin(&self) -> Option<Origin> {
        None
    }
}

/// A rollout's place in a series of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Origin {
    /// Unique in this process.
    pub(super) series: u64,
    pub(super) tag: u64,
}

impl Waiter for oneshot::Sender<Answer> {
    fn is_gone(&self) -> bool {
        self.is_closed()
    }

    fn answer(self: Box<Self>, answer: Answer) {
        let _ = self.send(answer);
    }
}
