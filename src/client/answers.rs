//! Many rollouts in, their outcomes out as they finish.
//!
//! Invariant: every rollout that comes in goes out once, by its id.

use std::iter::Fuse;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{Client, ClientError, VersionPin, held_to};
use crate::reward::Outcome;
use crate::rollout::Rollout;

/// The answers to a series of rollouts, in the order in which they finish. Made by [`Client::stream`].
///
/// New rollouts are submitted while [`Answers::next`] is awaited; long work between two answers belongs in another task.
/// Dropping it withdraws what is unanswered, as dropping a [`Pending`](super::Pending) does.
#[derive(Debug)]
pub struct Answers<I> {
    client: Client,
    pin: VersionPin,
    rollouts: Fuse<I>,
    exhausted: bool,
    pending: JoinSet<(String, Result<Outcome, ClientError>)>,
    failed: Option<ClientError>,
}

impl<I: Iterator<Item = Rollout>> Answers<I> {
    pub(super) fn new(client: Client, rollouts: I) -> Self {
        Self {
            pin: client.pin(),
            client,
            rollouts: rollouts.fuse(),
            exhausted: false,
            pending: JoinSet::new(),
            failed: None,
        }
    }

    /// The next answer, with the id of its rollout; `None` when all are answered. May be dropped and called again
    /// without losing an answer.
    ///
    /// Once the connection is given up, the rest of the rollouts are not tried: they get the same error.
    pub async fn next(&mut self) -> Option<(String, Result<Outcome, ClientError>)> {
        loop {
            if let Some(error) = &self.failed
                && self.pending.is_empty()
            {
                return self.rollouts.next().map(|rollout| (rollout.id, Err(error.clone())));
            }
            let asked = Instant::now();
            tokio::select! {
                // Answers first: they make room.
                biased;
                Some(joined) = self.pending.join_next() => {
                    let (id, answer) = joined.expect("the task waits for an answer and cannot panic");
                    let answer = self.pin.check(answer);
                    if let Err(error) = &answer && error.is_final() {
                        self.failed = Some(error.clone());
                    }
                    return Some((id, answer));
                }
                permit = self.client.room.acquire(), if !self.exhausted && self.failed.is_none() => match permit {
                    Err(error) => self.failed = Some(error),
                    Ok(permit) => match self.rollouts.next() {
                        None => self.exhausted = true,
                        Some(rollout) => {
                            let rollout = held_to(&self.pin, rollout);
                            let id = rollout.id.clone();
                            let deadline = self.client.deadline(Instant::now(), rollout.deadline_ms);
                            match self.client.begin(rollout, asked, deadline, permit) {
                                Ok(pending) => drop(self.pending.spawn(async move { (id, pending.await) })),
                                Err(error) => {
                                    self.failed = Some(error.clone());
                                    return Some((id, Err(error)));
                                }
                            }
                        }
                    },
                },
                else => return None,
            }
        }
    }
}
