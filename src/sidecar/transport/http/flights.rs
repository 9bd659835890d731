//! Requests that ask for the same while one of them is under way: trainers' clients ask 5 to 16 times for what they have not got.
//!
//! Invariants: two requests share an answer only where all is equal that it could depend on ([`Key`]); a request that leaves ends the
//! work only where no other waits for it; nothing is kept once it is answered.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use sha2::{Digest as _, Sha256};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::reply::Reply;

/// All that an answer depends on, as a hash (SHA-256).
pub(super) type Key = [u8; 32];

/// The key of these parts, which are told apart by their lengths.
pub(super) fn key(parts: &[&[u8]]) -> Key {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

/// The requests that are under way.
#[derive(Clone, Default)]
pub(super) struct Flights(Arc<Mutex<HashMap<Key, Weak<Flight>>>>);

/// One of them, held by all who wait for its reply.
pub(super) struct Flight {
    reply: watch::Receiver<Option<Reply>>,
    work: AbortHandle,
    key: Key,
    flights: Flights,
}

impl Flights {
    /// The work under this key that is under way, or else what `begin` gives, begun now; and whether it is the latter.
    pub fn join<W: Future<Output = Reply> + Send + 'static>(
        &self,
        key: Key,
        begin: impl FnOnce() -> W,
    ) -> (Arc<Flight>, bool) {
        let mut flights = self.lock();
        if let Some(flight) = flights.get(&key).and_then(Weak::upgrade) {
            drop(flights);
            return (flight, false);
        }
        let (answer, reply) = watch::channel(None);
        let answered = self.clone();
        let work = begin();
        let work = tokio::spawn(async move {
            let reply = work.await;
            // First: who comes from now on asks anew.
            answered.lock().remove(&key);
            answer.send_replace(Some(reply));
        });
        let flight = Flight { reply, work: work.abort_handle(), key, flights: self.clone() };
        let flight = Arc::new(flight);
        flights.insert(key, Arc::downgrade(&flight));
        (flight, true)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Weak<Flight>>> {
        // Inserting and removing cannot panic half-way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Flight {
    /// The reply; `None` where the work panicked.
    pub async fn reply(&self) -> Option<Reply> {
        let mut reply = self.reply.clone();
        let there = reply.wait_for(Option::is_some).await;
        there.ok().and_then(|reply| reply.clone())
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.work.abort();
        let mut flights = self.flights.lock();
        // Another may be under way by now.
        if flights.get(&self.key).is_some_and(|flight| flight.strong_count() == 0) {
            flights.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;
    use tokio::sync::oneshot;

    use super::*;

    #[test]
    fn parts_are_told_apart() {
        assert_ne!(key(&[b"ab", b"c"]), key(&[b"a", b"bc"]));
        assert_ne!(key(&[b"a"]), key(&[b"a", b""]));
        assert_eq!(key(&[b"a", b"b"]), key(&[b"a", b"b"]));
    }

    async fn after(gate: oneshot::Receiver<()>, text: &str) -> Reply {
        drop(gate.await);
        Reply::of(StatusCode::OK, &text)
    }

    #[tokio::test]
    async fn equals_share_the_work_and_who_leaves_ends_nothing() {
        let flights = Flights::default();
        let (open, gate) = oneshot::channel();
        let (first, began) = flights.join(key(&[b"a"]), || after(gate, "first"));
        assert!(began);
        let (_never, gate) = oneshot::channel();
        let (second, began) = flights.join(key(&[b"a"]), || after(gate, "second"));
        assert!(!began);
        drop(first);
        open.send(()).unwrap();
        assert_eq!(second.reply().await.unwrap().body, "\"first\"");
        // Answered: who asks now asks anew, though the flight is still held.
        let (open, gate) = oneshot::channel();
        let (third, began) = flights.join(key(&[b"a"]), || after(gate, "third"));
        assert!(began);
        drop(second);
        let (fourth, began) = flights.join(key(&[b"a"]), || async { unreachable!("joined") });
        assert!(!began, "the third is still under way");
        open.send(()).unwrap();
        assert_eq!(third.reply().await.unwrap().body, "\"third\"");
        assert_eq!(fourth.reply().await.unwrap().body, "\"third\"");
        drop((third, fourth));
        assert!(flights.lock().is_empty());
    }

    #[tokio::test]
    async fn the_last_who_leaves_ends_the_work() {
        let flights = Flights::default();
        let (held, dropped) = oneshot::channel::<()>();
        let work = async move {
            let _held = held;
            std::future::pending().await
        };
        let (first, _) = flights.join(key(&[b"a"]), || work);
        let (second, _) = flights.join(key(&[b"a"]), || async { unreachable!("joined") });
        drop(first);
        assert!(!flights.lock().is_empty());
        drop(second);
        // The work is gone, and its end of the channel with it.
        dropped.await.unwrap_err();
        assert!(flights.lock().is_empty());
    }
}
