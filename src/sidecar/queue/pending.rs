//! An accepted rollout on its way to the engine, and the count of those that are not answered.

use std::sync::{Arc, Weak};
use std::time::Instant;

use tokio::sync::watch;

use super::Room;
use crate::aggregate::Bound;
use crate::reward::{Code, Rejection};
use crate::rollout::ValidRollout;
use crate::sidecar::Ticket;
use crate::sidecar::batcher::Waiting;
use crate::sidecar::intake::expired;

/// See the module.
pub(in crate::sidecar) struct Pending {
    pub(in crate::sidecar) rollout: ValidRollout,
    pub(in crate::sidecar) bound: Bound,
    pub(in crate::sidecar) deadline: Option<Instant>,
    pub(in crate::sidecar) arrived: Instant,
    pub(in crate::sidecar) ticket: Ticket,
    /// See [`Waiting::beside`].
    pub(super) beside: usize,
    pub(super) bypassed: u32,
    /// What others of its group that are queued begin with.
    pub(in crate::sidecar) left_behind: Option<LeftBehind>,
    /// Pins what an earlier micro-batch has left behind for this one.
    pub(super) pin: Option<Arc<()>>,
    /// Open while it waits.
    pub(super) queued: tracing::Span,
    pub(super) room: Option<Room>,
    pub(super) _unanswered: Unanswered,
}

/// A prefix that rollouts in the queue have, too.
pub(in crate::sidecar) struct LeftBehind {
    /// Its length, one or more.
    pub(in crate::sidecar) tokens: u32,
    /// Gone once none of them is unanswered.
    pub(in crate::sidecar) by: Weak<()>,
}

/// Counts an accepted rollout until it is answered.
pub(super) struct Unanswered(Arc<watch::Sender<usize>>);

impl Unanswered {
    pub fn count(sender: &Arc<watch::Sender<usize>>) -> Self {
        sender.send_modify(|n| *n += 1);
        Self(Arc::clone(sender))
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        self.0.send_modify(|n| *n -= 1);
    }
}

impl Pending {
    pub(super) fn waiting(&self) -> Waiting<'_> {
        Waiting {
            tokens: &self.rollout.tokens,
            beside: self.beside,
            group: &self.rollout.group,
            priority: self.rollout.priority,
            arrived: self.arrived,
            deadline: self.deadline,
            bypassed: self.bypassed,
            withdrawn: self.ticket.withdrawn(),
        }
    }

    /// Why it should not be scored any more, if so.
    pub(in crate::sidecar) fn obsolete(&self, now: Instant) -> Option<Rejection> {
        if self.ticket.withdrawn() {
            Some(left())
        } else if self.deadline.is_some_and(|deadline| deadline <= now) {
            Some(expired())
        } else {
            None
        }
    }

    /// The wait is over: closes its span and gives its room to the next.
    pub(super) fn leave_queue(&mut self) {
        self.queued = tracing::Span::none();
        self.room = None;
    }
}

pub(in crate::sidecar) fn left() -> Rejection {
    Rejection::new(Code::Cancelled, "the caller left before the rollout was scored")
}
