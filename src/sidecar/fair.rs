//! A bounded resource that callers share fairly: who waits for it is admitted by deficit round robin between the callers, and in
//! order of arrival within a caller.
//!
//! Invariants, each a property test: never more is held than there is; nobody waits for what is free; while two callers both wait,
//! what they are admitted with differs by a bounded amount, however large the requests of one of them are; and a request that is
//! dropped gives back its place in the line, or what it was admitted with.

mod round_robin;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

pub(super) use self::round_robin::RoundRobin;

/// A semaphore over places and units: a request takes one place and some units, and is charged by its units. See the module.
#[derive(Debug, Clone)]
pub(super) struct FairSemaphore(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// What there is of units, so that a request for more than that is admitted alone.
    all_units: usize,
}

#[derive(Debug)]
struct State {
    free_places: usize,
    free_units: usize,
    /// Requests that wait, by caller, each caller's in order of arrival. No caller's map is empty.
    waiting: HashMap<u64, BTreeMap<u64, Request>>,
    turns: RoundRobin,
    /// Numbers requests in order of arrival.
    next_number: u64,
    closed: bool,
}

#[derive(Debug)]
struct Request {
    units: usize,
    admitted: oneshot::Sender<Permit>,
}

/// What a request was admitted with; given back when dropped.
#[derive(Debug)]
pub struct Permit {
    shared: Arc<Shared>,
    units: usize,
}

/// Nobody is admitted any more.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Closed;

impl FairSemaphore {
    /// A semaphore with so many places and units. Each caller's turn is worth about `quantum` units: the smaller it is, the finer
    /// turns alternate.
    pub fn new(places: usize, units: usize, quantum: usize) -> Self {
        let state = State {
            free_places: places,
            free_units: units,
            waiting: HashMap::new(),
            turns: RoundRobin::new(quantum),
            next_number: 0,
            closed: false,
        };
        Self(Arc::new(Shared { state: Mutex::new(state), all_units: units }))
    }

    /// A place and so many units, where they are free and nobody waits for them.
    pub fn try_acquire(&self, units: usize) -> Option<Permit> {
        let units = units.min(self.0.all_units);
        self.0.lock().try_take(units).then(|| self.permit(units))
    }

    /// The same, waited for in turn with the other callers. To be dropped by who gives up.
    pub async fn acquire(&self, caller: u64, units: usize) -> Result<Permit, Closed> {
        match self.request(caller, units)? {
            Admission::Now(permit) => Ok(permit),
            Admission::Waits(mut wait) => (&mut wait.admitted).await.map_err(|_| Closed),
        }
    }

    /// Nobody is admitted any more, and those who wait are told.
    pub fn close(&self) {
        let waiting = {
            let mut state = self.0.lock();
            state.closed = true;
            std::mem::take(&mut state.waiting)
        };
        // Dropping the senders wakes tasks: not under the lock.
        drop(waiting);
    }

    fn request(&self, caller: u64, units: usize) -> Result<Admission, Closed> {
        let units = units.min(self.0.all_units);
        let mut state = self.0.lock();
        if state.closed {
            return Err(Closed);
        }
        if state.try_take(units) {
            drop(state);
            return Ok(Admission::Now(self.permit(units)));
        }
        let (sender, admitted) = oneshot::channel();
        let number = state.next_number;
        state.next_number += 1;
        state.waiting.entry(caller).or_default().insert(number, Request { units, admitted: sender });
        state.turns.join(caller);
        Ok(Admission::Waits(Wait { shared: Arc::clone(&self.0), caller, number, admitted }))
    }

    fn permit(&self, units: usize) -> Permit {
        Permit { shared: Arc::clone(&self.0), units }
    }
}

impl Shared {
    /// Nothing panics while the state is half-changed, so a poisoned lock is still sound.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, and admits who can be admitted then.
    fn change(self: &Arc<Self>, change: impl FnOnce(&mut State)) {
        let admitted = {
            let mut state = self.lock();
            change(&mut state);
            state.admit()
        };
        // Sending wakes tasks, and a permit that nobody receives any more is given back here: not under the lock.
        for Request { units, admitted } in admitted {
            drop(admitted.send(Permit { shared: Arc::clone(self), units }));
        }
    }
}

impl State {
    fn try_take(&mut self, units: usize) -> bool {
        let free = !self.closed && self.waiting.is_empty() && self.free_places > 0 && self.free_units >= units;
        if free {
            self.free_places -= 1;
            self.free_units -= units;
        }
        free
    }

    /// Takes out the requests that can be admitted, in turn. One that does not fit yet holds up those after it, or it might wait
    /// for ever.
    fn admit(&mut self) -> Vec<Request> {
        let mut admitted = Vec::new();
        while self.free_places > 0 {
            let first = |caller| self.waiting.get(&caller).and_then(|line| line.values().next());
            let Some(caller) = self.turns.next(|caller| first(caller).map(|request| request.units)) else { break };
            let Some(line) = self.waiting.get_mut(&caller) else { break };
            let Some(first) = line.first_entry().filter(|first| first.get().units <= self.free_units) else { break };
            let request = first.remove();
            if line.is_empty() {
                self.forget(caller);
            } else {
                self.turns.charge(caller, request.units);
            }
            self.free_places -= 1;
            self.free_units -= request.units;
            admitted.push(request);
        }
        admitted
    }

    /// The caller waits for nothing any more.
    fn forget(&mut self, caller: u64) {
        self.waiting.remove(&caller);
        self.turns.leave(caller);
    }
}

enum Admission {
    Now(Permit),
    Waits(Wait),
}

/// A request in the line; leaves it when dropped.
#[derive(Debug)]
struct Wait {
    shared: Arc<Shared>,
    caller: u64,
    number: u64,
    admitted: oneshot::Receiver<Permit>,
}

impl Drop for Wait {
    fn drop(&mut self) {
        // Without it others may fit. Where it was admitted meanwhile it is not in the line, and its permit goes with the receiver.
        self.shared.change(|state| {
            if let Some(line) = state.waiting.get_mut(&self.caller) {
                line.remove(&self.number);
                if line.is_empty() {
                    state.forget(self.caller);
                }
            }
        });
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.shared.change(|state| {
            state.free_places += 1;
            state.free_units += self.units;
        });
    }
}

#[cfg(test)]
mod tests;
