//! One lane, as the poller has it.
//!
//! Invariant: when it is dropped its caller's interest is withdrawn, its memory and descriptors are given back, and its client
//! notices.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{PidfdFlags, pidfd_open};
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use super::outbox::{Outbox, Reserve};
use super::{Control, Terms};
use crate::proto::aggregation_from_bytes;
use crate::reward::{Code, Rejection};
use crate::rollout::AggregationSpec;
use crate::shm::frame::{MAX_OPTIONS, NO_OPTIONS, RolloutRecord, kind, read_cancel, read_options, read_rollout};
use crate::shm::handshake::Peer;
use crate::shm::heartbeat::Heartbeat;
use crate::shm::lane::{RolloutReceiver, SidecarEnd, SidecarLine};
use crate::shm::layout::{HEADER, WORD};
use crate::shm::ring::Record;
use crate::shm::{Broken, clock};
use crate::sidecar::descriptors::Taken;
use crate::sidecar::metrics::{self, OpenLane};
use crate::sidecar::{Identity, Intake, Interest};

/// Records that are read from one lane before the next lane is served.
const SLICE_RECORDS: usize = 16;
/// And their words, about: few large ones take as long as many small ones.
const SLICE_WORDS: usize = (256 << 10) / WORD;

/// A word of options counts as so many more: they are decoded name by name.
const OPTIONS_WEIGHT: usize = 7;

/// See the module.
#[derive(Debug)]
pub(super) struct Lane {
    rollouts: RolloutReceiver,
    outbox: Arc<Outbox>,
    interest: Interest,
    options: Options,
    /// Rollouts on their way through intake that had to wait. They are given up with the lane.
    deferred: JoinSet<()>,
    deferrals: Arc<Deferrals>,
    line: SidecarLine,
    /// The client's process, where it can be seen: children that it forked keep the socket open when it dies.
    process: Option<OwnedFd>,
    _open: OpenLane,
    /// The last field: they are free once all above are closed.
    _descriptors: Taken,
}

/// What a lane was found to need while the poller served it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct LaneSlice {
    /// Something was read.
    pub(super) read: bool,
    /// Rollouts were taken in, and the scoring threads have not been woken for them.
    pub(super) taken: bool,
    /// Rollouts were withdrawn that may wait in the queue.
    pub(super) withdrawn: bool,
}

impl Lane {
    /// The lane of a client that was opened with the generation `announced`; and its heartbeat, which beats for the thread.
    pub(super) fn new(
        end: SidecarEnd,
        announced: u64,
        peer: Peer,
        descriptors: Taken,
        terms: &Terms,
        control: &Arc<Control>,
    ) -> (Self, Heartbeat) {
        let SidecarEnd { rollouts, rewards, heartbeat, line } = end;
        let reserve = Reserve { in_flight_limit: terms.in_flight_limit, reply_words: terms.reply_words };
        let outbox = Outbox::new(rewards, reserve, announced, Arc::clone(&terms.generations), Arc::clone(control));
        let lane = Self {
            rollouts,
            outbox: Arc::new(outbox),
            interest: Interest::of(&Identity::new("shm", Some(peer.uid))),
            options: Options::default(),
            deferred: JoinSet::new(),
            deferrals: Arc::new(Deferrals::new(terms.deferrals, Arc::clone(control))),
            line,
            process: peer.pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()),
            _open: metrics::open_lane(),
            _descriptors: descriptors,
        };
        (lane, heartbeat)
    }

    pub(super) fn line(&self) -> &SidecarLine {
        &self.line
    }

    pub(super) fn process(&self) -> Option<&OwnedFd> {
        self.process.as_ref()
    }

    pub(super) fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// Reads a few records, as far as they may be admitted.
    pub(super) fn serve(&mut self, intake: &Intake, runtime: &Handle) -> Result<LaneSlice, Broken> {
        let mut slice = LaneSlice::default();
        self.outbox.flush()?;
        let mut words = 0;
        for _ in 0..SLICE_RECORDS {
            // Withdrawals and options are read even while no rollout may be: they need no room, and make some.
            let may_be_read = match self.rollouts.peek()? {
                None => false,
                Some(kind::ROLLOUT) => !self.deferrals.are_enough() && self.outbox.admits()?,
                Some(_) => true,
            };
            if !may_be_read || words >= SLICE_WORDS {
                break;
            }
            let Some(record) = self.rollouts.next()? else { break };
            slice.read = true;
            words += HEADER + record.remaining();
            match record.kind() {
                kind::OPTIONS => {
                    words += OPTIONS_WEIGHT * record.remaining();
                    self.options.register(record)?;
                }
                kind::ROLLOUT => {
                    let record = read_rollout(record)?;
                    slice.taken |= self.take(record, intake, runtime)?;
                }
                // A number that is unknown, or answered, needs nothing.
                kind::CANCEL => slice.withdrawn |= self.outbox.cancel(read_cancel(record)?),
                kind => return Err(Broken::Kind { sequence: record.sequence(), kind }),
            }
        }
        if slice.read {
            self.rollouts.made_room();
            while self.deferred.try_join_next().is_some() {}
        }
        Ok(slice)
    }

    /// Hands a rollout to intake; whether it is in the queue then.
    fn take(&mut self, record: RolloutRecord, intake: &Intake, runtime: &Handle) -> Result<bool, Broken> {
        let RolloutRecord { number, options, deadline_ns, rollout } = record;
        let aggregation = self.options.named(number, options)?;
        let ticket = self.outbox.ticket(number, &self.interest)?;
        let mut rollout = match rollout {
            Ok(rollout) => rollout,
            Err(malformed) => {
                ticket.answer(Err(Rejection::new(Code::Malformed, malformed.why)));
                return Ok(false);
            }
        };
        rollout.aggregation = aggregation;
        if rollout.id.is_empty() {
            // On a lane the number is the name.
            rollout.id = number.to_string();
        }
        if let Some(deadline_ns) = deadline_ns {
            let remaining = clock::until(deadline_ns);
            if remaining.is_zero() {
                let why = "the deadline passed before the sidecar read the rollout from its lane";
                ticket.answer(Err(Rejection::new(Code::DeadlineExceeded, why)));
                return Ok(false);
            }
            rollout.deadline_ms = Some(milliseconds(remaining));
        }
        match intake.try_submit(rollout, ticket, Instant::now()) {
            Ok(()) => Ok(true),
            Err(deferred) => {
                let deferral = Deferral::new(&self.deferrals);
                let rest = async move {
                    deferred.finish().await;
                    drop(deferral);
                };
                let task = self.deferred.spawn_on(rest, runtime);
                self.outbox.defer(number, task);
                Ok(false)
            }
        }
    }

    /// The poller is about to sleep until a bell rings. Whether it should rather not, for this lane.
    pub(super) fn going_to_sleep(&mut self) -> Result<bool, Broken> {
        self.rollouts.going_to_sleep();
        // Asked in any case: where it admits nothing, or has answers that found no room, it rings when that changes.
        let admits = self.outbox.admits_or_rings()? && !self.deferrals.are_enough();
        Ok(match self.rollouts.peek()? {
            None => false,
            Some(kind::ROLLOUT) => admits,
            Some(_) => true,
        })
    }

    /// The poller is awake.
    pub(super) fn awake(&self) {
        self.rollouts.awake();
    }

    /// Closes the lane, and says why.
    pub(super) fn close(self, why: &str) {
        self.line.say_why(why);
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.interest.withdraw();
        self.outbox.close();
    }
}

