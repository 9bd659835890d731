//! One lane, as the poller has it.
//!
//! Invariant: when it is dropped its callers' interest is withdrawn, its memory and descriptors are given back, and its client
//! notices.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use rustix::process::{PidfdFlags, pidfd_open};
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use super::outbox::Outbox;
use super::{Control, Terms};
use crate::proto::aggregation_from_bytes;
use crate::reward::{Code, Rejection};
use crate::rollout::AggregationSpec;
use crate::shm::Broken;
use crate::shm::frame::{Asked, MAX_OPTIONS, NO_OPTIONS, kind, read_options, read_rollout};
use crate::shm::handshake::Peer;
use crate::shm::lane::{RolloutReceiver, SidecarEnd, SidecarLine};
use crate::shm::layout::{HEADER, WORD};
use crate::shm::ring::Record;
use crate::sidecar::metrics::{self, OpenLane};
use crate::sidecar::{Identity, Intake, Interest};

/// Records that are read from one lane before it is the next one's turn.
const QUANTUM: usize = 16;
/// And their words, about: few large ones take as long as many small ones.
const QUANTUM_WORDS: usize = (256 << 10) / WORD;

/// See the module.
#[derive(Debug)]
pub(super) struct Lane {
    rollouts: RolloutReceiver,
    outbox: Arc<Outbox>,
    interest: Interest,
    options: Vec<Option<AggregationSpec>>,
    /// Rollouts on their way through intake that had to wait. They are given up with the lane.
    deferred: JoinSet<()>,
    deferrals: Arc<Deferrals>,
    line: SidecarLine,
    /// The client's process, where it can be seen: children that it forked keep the socket open when it dies.
    process: Option<OwnedFd>,
    _open: OpenLane,
}

/// What came of a lane's turn.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Turn {
    /// Something was read.
    pub(super) read: bool,
    /// Rollouts were taken in, and nobody has been told of them yet.
    pub(super) taken: bool,
}

impl Lane {
    pub(super) fn new(end: SidecarEnd, peer: Peer, terms: &Terms, control: &Arc<Control>) -> Self {
        let SidecarEnd { rollouts, rewards, line } = end;
        let outbox = Outbox::new(rewards, terms.in_flight_limit, terms.reply_words, Arc::clone(control));
        Self {
            rollouts,
            outbox: Arc::new(outbox),
            interest: Interest::of(&Identity::new("shm", Some(peer.uid))),
            options: Vec::new(),
            deferred: JoinSet::new(),
            deferrals: Arc::new(Deferrals::new(terms.deferrals, Arc::clone(control))),
            line,
            process: peer.pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()),
            _open: metrics::open_lane(),
        }
    }

    pub(super) fn line(&self) -> &SidecarLine {
        &self.line
    }

    pub(super) fn process(&self) -> Option<&OwnedFd> {
        self.process.as_ref()
    }

    /// Reads a few records, as far as they may be admitted.
    pub(super) fn turn(&mut self, intake: &Intake, runtime: &Handle) -> Result<Turn, Broken> {
        let mut turn = Turn::default();
        self.outbox.flush()?;
        if !self.rollouts.is_waiting() {
            return Ok(turn);
        }
        let mut words = 0;
        for _ in 0..QUANTUM {
            if words >= QUANTUM_WORDS || self.deferrals.are_enough() || !self.outbox.admits()? {
                break;
            }
            let Some(record) = self.rollouts.next()? else { break };
            turn.read = true;
            words += HEADER + record.left();
            match record.kind() {
                kind::OPTIONS => register(&mut self.options, record)?,
                kind::ROLLOUT => {
                    let asked = read_rollout(record)?;
                    turn.taken |= self.take(asked, intake, runtime)?;
                }
                kind => return Err(Broken::Kind { sequence: record.sequence(), kind }),
            }
        }
        if turn.read {
            self.rollouts.made_room();
            while self.deferred.try_join_next().is_some() {}
        }
        Ok(turn)
    }

    /// Hands a rollout to intake. Whether somebody is to be told of it.
    fn take(&mut self, asked: Asked, intake: &Intake, runtime: &Handle) -> Result<bool, Broken> {
        let Asked { number, options, rollout } = asked;
        let spec = match options {
            NO_OPTIONS => AggregationSpec::default(),
            options => match self.options.get(options as usize) {
                Some(Some(spec)) => spec.clone(),
                _ => {
                    let why = format!("rollout {number} names options {options}, which were never given");
                    return Err(Broken::Field { field: "options", why });
                }
            },
        };
        let ticket = self.outbox.ticket(number, &self.interest);
        let mut rollout = match rollout {
            Ok(rollout) => rollout,
            Err(unfit) => {
                ticket.answer(Err(Rejection::new(Code::Malformed, unfit.why)));
                return Ok(false);
            }
        };
        rollout.aggregation = spec.into();
        if rollout.id.is_empty() {
            // On a lane the number is the name.
            rollout.id = number.to_string();
        }
        match intake.try_submit(rollout, ticket, Instant::now()) {
            Ok(()) => Ok(true),
            Err(deferred) => {
                let deferral = Deferral::new(&self.deferrals);
                let rest = async move {
                    deferred.finish().await;
                    drop(deferral);
                };
                self.deferred.spawn_on(rest, runtime);
                Ok(false)
            }
        }
    }

    /// The poller is about to sleep until a bell rings. Whether it should rather not, for this lane.
    pub(super) fn going_to_sleep(&mut self) -> Result<bool, Broken> {
        self.rollouts.going_to_sleep();
        Ok(self.outbox.admits_or_rings()? && !self.deferrals.are_enough() && self.rollouts.is_waiting())
    }

    /// The poller is awake.
    pub(super) fn awake(&self) {
        self.rollouts.awake();
    }

    /// Closes the lane, and says why.
    pub(super) fn close(self, why: &str) {
        self.line.part(why);
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.interest.withdraw();
        self.outbox.close();
    }
}

/// Counts the rollouts of a lane that intake could not take at once. While there are enough, the lane is not read: what it has
/// waits in its ring, which is the back-pressure.
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
        // The poller may sleep over what the lane has.
        if self.0.count.fetch_sub(1, Ordering::SeqCst) >= self.0.enough {
            self.0.control.ring();
        }
    }
}

fn register(table: &mut Vec<Option<AggregationSpec>>, record: Record) -> Result<(), Broken> {
    let entry = read_options(record)?;
    let spec = aggregation_from_bytes(&entry.bytes)
        .map_err(|error| Broken::Field { field: "options", why: format!("no aggregation: {error}") })?;
    let number = entry.number as usize;
    debug_assert!(number < MAX_OPTIONS, "read_options has checked it");
    if table.len() <= number {
        table.resize(number + 1, None);
    }
    table[number] = Some(spec);
    Ok(())
}
