//! How an end that sleeps is woken, and one that is awake is left alone.
//!
//! Whoever is about to sleep raises a flag, looks once more, and sleeps. Whoever publishes something looks at the flag
//! afterwards; where it is up, they take it down and ring. Each puts a sequentially consistent fence between their own write
//! and their look at the other's: one of the two sees the other, so no ring is lost (Dekker's argument). While nobody sleeps
//! a publication costs one fence and one load, and no system call.

use super::layout::Flag;
use super::region::Region;
use super::sync::{Ordering, fence};

/// Says that this end is about to sleep. It must look once more after this, before it does.
pub fn raise(region: &Region, flag: Flag) {
    region.flag(flag).store(1, Ordering::Relaxed);
    fence(Ordering::SeqCst);
}

/// Says that this end is awake.
pub fn lower(region: &Region, flag: Flag) {
    region.flag(flag).store(0, Ordering::Relaxed);
}

/// Whether somebody sleeps and is to be woken by whoever asks: of several who publish, one is told so. To be called after
/// the publication.
pub fn must_ring(region: &Region, flag: Flag) -> bool {
    fence(Ordering::SeqCst);
    let flag = region.flag(flag);
    flag.load(Ordering::Relaxed) == 1 && flag.swap(0, Ordering::Relaxed) == 1
}
