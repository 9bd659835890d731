//! How an end that sleeps is woken, and one that is awake is left alone.
//!
//! Whoever is about to sleep raises a flag, looks once more, and sleeps. Whoever publishes something looks at the flag
//! afterwards; where it is up, they take it down and ring. Each puts a sequentially consistent fence between their own write
//! and their look at the other's: one of the two sees the other, so no ring is lost (Dekker's argument). While nobody sleeps
//! a publication costs one fence and one load, and no system call.
//!
//! A flag is up while it is odd, and whoever takes it down to ring counts it on. Several threads may sleep at one flag: each
//! sleeps only while it is as they left it. Were it a plain bit, one that is about to sleep could take the flag that another
//! has raised since for its own, which was rung for already, and sleep over that.

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

/// Whether somebody sleeps and is to be woken by whoever asks: of several who publish, one is told so. To be called after
/// the publication.
pub fn must_ring(region: &Region, flag: Flag) -> bool {
    fence(Ordering::SeqCst);
    let flag = region.flag(flag);
    let found = flag.load(Ordering::Relaxed);
    let down = found.wrapping_add(UP);
    found & UP != 0 && flag.compare_exchange(found, down, Ordering::Relaxed, Ordering::Relaxed).is_ok()
}

#[cfg(all(test, loom))]
mod models;
