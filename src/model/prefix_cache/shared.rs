//! The cache between the thread that scores and those that ask what is kept.
//!
//! Invariant: the lock is held for bookkeeping alone, never while a pass computes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{PrefixCache, Resumed};
use crate::batch::MicroBatch;
use crate::engine::Prefixes;

/// See the module.
pub struct SharedCache {
    cache: Mutex<PrefixCache>,
    version: AtomicU64,
    slots: u32,
    bytes_per_token: usize,
}

impl SharedCache {
    /// An empty one of so many tokens, each of so many bytes on all ranks together.
    pub fn new(slots: u32, bytes_per_token: usize) -> Self {
        Self { cache: Mutex::new(PrefixCache::new(slots)), version: AtomicU64::new(0), slots, bytes_per_token }
    }

    /// As [`PrefixCache::resume`].
    pub fn resume(&self, batch: &MicroBatch, reads: &[u32]) -> Resumed {
        let mut cache = self.lock();
        let rest = cache.resume(batch, reads);
        if let Some(tokens) = cache.shortage() {
            let bytes = tokens.saturating_mul(self.bytes_per_token);
            tracing::warn!(
                "the prefix cache of {} tokens ({} MiB) has no room for what comes back, which is computed again; \
                 prefix_cache_bytes = {bytes} ({} MiB) would hold it",
                self.slots,
                self.bytes() >> 20,
                bytes >> 20
            );
        }
        drop(cache);
        self.version.fetch_add(1, Ordering::Relaxed);
        rest
    }

    /// As [`PrefixCache::finish`].
    pub fn finish(&self) {
        self.lock().finish();
    }

    /// As [`PrefixCache::rows_left`].
    pub fn rows_left(&self, batch: &MicroBatch, reads: &[u32]) -> usize {
        self.lock().rows_left(batch, reads)
    }

    /// Forgets everything.
    pub fn clear(&self) {
        self.lock().clear();
        self.version.fetch_add(1, Ordering::Relaxed);
    }

    /// Tokens that it has room for.
    pub fn tokens(&self) -> u32 {
        self.slots
    }

    /// Bytes of its values on all ranks together.
    pub fn bytes(&self) -> usize {
        self.slots as usize * self.bytes_per_token
    }

    /// Bytes of one token on all ranks together.
    pub fn bytes_per_token(&self) -> usize {
        self.bytes_per_token
    }

    /// Bookkeeping that panicked has left its pass unfinished, which the next one sees.
    fn lock(&self) -> MutexGuard<'_, PrefixCache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Prefixes for SharedCache {
    fn known(&self, tokens: &[u32]) -> usize {
        self.lock().known(tokens)
    }

    fn version(&self) -> u64 {
        self.version.load(Ordering::Relaxed)
    }
}
