//! A series of rollouts being answered, for one thread.
//!
//! Invariant: every rollout that was taken is answered once, by its tag.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::inbox::Inbox;
use super::{Check, PULSE, Stopped, Wire};
use crate::client::{Answer, ClientError};
use crate::rollout::Rollouts;

/// A series of rollouts being answered: in with [`Answers::try_submit`] or [`Answers::submit`], out with
/// [`Answers::next`], as they finish. Made by [`Client::answers`](super::Client::answers).
///
/// Dropping it discards what is unanswered: that stays in flight, and counts, until the server answers, but it is not asked
/// again over another connection.
#[derive(Debug)]
pub struct Answers {
    wire: Arc<dyn Wire>,
    inbox: Arc<Inbox>,
    /// Taken out of the inbox.
    arrived: VecDeque<(u64, Answer)>,
    unanswered: usize,
    checked: Instant,
    failed: Option<ClientError>,
}

impl Answers {
    pub(super) fn new(wire: Arc<dyn Wire>) -> Self {
        Self {
            wire,
            inbox: Arc::default(),
            arrived: VecDeque::new(),
            unanswered: 0,
            checked: Instant::now(),
            failed: None,
        }
    }

    /// Submits a rollout if there is room for it in flight; `false`: there is none now. `tag` comes back with the answer.
    ///
    /// Once the connection is given up, which some answer says, nothing more is tried: the error is the same.
    ///
    /// # Panics
    /// If there is no rollout `index`.
    pub fn try_submit(&mut self, rollouts: &Arc<dyn Rollouts>, index: usize, tag: u64) -> Result<bool, ClientError> {
        self.submit_issued(rollouts, index, tag, Instant::now())
    }

    /// Submits a rollout as soon as there is room for it in flight. Its deadline counts from now.
    ///
    /// # Panics
    /// If there is no rollout `index`.
    pub fn submit(
        &mut self,
        rollouts: &Arc<dyn Rollouts>,
        index: usize,
        tag: u64,
        check: Check<'_>,
    ) -> Result<(), Stopped> {
        let issued = Instant::now();
        while !self.submit_issued(rollouts, index, tag, issued)? {
            self.look(check)?;
            // What has arrived need not wake this thread again.
            self.collect();
            self.wire.wait(&self.inbox, PULSE);
        }
        Ok(())
    }

    /// The next answer with the tag of its rollout; `None` when nothing is unanswered. After an interruption it may be
    /// called again, and nothing is lost.
    pub fn next(&mut self, check: Check<'_>) -> Result<Option<(u64, Answer)>, Stopped> {
        while self.unanswered > 0 {
            self.look(check)?;
            if self.arrived.is_empty() {
                self.collect();
            }
            if let Some(answered) = self.arrived.pop_front() {
                self.unanswered -= 1;
                return Ok(Some(answered));
            }
            self.wire.wait(&self.inbox, PULSE);
        }
        Ok(None)
    }

    /// Rollouts that were submitted and have not come back through [`Answers::next`].
    pub fn unanswered(&self) -> usize {
        self.unanswered
    }

    fn submit_issued(
        &mut self,
        rollouts: &Arc<dyn Rollouts>,
        index: usize,
        tag: u64,
        issued: Instant,
    ) -> Result<bool, ClientError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let taken = self.wire.try_submit(&self.inbox, rollouts, index, tag, issued)?;
        self.unanswered += usize::from(taken);
        Ok(taken)
    }

    fn collect(&mut self) {
        let known = self.arrived.len();
        self.inbox.take(&mut self.arrived);
        if self.failed.is_none() {
            let mut errors = self.arrived.range(known..).filter_map(|(_, answer)| answer.as_ref().err());
            self.failed = errors.find(|error| error.is_final()).cloned();
        }
    }

    /// Asks `check` when it was not asked for a while, however busy this thread is.
    fn look(&mut self, check: Check<'_>) -> Result<(), Stopped> {
        if self.checked.elapsed() >= PULSE {
            self.checked = Instant::now();
            return if check() { Ok(()) } else { Err(Stopped::Interrupted) };
        }
        Ok(())
    }
}
