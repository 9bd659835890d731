//! A series of rollouts being answered, for one thread that waits.
//!
//! Invariant: every rollout that was taken is answered once, by its tag.

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::inbox::Inbox;
use super::{Check, PULSE, Stopped, Wire};
use crate::client::{Answer, ClientError};
use crate::rollout::Rollouts;

/// A series of rollouts being answered: in with [`Answers::try_submit`] or [`Answers::submit`], out with
/// [`Answers::next`], as they finish. Made by [`Client::answers`](super::Client::answers).
///
/// Dropping it withdraws what is unanswered: its room is free at once, and the server is told not to score what it has not
/// begun.
#[derive(Debug)]
pub struct Answers {
    wire: Arc<dyn Wire>,
    inbox: Arc<Inbox>,
    /// Taken out of the inbox.
    arrived: VecDeque<(u64, Answer)>,
    /// Counted up by every thread that submits.
    unanswered: Arc<AtomicUsize>,
    checked: Instant,
    /// When the caller's check is asked in any case.
    until: Option<Instant>,
    failed: Option<ClientError>,
}

impl Answers {
    pub(super) fn new(wire: Arc<dyn Wire>) -> Self {
        Self {
            wire,
            inbox: Arc::default(),
            arrived: VecDeque::new(),
            unanswered: Arc::default(),
            checked: Instant::now(),
            until: None,
            failed: None,
        }
    }

    /// From now on a [`Check`] is asked at this moment, too, and not only every 50 ms: for callers whose time ends then.
    pub fn check_at(&mut self, until: Instant) {
        self.until = Some(until);
    }

    /// Submits a rollout if there is room for it in flight; `false`: there is none now. `tag` comes back with the answer.
    ///
    /// Once the connection is given up, which some answer says, nothing more is tried: the error is the same.
    ///
    /// # Panics
    /// If there is no rollout `index`.
    pub fn try_submit(&mut self, rollouts: &Arc<dyn Rollouts>, index: usize, tag: u64) -> Result<bool, ClientError> {
        self.try_submit_since(rollouts, index, tag, Instant::now())
    }

