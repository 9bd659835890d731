//! Whose turn it is: deficit round robin (Shreedhar and Varghese 1996, <https://doi.org/10.1109/90.502236>).
//!
//! Callers stand in a ring. A caller whose turn comes is given a quantum, and served while what it was given covers the cost of what
//! it asks for next. So in every round each caller is served about as much, whatever the size of its requests.

use std::collections::{HashMap, VecDeque};

/// See the module. Costs are in the user's unit: tokens, or bytes.
#[derive(Debug, Clone)]
pub(in crate::sidecar) struct RoundRobin {
    quantum: i64,
    /// Callers and the numbers with which they joined. Entries of callers that left since then stay until their turn.
    ring: VecDeque<(u64, u64)>,
    callers: HashMap<u64, Account>,
    joined: u64,
}

#[derive(Debug, Clone, Copy)]
struct Account {
    /// What the caller may still be served with in its turn. Below zero where it was charged for what it had no turn for.
    deficit: i64,
    joined: u64,
}

impl RoundRobin {
    /// Nobody in the ring; each turn is worth `quantum`.
    pub fn new(quantum: usize) -> Self {
        let quantum = signed(quantum).max(1);
        Self { quantum, ring: VecDeque::new(), callers: HashMap::new(), joined: 0 }
    }

    /// The caller wants something: it comes last in the ring, unless it is there already.
    pub fn join(&mut self, caller: u64) {
        self.callers.entry(caller).or_insert_with(|| {
            self.joined += 1;
            self.ring.push_back((caller, self.joined));
            Account { deficit: self.quantum, joined: self.joined }
        });
    }

    /// The caller wants nothing any more. What it had left of its turn is forgotten, or it could save up for a burst.
    pub fn leave(&mut self, caller: u64) {
        self.callers.remove(&caller);
        // Amortized: at least half of the entries go.
        if self.ring.len() > 2 * self.callers.len() + 16 {
            let callers = &self.callers;
            self.ring.retain(|(caller, joined)| is_current(callers, *caller, *joined));
        }
    }

    /// Keeps only these callers.
    pub fn retain(&mut self, keep: impl Fn(u64) -> bool) {
        self.callers.retain(|caller, _| keep(*caller));
        let callers = &self.callers;
        self.ring.retain(|(caller, joined)| is_current(callers, *caller, *joined));
    }

    /// Whose turn it is of those in the ring for whom `cost` says what their next request costs; `None` where it says so of nobody.
    /// Asked again without a charge in between, it is the same caller.
    pub fn next(&mut self, cost: impl Fn(u64) -> Option<usize>) -> Option<u64> {
        loop {
            // Rounds that the caller closest to its next request still lacks.
            let mut lacking = None;
            for _ in 0..self.ring.len() {
                let &(caller, joined) = self.ring.front()?;
                let Some(account) = self.callers.get_mut(&caller).filter(|account| account.joined == joined) else {
                    self.ring.pop_front();
                    continue;
                };
                if let Some(cost) = cost(caller).map(signed) {
                    if cost <= account.deficit {
                        return Some(caller);
                    }
                    account.deficit += self.quantum;
                    let rounds = ((cost - account.deficit).max(0) + self.quantum - 1) / self.quantum;
                    lacking = Some(lacking.map_or(rounds, |least: i64| least.min(rounds)));
                }
                self.ring.rotate_left(1);
            }
            // Rounds in which nobody could be served are gone through at once, however large the requests are.
            let skipped = lacking? * self.quantum;
            if skipped > 0 {
                for (caller, account) in &mut self.callers {
                    if cost(*caller).is_some() {
                        account.deficit += skipped;
                    }
                }
            }
        }
    }

    /// The caller was served with this much.
    pub fn charge(&mut self, caller: u64, cost: usize) {
        if let Some(account) = self.callers.get_mut(&caller) {
            account.deficit -= signed(cost);
        }
    }
}

fn is_current(callers: &HashMap<u64, Account>, caller: u64, joined: u64) -> bool {
    callers.get(&caller).is_some_and(|account| account.joined == joined)
}

/// Costs are far below: even the sum of all tokens and bytes of a process is.
fn signed(cost: usize) -> i64 {
    i64::try_from(cost).unwrap_or(i64::MAX / 4).min(i64::MAX / 4)
}
