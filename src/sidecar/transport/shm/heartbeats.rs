//! The heartbeats of all lanes, which beat together.
//!
//! Invariant: while there are lanes, [`Heartbeats::due`] says when to be back, and no lane is left out of a beat.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::shm::heartbeat::{Heartbeat, LONGEST_PAUSE};

/// Time between two beats: half of what clients are promised.
const BEAT_EVERY: Duration = Duration::from_secs(LONGEST_PAUSE.as_secs() / 2);

/// See the module. By the lanes' numbers.
#[derive(Debug, Default)]
pub(super) struct Heartbeats {
    of: BTreeMap<u64, Heartbeat>,
    /// The next beat; `None`: at once.
    due: Option<Instant>,
}

impl Heartbeats {
    /// A new lane, whose heart begins to beat.
    pub(super) fn add(&mut self, lane: u64, mut heartbeat: Heartbeat) {
        heartbeat.beat();
        self.of.insert(lane, heartbeat);
    }

    /// The lane is closed.
    pub(super) fn remove(&mut self, lane: u64) {
        self.of.remove(&lane);
    }

    /// When the next beat is due; `None`: never, since there is no lane.
    pub(super) fn due(&self) -> Option<Instant> {
        if self.of.is_empty() { None } else { Some(self.due.unwrap_or_else(Instant::now)) }
    }

    /// To be called again and again, however busy the thread is.
    pub(super) fn beat_if_due(&mut self, now: Instant) {
        if self.due.is_none_or(|due| now >= due) {
            self.of.values_mut().for_each(Heartbeat::beat);
            self.due = Some(now + BEAT_EVERY);
        }
    }
}
