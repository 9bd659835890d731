//! Whose pass it is, where several models compute on the same threads. What waits for its turn counts as queued, not as computed.
//!
//! Invariant: turns are had in the order in which they were asked for, so that no model waits for more than one pass of each other.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// See the module.
#[derive(Default)]
pub struct Turn {
    count: Mutex<Count>,
    changed: Condvar,
}

#[derive(Default)]
struct Count {
    /// Turns that were asked for.
    asked: u64,
    /// Turns that are over.
    over: u64,
}

/// A turn; over when it is dropped.
pub struct Guard<'a>(&'a Turn);

impl Turn {
    /// Waits for its turn.
    pub fn take(&self) -> Guard<'_> {
        let mut count = self.count();
        let own = count.asked;
        count.asked += 1;
        // Nobody panics while the count is held.
        drop(self.changed.wait_while(count, |count| count.over != own).unwrap_or_else(PoisonError::into_inner));
        Guard(self)
    }

    fn count(&self) -> MutexGuard<'_, Count> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.0.count().over += 1;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn turns_come_one_after_the_other_and_a_panic_ends_one() {
        let (turn, inside, passes) = (Turn::default(), AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (turn, inside, passes) = (&turn, &inside, &passes);
                scope.spawn(move || {
                    for pass in 0..100 {
                        let one = std::panic::catch_unwind(|| {
                            let _turn = turn.take();
                            assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "alone");
                            passes.fetch_add(1, Ordering::SeqCst);
                            inside.fetch_sub(1, Ordering::SeqCst);
                            assert!((pass + thread) % 10 > 0, "one of ten passes fails");
                        });
                        drop(one);
                    }
                });
            }
        });
        assert_eq!(passes.load(Ordering::SeqCst), 400);
    }
}
