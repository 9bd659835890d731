//! Room for rollouts in flight: how many may be unanswered at a time.
//!
//! Invariant: at most `limit` permits are out, but for those that were out when the limit was lowered.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Semaphore, TryAcquireError};

use super::error::ClientError;

/// See the module. A semaphore whose size may change.
#[derive(Debug)]
pub(super) struct Room {
    semaphore: Semaphore,
    size: Mutex<Size>,
}

#[derive(Debug)]
struct Size {
    limit: usize,
    /// Permits that are out beyond the limit: this many are not given back.
    excess: usize,
}

impl Room {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { semaphore: Semaphore::new(limit), size: Mutex::new(Size { limit, excess: 0 }) })
    }

    /// Waits for a permit. May be dropped; the place among those who wait is then lost.
    pub(super) async fn acquire(self: &Arc<Self>) -> Result<Permit, ClientError> {
        let permit = self.semaphore.acquire().await.map_err(|_| ClientError::Closed)?;
        permit.forget();
        Ok(Permit(Arc::clone(self)))
    }

    /// A permit, if there is one.
    pub(super) fn try_acquire(self: &Arc<Self>) -> Result<Option<Permit>, ClientError> {
        match self.semaphore.try_acquire() {
            Ok(permit) => {
                permit.forget();
                Ok(Some(Permit(Arc::clone(self))))
            }
            Err(TryAcquireError::NoPermits) => Ok(None),
            Err(TryAcquireError::Closed) => Err(ClientError::Closed),
        }
    }

    /// Changes the limit, for permits that are out as well.
    pub(super) fn set_limit(&self, limit: usize) {
        let mut size = self.size();
        if limit >= size.limit {
            let more = limit - size.limit;
            let kept = more.min(size.excess);
            size.excess -= kept;
            self.semaphore.add_permits(more - kept);
        } else {
            let fewer = size.limit - limit;
            size.excess += fewer - self.semaphore.forget_permits(fewer);
        }
        size.limit = limit;
    }

    /// Ends every wait, and all that begin later, with [`ClientError::Closed`].
    pub(super) fn close(&self) {
        self.semaphore.close();
    }

    fn give_back(&self) {
        let mut size = self.size();
        if size.excess > 0 {
            size.excess -= 1;
        } else {
            self.semaphore.add_permits(1);
        }
    }

    fn size(&self) -> MutexGuard<'_, Size> {
        // Nothing that holds the lock panics with the numbers half changed.
        self.size.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Room for one rollout; dropping it gives the room back.
#[derive(Debug)]
pub(super) struct Permit(Arc<Room>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.give_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(room: &Arc<Room>, most: usize) -> Vec<Permit> {
        std::iter::from_fn(|| room.try_acquire().unwrap()).take(most).collect()
    }

    #[test]
    fn a_lower_limit_holds_for_permits_that_are_out() {
        let room = Room::new(4);
        let mut out = take(&room, 9);
        assert_eq!(out.len(), 4);
        room.set_limit(2);
        // Two too many are out: the first two that come back make no room.
        for expected in [0, 0, 1] {
            out.pop();
            assert_eq!(take(&room, 9).len(), expected);
        }
        drop(out);
        assert_eq!(take(&room, 9).len(), 2);
    }

    #[test]
    fn a_higher_limit_is_first_set_against_what_is_out_beyond_it() {
        let room = Room::new(4);
        let out = take(&room, 9);
        room.set_limit(1);
        room.set_limit(5);
        let more = take(&room, 9);
        assert_eq!(more.len(), 1);
        drop((out, more));
        assert_eq!(take(&room, 9).len(), 5);
    }

    #[test]
    fn a_closed_room_says_so() {
        let room = Room::new(1);
        room.close();
        assert_eq!(room.try_acquire().unwrap_err(), ClientError::Closed);
    }
}