/// Whole milliseconds, rounded up: a rollout is not late before its time.
fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

/// The table of options of a lane: what the numbers mean that its rollouts name. All rollouts that name one share it, so that
/// it is checked and bound once.
#[derive(Debug, Default)]
struct Options {
    entries: Vec<Option<Arc<AggregationSpec>>>,
    /// Of rollouts that name none.
    default: Arc<AggregationSpec>,
}

impl Options {
    fn register(&mut self, record: Record) -> Result<(), Broken> {
        let entry = read_options(record)?;
        let spec = aggregation_from_bytes(&entry.bytes)
            .map_err(|error| Broken::Field { field: "options", why: format!("no aggregation: {error}") })?;
        let number = entry.number as usize;
        debug_assert!(number < MAX_OPTIONS, "read_options has checked it");
        if self.entries.len() <= number {
            self.entries.resize(number + 1, None);
        }
        self.entries[number] = Some(Arc::new(spec));
        Ok(())
    }

    /// What rollout `rollout` names by `number`.
    fn named(&self, rollout: u64, number: u32) -> Result<Arc<AggregationSpec>, Broken> {
        if number == NO_OPTIONS {
            return Ok(Arc::clone(&self.default));
        }
        match self.entries.get(number as usize) {
            Some(Some(spec)) => Ok(Arc::clone(spec)),
            _ => {
                let why = format!("rollout {rollout} names options {number}, which were never given");
                Err(Broken::Field { field: "options", why })
            }
        }
    }
}

/// Counts the rollouts of a lane that intake could not take at once. While there are enough, no rollout of the lane is read:
/// what it has waits in its ring, which is the back-pressure.
#[derive(Debug)]
struct Deferrals {
    count: AtomicUsize,
    enough: usize,
    control: Arc<Control>,
}

impl Deferrals {
    fn new(enough: usize, control: Arc<Control>) -> Self {
        Self { count: AtomicUsize::new(0), enough, control }
    }

    fn are_enough(&self) -> bool {
        self.count.load(Ordering::SeqCst) >= self.enough
    }
}

/// One of them, until it is through or given up.
struct Deferral(Arc<Deferrals>);

impl Deferral {
    fn new(deferrals: &Arc<Deferrals>) -> Self {
        deferrals.count.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(deferrals))
    }
}

impl Drop for Deferral {
    fn drop(&mut self) {
        // The poller may sleep while the lane has something to read.
        if self.0.count.fetch_sub(1, Ordering::SeqCst) >= self.0.enough {
            self.0.control.ring();
        }
    }
}
