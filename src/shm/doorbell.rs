//! How an end that sleeps is woken, and one that is awake is left alone.
//!
//! A thread that is about to sleep raises a flag, looks once more whether there is something to do, and sleeps. A thread that
//! publishes something looks at the flag afterwards; where it is up, it takes the flag down and rings. Each of the two puts a
//! sequentially consistent fence between its own write and its look at the other's: one of them sees the other, so no ring is
//! lost (Dekker's argument). While nobody sleeps a publication costs one fence and one load, and no system call.
//!
//! A flag is a count that is up while it is odd; taking it down adds one. Several threads may sleep at one flag: each sleeps
//! only while the count is as it left it. Were it a plain bit, a thread that is about to sleep could take the flag that
//! another has raised since for its own, which was rung for already, and sleep on.

use std::time::Duration;

use super::layout::Flag;
use super::region::Region;
use super::sync::{Ordering, fence};

/// The bit of a flag that is up.
const UP: u32 = 1;

/// Says that this end is about to sleep, and returns the flag as it is now. It must look once more after this, before it
/// does.
pub fn raise(region: &Region, flag: Flag) -> u32 {
    let raised = region.flag(flag).fetch_or(UP, Ordering::Relaxed) | UP;
    fence(Ordering::SeqCst);
    raised
}

/// Says that this end is awake. For flags of one sleeper.
pub fn lower(region: &Region, flag: Flag) {
    region.flag(flag).fetch_and(!UP, Ordering::Relaxed);
}

/// Sleeps until somebody rings, unless `ready` says, once the flag is up, that there is no need to. It ends after so long,
/// too, and at a signal.
pub fn sleep(region: &Region, flag: Flag, longest: Duration, ready: impl FnOnce() -> bool) {
    let raised = raise(region, flag);
    // Never lowered here: another thread may sleep at the same flag.
    if !ready() {
        region.sleep(flag, raised, longest);
    }
}

/// Whether the other end sleeps and the caller is to wake it: of several threads that publish, one is told so. To be called
/// after the publication.
pub fn must_ring(region: &Region, flag: Flag) -> bool {
    fence(Ordering::SeqCst);
    let flag = region.flag(flag);
    let found = flag.load(Ordering::Relaxed);
    let down = found.wrapping_add(UP);
    found & UP != 0 && flag.compare_exchange(found, down, Ordering::Relaxed, Ordering::Relaxed).is_ok()
}

#[cfg(all(test, loom))]
mod models;