    /// The same for a rollout that its caller submitted then: its deadline counts from that.
    ///
    /// # Panics
    /// If there is no rollout `index`.
    pub fn try_submit_since(
        &mut self,
        rollouts: &Arc<dyn Rollouts>,
        index: usize,
        tag: u64,
        issued: Instant,
    ) -> Result<bool, ClientError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        submit(&*self.wire, &self.inbox, &self.unanswered, rollouts, index, tag, issued)
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
        self.submit_since(rollouts, index, tag, Instant::now(), check)
    }

    /// The same for a rollout that its caller submitted then: its deadline counts from that.
    ///
    /// # Panics
    /// If there is no rollout `index`.
    pub fn submit_since(
        &mut self,
        rollouts: &Arc<dyn Rollouts>,
        index: usize,
        tag: u64,
        issued: Instant,
        check: Check<'_>,
    ) -> Result<(), Stopped> {
        while !self.try_submit_since(rollouts, index, tag, issued)? {
            self.look(check)?;
            // What has arrived need not wake this thread again.
            self.collect();
            self.wire.wait(&self.inbox, self.longest_wait());
        }
        Ok(())
    }

    /// The next answer with the tag of its rollout; `None` when nothing is unanswered. After an interruption it may be
    /// called again, and nothing is lost.
    pub fn next(&mut self, check: Check<'_>) -> Result<Option<(u64, Answer)>, Stopped> {
        while self.unanswered() > 0 {
            self.look(check)?;
            if let Some(answered) = self.pop() {
                return Ok(Some(answered));
            }
            self.wire.wait(&self.inbox, self.longest_wait());
        }
        Ok(None)
    }

    /// An answer that is there by now, with the tag of its rollout. Does not wait.
    pub fn try_next(&mut self) -> Option<(u64, Answer)> {
        if self.unanswered() == 0 {
            return None;
        }
        self.pop().or_else(|| {
            self.wire.wait(&self.inbox, Duration::ZERO);
            self.pop()
        })
    }

    /// Waits for an answer, or for room where there was none, but no longer than this. May return earlier.
    pub fn wait(&mut self, longest: Duration) {
        if self.arrived.is_empty() {
            self.wire.wait(&self.inbox, longest);
        }
    }

    /// Rollouts that were submitted and have not come back through [`Answers::next`] or [`Answers::try_next`].
    pub fn unanswered(&self) -> usize {
        self.unanswered.load(Ordering::Acquire)
    }

    /// A second way in, for other threads.
    pub fn submitter(&self) -> Submitter {
        let (wire, inbox) = (Arc::clone(&self.wire), Arc::downgrade(&self.inbox));
        Submitter { wire, inbox, unanswered: Arc::clone(&self.unanswered) }
    }

    fn pop(&mut self) -> Option<(u64, Answer)> {
        if self.arrived.is_empty() {
            self.collect();
        }
        let answered = self.arrived.pop_front()?;
        self.unanswered.fetch_sub(1, Ordering::Release);
        Some(answered)
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
        let now = Instant::now();
        let last = self.until.filter(|&until| now >= until);
        if now.saturating_duration_since(self.checked) >= PULSE || last.is_some() {
            self.checked = now;
            self.until = self.until.filter(|_| last.is_none());
            return if check() { Ok(()) } else { Err(Stopped::Interrupted) };
        }
        Ok(())
    }

    /// Until the caller's check is due, at most.
    fn longest_wait(&self) -> Duration {
        let until = self.until.map_or(PULSE, |until| until.saturating_duration_since(Instant::now()));
        until.min(PULSE)
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        if self.unanswered() > 0 {
            self.wire.cancel(&self.inbox, 0..=u64::MAX);
        }
    }
}

/// Submits to a series of rollouts while another thread waits for their answers. Made by [`Answers::submitter`].
#[derive(Debug, Clone)]
pub struct Submitter {
    wire: Arc<dyn Wire>,
    inbox: Weak<Inbox>,
    unanswered: Arc<AtomicUsize>,
}

impl Submitter {
    /// Submits a rollout if there is room for it in flight; `false`: there is none now, and [`Answers::wait`] returns when
    /// there may be. Its deadline counts from `issued`. Unlike [`Answers::try_submit`] it tries again a server that was
    /// given up.
    ///
    /// # Panics
    /// If there is no rollout `index`.
    pub fn try_submit(
        &self,
        rollouts: &Arc<dyn Rollouts>,
        index: usize,
        tag: u64,
        issued: Instant,
    ) -> Result<bool, ClientError> {
        let inbox = self.inbox.upgrade().ok_or(ClientError::Closed)?;
        submit(&*self.wire, &inbox, &self.unanswered, rollouts, index, tag, issued)
    }

    /// Withdraws the unanswered rollouts with these tags: they are answered `CANCELLED`, their room is free at once, and the
    /// server is told not to score what it has not begun.
    pub fn cancel(&self, tags: RangeInclusive<u64>) {
        // Without an inbox they were withdrawn with it.
        if let Some(inbox) = self.inbox.upgrade() {
            self.wire.cancel(&inbox, tags);
        }
    }
}

fn submit(
    wire: &dyn Wire,
    inbox: &Arc<Inbox>,
    unanswered: &AtomicUsize,
    rollouts: &Arc<dyn Rollouts>,
    index: usize,
    tag: u64,
    issued: Instant,
) -> Result<bool, ClientError> {
    // Counted first: its answer may be there before this returns.
    unanswered.fetch_add(1, Ordering::AcqRel);
    let taken = wire.try_submit(inbox, rollouts, index, tag, issued);
    if !matches!(taken, Ok(true)) {
        unanswered.fetch_sub(1, Ordering::AcqRel);
    }
    taken
}
