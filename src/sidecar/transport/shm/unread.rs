//! Which answers in a lane's reward ring its client has not read yet.
//!
//! Invariant: what is counted are answers that a caller waits for; what was withdrawn, or refused because the sidecar is
//! shutting down, is none.

use std::collections::HashMap;

/// Entries that are kept before the first look for those that were read.
const FEW: usize = 64;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Unread {
    /// Where the record of each answer ends in the ring, by the client's number for the rollout.
    ends: HashMap<u64, u64>,
    /// So many were unread at the last look.
    looked: usize,
}

impl Unread {
    /// The answer to `number` ends at `end`; `read` is how far the client has read by now.
    pub(super) fn published(&mut self, number: u64, end: u64, read: u64) {
        // Looking at all of them costs each answer no more than a few steps.
        if self.ends.len() >= FEW.max(2 * self.looked) {
            self.looked = self.count(read);
        }
        self.ends.insert(number, end);
    }

    /// Nobody waits for the answer to `number` any more.
    pub(super) fn withdrawn(&mut self, number: u64) {
        self.ends.remove(&number);
    }

    /// How many are unread where the client has read as far as `read`.
    pub(super) fn count(&mut self, read: u64) -> usize {
        self.ends.retain(|_, &mut end| end > read);
        self.ends.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_unread_until_the_client_has_read_as_far() {
        let mut unread = Unread::default();
        for number in 0..10_000u64 {
            let end = 10 * (number + 1);
            // The client is always three answers behind.
            unread.published(number, end, end.saturating_sub(30));
            assert!(unread.ends.len() <= FEW + 1, "{}", unread.ends.len());
        }
        assert_eq!(unread.count(99_970), 3);
        unread.withdrawn(9_999);
        unread.withdrawn(5);
        assert_eq!(unread.count(99_970), 2);
        assert_eq!(unread.count(100_000), 0);
    }
}
