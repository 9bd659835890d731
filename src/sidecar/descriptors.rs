//! File descriptors, of which a process may have so many and no more (`ulimit -n`).
//!
//! The invariant: clients of gRPC and of lanes together never take those that are set aside for the admin port and for the
//! process itself, so that `/health` answers however many clients come.

use std::io;
use std::sync::Arc;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What a lane takes: its connection, its bell, and its client's process.
const PER_LANE: usize = 3;

/// Set aside for what the process opens for a moment: a lane's memory, an exporter's connection, a file.
const SPARE: usize = 8;

/// Most connections that the admin port has open.
const MOST_ADMIN: usize = 16;

/// Descriptors that clients may take.
#[derive(Debug, Clone)]
pub struct Descriptors {
    permits: Arc<Semaphore>,
    /// How many clients may take.
    pub most: usize,
    /// How many the process may have.
    pub limit: usize,
}

/// The process may have too few descriptors to serve anybody.
#[derive(Debug, thiserror::Error)]
#[error("this process may have {limit} descriptors open (ulimit -n) and needs {needed}; raise the limit")]
pub struct TooFew {
    limit: usize,
    needed: usize,
}

/// Descriptors of one client; they are free again when this is dropped, which is to be after they are closed.
#[derive(Debug)]
pub struct Taken(#[expect(dead_code, reason = "holds until it is dropped")] OwnedSemaphorePermit);

impl Descriptors {
    /// Those that are left when `open` of `limit` are in use, less what is set aside.
    fn of(limit: usize, open: usize) -> Result<Self, TooFew> {
        let own = open + SPARE + admin_connections_of(limit);
        let most = limit.saturating_sub(own).min(Semaphore::MAX_PERMITS);
        if most < PER_LANE {
            return Err(TooFew { limit, needed: own + PER_LANE });
        }
        Ok(Self { permits: Arc::new(Semaphore::new(most)), most, limit })
    }

    /// Those that this process has left, as it stands.
    pub fn left() -> Result<Self, TooFew> {
        Self::of(limit(), open())
    }

    /// Those of one connection; `None` while there are none.
    pub fn try_connection(&self) -> Option<Taken> {
        Arc::clone(&self.permits).try_acquire_owned().ok().map(Taken)
    }

    /// As [`Self::try_connection`], as soon as there are some.
    pub async fn connection(&self) -> Taken {
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        Taken(permit.expect("the semaphore is never closed"))
    }

    /// Why another lane is not opened beside the `open` ones.
    pub fn too_few_for_a_lane(&self, open: usize) -> String {
        format!(
            "with {open} lanes open, this process has too few descriptors left for another ({PER_LANE} each; ulimit -n is {})",
            self.limit
        )
    }

    /// Those of one lane; `None` while there are too few.
    pub fn try_lane(&self) -> Option<Taken> {
        Arc::clone(&self.permits).try_acquire_many_owned(PER_LANE as u32).ok().map(Taken)
    }
}

/// How many connections the admin port may have open. They are set aside for it.
pub fn admin_connections() -> usize {
    admin_connections_of(limit())
}

fn admin_connections_of(limit: usize) -> usize {
    (limit / 10).clamp(2, MOST_ADMIN)
}

/// How many descriptors this process may have open.
fn limit() -> usize {
    getrlimit(Resource::Nofile).current.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

/// How many it has open; some dozen where the system does not say.
fn open() -> usize {
    const UNKNOWN: usize = 32;
    // The folder is open itself while it is read.
    std::fs::read_dir("/dev/fd").map_or(UNKNOWN, |entries| entries.count().saturating_sub(1))
}

/// Lets this process open as many as the system allows it at all; returns that number. For programs: it concerns all of the
/// process.
pub fn raise_limit() -> io::Result<usize> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    }
    Ok(limit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_aside_is_not_given_away() {
        // 40 in all, 19 in use, 8 spare, 4 for the admin port.
        let descriptors = Descriptors::of(40, 19).unwrap();
        assert_eq!(descriptors.most, 9);
        let taken: Vec<Taken> = std::iter::from_fn(|| descriptors.try_connection()).collect();
        assert_eq!(taken.len(), 9);
        assert!(descriptors.try_lane().is_none());
        drop(taken);
        let lanes: Vec<Taken> = std::iter::from_fn(|| descriptors.try_lane()).collect();
        assert_eq!(lanes.len(), 3);
        assert!(descriptors.try_connection().is_none());
        assert_eq!(Descriptors::of(30, 19).unwrap_err().to_string().matches("needs 33").count(), 1);
        assert!(Descriptors::of(usize::MAX, 19).is_ok());
    }

    #[test]
    fn open_ones_are_counted() {
        let before = open();
        let files: Vec<_> = (0..50).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
        // Other tests open and close theirs meanwhile.
        assert!(open() + 25 > before + files.len(), "{before} {}", open());
    }
}
