//! A sign of life in a lane's memory: a word on which the sidecar's thread counts on while it runs.
//!
//! A process that dies closes its socket, and its client notices. One that is stopped or hangs closes nothing: only this word
//! stands still then.
//!
//! Invariant: neither end believes a number. The sidecar keeps its own count and never loads the word; the client looks only
//! whether the word differs from what it was.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::layout::HEARTBEAT;
use super::region::Region;
use super::sync::Ordering;

/// Longest time between two beats of a sidecar that runs.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// No more than this is counted between two looks: while nobody looked, nobody knows how long the word stood still. A client
/// that was stopped itself, together with its sidecar or not, gives the sidecar time to go on.
const LONGEST_STEP: Duration = Duration::from_millis(500);

/// The sidecar's side.
#[derive(Debug)]
pub struct Heartbeat {
    region: Arc<Region>,
    beats: u64,
}

impl Heartbeat {
    pub(super) fn new(region: Arc<Region>) -> Self {
        Self { region, beats: 0 }
    }

    /// To be called at least every [`LONGEST_PAUSE`].
    pub fn beat(&mut self) {
        self.beats = self.beats.wrapping_add(1);
        self.region.words()[HEARTBEAT].store(self.beats, Ordering::Relaxed);
    }
}

/// The client's side.
#[derive(Debug)]
pub struct HeartbeatWatch {
    region: Arc<Region>,
    seen: u64,
    looked: Instant,
    still: Duration,
}

impl HeartbeatWatch {
    pub(super) fn new(region: Arc<Region>) -> Self {
        let seen = region.words()[HEARTBEAT].load(Ordering::Relaxed);
        Self { region, seen, looked: Instant::now(), still: Duration::ZERO }
    }

    /// For how long the word has been seen to stand still.
    pub fn still_for(&mut self, now: Instant) -> Duration {
        let found = self.region.words()[HEARTBEAT].load(Ordering::Relaxed);
        if found == self.seen {
            self.still += now.saturating_duration_since(self.looked).min(LONGEST_STEP);
        } else {
            (self.seen, self.still) = (found, Duration::ZERO);
        }
        self.looked = now;
        self.still
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn region() -> Arc<Region> {
        Arc::new(Region::create(512).unwrap().0)
    }

    #[test]
    fn a_word_that_changes_is_a_life_and_one_that_stands_still_is_counted() {
        let region = region();
        let (mut sidecar, mut client) = (Heartbeat::new(region.clone()), HeartbeatWatch::new(region));
        let began = client.looked;
        for look in 1..=5 {
            assert_eq!(client.still_for(began + look * 100 * MS), look * 100 * MS);
        }
        sidecar.beat();
        assert_eq!(client.still_for(began + 600 * MS), Duration::ZERO);
        assert_eq!(client.still_for(began + 700 * MS), 100 * MS);
    }

    #[test]
    fn time_in_which_nobody_looked_is_not_counted() {
        let mut client = HeartbeatWatch::new(region());
        let began = client.looked;
        assert_eq!(client.still_for(began + Duration::from_secs(3600)), LONGEST_STEP);
        assert_eq!(client.still_for(began + Duration::from_secs(3600) + 10 * MS), LONGEST_STEP + 10 * MS);
        // A clock that stands, or seems to go back, counts nothing.
        assert_eq!(client.still_for(began), LONGEST_STEP + 10 * MS);
    }

    /// The word may be written by the client, too: it deceives itself alone.
    #[test]
    fn whatever_stands_in_the_word_the_sidecar_counts_on() {
        let region = region();
        let (mut sidecar, mut client) = (Heartbeat::new(region.clone()), HeartbeatWatch::new(region.clone()));
        region.words()[HEARTBEAT].store(u64::MAX, Ordering::Relaxed);
        assert_eq!(client.still_for(client.looked + 100 * MS), Duration::ZERO);
        sidecar.beat();
        assert_eq!(region.words()[HEARTBEAT].load(Ordering::Relaxed), 1);
        assert_eq!(client.still_for(client.looked + 100 * MS), Duration::ZERO);
    }
}
