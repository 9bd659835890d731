//! Who may tokenize next: as many texts at a time as there are threads for it, fairly between callers by the bytes of their texts.
//!
//! The invariant: where there are several threads, long texts never hold all of them, whoever sent them, so that a short text waits
//! for short ones only.

use crate::sidecar::fair::{Closed, FairSemaphore, Permit};
use crate::sidecar::{Identity, metrics};

/// Texts of more bytes than this are long: they take a tokenizer some tenths of a second.
const LONG_TEXT_BYTES: usize = 256 << 10;

/// What a caller's turn is worth in bytes: some ordinary conversations.
const QUANTUM_BYTES: usize = 32 << 10;

/// Bytes are for fairness only: there is no limit of them here.
const UNLIMITED: usize = usize::MAX >> 2;

/// See the module.
pub(super) struct Tokenizers {
    count: usize,
    threads: FairSemaphore,
    /// Threads that long texts may hold.
    for_long: FairSemaphore,
}

/// A thread that one text may be tokenized on; given back when dropped.
pub(super) struct Tokenizer {
    _thread: Permit,
    _long: Option<Permit>,
}

impl Tokenizers {
    pub fn new(threads: usize) -> Self {
        let semaphore = |threads| FairSemaphore::new(threads, UNLIMITED, QUANTUM_BYTES);
        let threads = threads.max(1);
        Self { count: threads, threads: semaphore(threads), for_long: semaphore((threads - 1).max(1)) }
    }

    /// How many texts may be tokenized at a time.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Waits for a thread for a text of so many bytes, in turn with other callers.
    pub async fn acquire(&self, caller: &Identity, bytes: usize) -> Result<Tokenizer, Closed> {
        let _waits = metrics::waits_for_tokenizer();
        let long =
            if bytes > LONG_TEXT_BYTES { Some(self.for_long.acquire(caller.connection, bytes).await?) } else { None };
        Ok(Tokenizer { _thread: self.threads.acquire(caller.connection, bytes).await?, _long: long })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether it is there without waiting.
    fn at_once(acquire: impl Future<Output = Result<Tokenizer, Closed>>) -> Option<Tokenizer> {
        let mut acquire = std::pin::pin!(acquire);
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match acquire.as_mut().poll(&mut context) {
            std::task::Poll::Ready(tokenizer) => tokenizer.ok(),
            std::task::Poll::Pending => None,
        }
    }

    #[test]
    fn a_thread_is_left_for_short_texts() {
        for threads in 2..5 {
            let tokenizers = Tokenizers::new(threads);
            let (a, b) = (Identity::new("test", None), Identity::new("test", None));
            let long = |caller| at_once(tokenizers.acquire(caller, LONG_TEXT_BYTES + 1));
            let mut held: Vec<_> = (1..threads).map(|_| long(&a).unwrap()).collect();
            assert!(long(&a).is_none() && long(&b).is_none());
            let short = at_once(tokenizers.acquire(&b, 100)).expect("one is left");
            assert!(at_once(tokenizers.acquire(&b, 100)).is_none());
            drop(short);
            held.pop();
            assert!(long(&b).is_some());
        }
    }

    #[test]
    fn one_caller_may_hold_all_threads_while_nobody_else_wants_one() {
        let tokenizers = Tokenizers::new(3);
        let caller = Identity::new("test", None);
        let held: Vec<_> = (0..3).filter_map(|_| at_once(tokenizers.acquire(&caller, 1000))).collect();
        assert_eq!(held.len(), 3);
    }

    /// With one thread there is none to leave: long texts are tokenized all the same.
    #[test]
    fn one_thread_serves_all() {
        let tokenizers = Tokenizers::new(1);
        let caller = Identity::new("test", None);
        assert!(at_once(tokenizers.acquire(&caller, LONG_TEXT_BYTES + 1)).is_some());
        assert!(at_once(tokenizers.acquire(&caller, 1)).is_some());
    }
}
