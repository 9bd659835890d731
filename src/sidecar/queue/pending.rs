//! An accepted rollout on its way to the engine, and the count of those that are not answered.

use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

use tokio::sync::watch;

use crate::aggregate::Bound;
use crate::batch::unique_tokens;
use crate::engine::Prefixes;
use crate::reward::Rejection;
use crate::rollout::ValidRollout;
use crate::sidecar::Ticket;
use crate::sidecar::batcher::Waiting;
use crate::sidecar::fair::Permit;
use crate::sidecar::rejections::{cancelled, expired};

/// A rollout that has passed all checks, with everything that scoring needs, and its room in the queue.
pub(in crate::sidecar) struct Admitted {
    pub(in crate::sidecar) rollout: ValidRollout,
    pub(in crate::sidecar) bound: Bound,
    /// When its transport received it.
    pub(in crate::sidecar) received: Instant,
    pub(in crate::sidecar) deadline: Option<Instant>,
    pub(in crate::sidecar) room: Permit,
}

/// A rollout from acceptance to its answer.
pub(in crate::sidecar) struct Pending {
    /// What the batcher decides by. The packer's snapshot of the queue shares it, so that planning needs no lock.
    pub(super) candidate: Arc<Candidate>,
    pub(in crate::sidecar) bound: Bound,
    /// When its transport received it.
    pub(in crate::sidecar) received: Instant,
    pub(in crate::sidecar) ticket: Ticket,
    /// What rollouts begin with that are still in the queue.
    pub(in crate::sidecar) shared_prefix: Option<SharedPrefix>,
    /// Open while it waits.
    pub(super) queued: tracing::Span,
    pub(super) room: Option<Permit>,
    pub(super) _unanswered: Unanswered,
}

/// What of a waiting rollout does not change, and what only the packer changes.
pub(super) struct Candidate {
    /// Its number in order of acceptance.
    pub(super) number: u64,
    pub(super) rollout: ValidRollout,
    /// See [`Waiting::beside`].
    beside: usize,
    /// How many of its first tokens stand before everything that is read.
    before_reads: usize,
    kept: KeptHint,
    /// The caller's connection.
    pub(super) caller: u64,
    pub(super) accepted: Instant,
    pub(super) deadline: Option<Instant>,
    /// See [`Waiting::bypassed`]. Written by the packer alone.
    bypassed: AtomicU32,
    /// Keeps alive what an earlier micro-batch computed for this rollout, too.
    pin: Mutex<Option<Arc<()>>>,
}

impl Candidate {
    /// Accepted now; its number is given when it joins the queue. `share_prefixes` says whether the rollout's own sequences are
    /// computed together.
    pub(super) fn new(rollout: ValidRollout, caller: u64, deadline: Option<Instant>, share_prefixes: bool) -> Self {
        let sequences: Vec<&[u32]> = rollout.sequences(0).map(|sequence| sequence.tokens).collect();
        let all = match sequences.as_slice() {
            [own] => own.len(),
            sequences if share_prefixes => unique_tokens(sequences),
            _ => rollout.total_tokens(),
        };
        let beside = all - rollout.tokens.len();
        let before_reads = rollout.sequences(0).map(|sequence| sequence.first_read()).min().unwrap_or(0);
        let (accepted, bypassed) = (Instant::now(), AtomicU32::new(0));
        Self {
            number: 0,
            rollout,
            beside,
            before_reads,
            kept: KeptHint::default(),
            caller,
            accepted,
            deadline,
            bypassed,
            pin: Mutex::new(None),
        }
    }

    /// `prefixes` are what the engine keeps.
    pub(super) fn waiting(&self, withdrawn: bool, prefixes: Option<&dyn Prefixes>) -> Waiting<'_> {
        let kept = prefixes.map_or(0, |prefixes| self.kept.of(&self.rollout.tokens, prefixes));
        Waiting {
            tokens: &self.rollout.tokens,
            known: kept.min(self.before_reads),
            beside: self.beside,
            caller: self.caller,
            group: &self.rollout.group,
            priority: self.rollout.priority,
            arrived: self.accepted,
            deadline: self.deadline,
            bypassed: self.bypassed.load(Ordering::Relaxed),
            withdrawn,
        }
    }

    /// Tokens that it counts in the queue.
    pub(super) fn cost(&self) -> usize {
        self.rollout.tokens.len() + self.beside
    }

    /// A micro-batch took a later arrival of its caller.
    pub(super) fn pass_over(&self) {
        self.bypassed.fetch_add(1, Ordering::Relaxed);
    }

    /// Holds `pin` until this rollout is answered.
    pub(super) fn hold(&self, pin: &Arc<()>) {
        *self.pin.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(pin));
    }
}

/// How many of a rollout's tokens the engine kept when it was last asked. Asked and written by the packer alone, once for
/// every pass that may have changed it.
#[derive(Default)]
struct KeptHint {
    /// One more than the version of what is kept that it belongs to; 0: never asked.
    asked: AtomicU64,
    tokens: AtomicUsize,
}

impl KeptHint {
    fn of(&self, tokens: &[u32], prefixes: &dyn Prefixes) -> usize {
        let version = prefixes.version() + 1;
        if self.asked.swap(version, Ordering::Relaxed) != version {
            self.tokens.store(prefixes.known(tokens), Ordering::Relaxed);
        }
        self.tokens.load(Ordering::Relaxed)
    }
}

/// A prefix that rollouts in the queue have, too: an engine that keeps what it computes had better keep that.
pub(in crate::sidecar) struct SharedPrefix {
    /// Its length, one or more.
    pub(in crate::sidecar) tokens: u32,
    /// Gone once none of them is unanswered.
    pub(in crate::sidecar) wanted_by: Weak<()>,
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
    /// What is scored.
    pub(in crate::sidecar) fn rollout(&self) -> &ValidRollout {
        &self.candidate.rollout
    }

    /// When it was accepted into the queue.
    pub(in crate::sidecar) fn accepted(&self) -> Instant {
        self.candidate.accepted
    }

    /// Why it should not be scored any more, if so.
    pub(in crate::sidecar) fn obsolete(&self, now: Instant) -> Option<Rejection> {
        if self.ticket.withdrawn() {
            Some(cancelled())
        } else if self.candidate.deadline.is_some_and(|deadline| deadline <= now) {
            Some(expired())
        } else {
            None
        }
    }

    /// It waits no longer: closes its span and gives its room to the next.
    pub(super) fn leave_queue(&mut self) {
        self.queued = tracing::Span::none();
        self.room = None;
    }
}
