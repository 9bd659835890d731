//! What one stream still has to send: rollouts and cancellations, in front of HTTP/2's flow control.
//!
//! Invariant: a rollout leaves with the time that remains of its deadline at that moment, or, once it was cancelled or its
//! deadline has passed, not at all.

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::time::Instant;
use tokio_stream::Stream;

use super::deadline::Deadline;
use crate::proto::v1;

/// The driver's end. Dropping it ends the stream in order, behind what is in it.
#[derive(Debug)]
pub(super) struct Outbox(Shared);

/// The stream of messages that the call sends.
#[derive(Debug)]
pub(super) struct Outbound(Shared);

type Shared = Arc<Mutex<State>>;

#[derive(Debug, Default)]
struct State {
    /// By their number.
    rollouts: BTreeMap<u64, (v1::Rollout, Option<Deadline>)>,
    /// Ids on the wire, of rollouts that have been sent.
    cancellations: VecDeque<String>,
    closed: bool,
    waker: Option<Waker>,
}

impl Outbox {
    pub(super) fn new() -> (Self, Outbound) {
        let shared = Shared::default();
        (Self(Arc::clone(&shared)), Outbound(shared))
    }

    /// Sends a rollout as soon as the connection takes it.
    pub(super) fn send(&self, number: u64, rollout: v1::Rollout, deadline: Option<Deadline>) {
        let mut state = lock(&self.0);
        state.rollouts.insert(number, (rollout, deadline));
        wake(state);
    }

    /// Takes a rollout back, or, where it has been sent, tells the server that nobody waits for it. Returns whether it has
    /// been sent: then a reply to it will come.
    pub(super) fn cancel(&self, number: u64, wire_id: String) -> bool {
        let mut state = lock(&self.0);
        if state.rollouts.remove(&number).is_some() {
            return false;
        }
        state.cancellations.push_back(wire_id);
        wake(state);
        true
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        let mut state = lock(&self.0);
        state.closed = true;
        wake(state);
    }
}

impl Outbound {
    fn next(&self, now: Instant, waker: &Waker) -> Poll<Option<v1::Rollout>> {
        let mut state = lock(&self.0);
        // Cancellations first: they are small, and make room at the server.
        if let Some(id) = state.cancellations.pop_front() {
            return Poll::Ready(Some(v1::Rollout { id, cancel: true, ..Default::default() }));
        }
        // The driver takes back what is too late.
        let in_time = |deadline: &Option<Deadline>| deadline.is_none_or(|deadline| !deadline.has_passed(now));
        let number = state.rollouts.iter().find(|(_, (_, deadline))| in_time(deadline)).map(|(&number, _)| number);
        if let Some((mut rollout, deadline)) = number.and_then(|number| state.rollouts.remove(&number)) {
            if let Some(deadline) = deadline {
                rollout.deadline_ms = Some(deadline.remaining_ms(now));
            }
            return Poll::Ready(Some(rollout));
        }
        if state.closed {
            return Poll::Ready(None);
        }
        state.waker = Some(waker.clone());
        Poll::Pending
    }
}

impl Stream for Outbound {
    type Item = v1::Rollout;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<v1::Rollout>> {
        self.next(Instant::now(), context.waker())
    }
}

fn lock(shared: &Shared) -> MutexGuard<'_, State> {
    // Nothing that holds the lock panics with the state half changed.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Wakes the call, without the lock: it will want that.
fn wake(mut state: MutexGuard<'_, State>) {
    let waker = state.waker.take();
    drop(state);
    if let Some(waker) = waker {
        waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn rollout(id: &str) -> v1::Rollout {
        v1::Rollout { id: id.into(), ..Default::default() }
    }

    fn next(outbound: &Outbound, now: Instant) -> Option<v1::Rollout> {
        match outbound.next(now, Waker::noop()) {
            Poll::Ready(message) => message,
            Poll::Pending => panic!("there is nothing to send"),
        }
    }

    #[test]
    fn a_rollout_leaves_with_what_remains_of_its_deadline() {
        let (outbox, outbound) = Outbox::new();
        let now = Instant::now();
        outbox.send(0, rollout("a"), Deadline::new(now, Some(100)));
        outbox.send(1, rollout("b"), Deadline::new(now, Some(20)));
        outbox.send(2, rollout("c"), None);
        // The connection took nothing for 30 ms.
        let sent: Vec<_> = (0..2).map(|_| next(&outbound, now + 30 * MS).unwrap()).collect();
        assert_eq!(
            sent.iter().map(|r| (r.id.as_str(), r.deadline_ms)).collect::<Vec<_>>(),
            [("a", Some(70)), ("c", None)]
        );
        // The second was too late, and is taken back without a word to the server.
        assert!(outbound.next(now + 30 * MS, Waker::noop()).is_pending());
        assert!(!outbox.cancel(1, "b".into()));
        drop(outbox);
        assert_eq!(next(&outbound, now), None);
    }

    #[test]
    fn what_was_sent_is_cancelled_in_front_of_what_waits() {
        let (outbox, outbound) = Outbox::new();
        let now = Instant::now();
        outbox.send(0, rollout("a"), None);
        assert_eq!(next(&outbound, now), Some(rollout("a")));
        outbox.send(1, rollout("b"), None);
        assert!(outbox.cancel(0, "a".into()));
        assert_eq!(next(&outbound, now), Some(v1::Rollout { cancel: true, ..rollout("a") }));
        assert_eq!(next(&outbound, now), Some(rollout("b")));
    }
}
