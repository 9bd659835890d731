//! The queue's room, in rollouts and in tokens: given out in order of arrival, given back when dropped.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// See the module.
pub(super) struct Capacity {
    rollouts: Arc<Semaphore>,
    tokens: Arc<Semaphore>,
    /// The token room of an empty queue, so that one rollout longer than it still finds room.
    most_tokens: u32,
}

/// A place in the queue; given back when dropped.
pub(in crate::sidecar) struct Room {
    _rollout: OwnedSemaphorePermit,
    _tokens: OwnedSemaphorePermit,
}

/// The queue takes nothing any more.
#[derive(Debug)]
pub(in crate::sidecar) struct NoRoom;

impl Capacity {
    pub fn new(rollouts: usize, tokens: usize) -> Self {
        // Permits are counted in u32 at a time; the ceilings in `limits` are below that.
        let most_tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
        Self {
            rollouts: Arc::new(Semaphore::new(rollouts)),
            tokens: Arc::new(Semaphore::new(most_tokens as usize)),
            most_tokens,
        }
    }

    /// Room for a rollout of so many tokens, where it can be had at once and nobody waits for it.
    pub fn try_take(&self, tokens: usize) -> Option<Room> {
        let rollout = Arc::clone(&self.rollouts).try_acquire_owned().ok()?;
        let tokens = Arc::clone(&self.tokens).try_acquire_many_owned(self.wanted(tokens)).ok()?;
        Some(Room { _rollout: rollout, _tokens: tokens })
    }

    /// The same, waited for in order of arrival.
    pub async fn take(&self, tokens: usize) -> Result<Room, NoRoom> {
        let rollout = Arc::clone(&self.rollouts).acquire_owned().await.map_err(|_| NoRoom)?;
        let tokens = Arc::clone(&self.tokens).acquire_many_owned(self.wanted(tokens)).await.map_err(|_| NoRoom)?;
        Ok(Room { _rollout: rollout, _tokens: tokens })
    }

    /// Nobody finds room any more; those who wait for it are told.
    pub fn close(&self) {
        self.rollouts.close();
        self.tokens.close();
    }

    fn wanted(&self, tokens: usize) -> u32 {
        u32::try_from(tokens).unwrap_or(u32::MAX).min(self.most_tokens)
    }
}
