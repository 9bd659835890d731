//! Several ranks at work: a thread each, all on the same pass.
//!
//! Invariant: a pass ends, whatever goes wrong on a rank. Ranks that share memory hear of a failure at their next call and come
//! back, so that the next pass can succeed. Ranks on GPUs cannot be called back while they wait inside NCCL for one that failed:
//! they are given [`GPU_PATIENCE`], then the pass fails for good, and their threads are left behind.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::error::{PassError, reason};
use super::rank::Rank;
use crate::model::collective::{Collective, Exchange};
use crate::model::error::ModelError;
use crate::model::network::backbone::Pass;
use crate::model::prefix_cache::Resumed;

/// How long ranks on GPUs may take after the first of them is back. They finish together, so this is ample.
const GPU_PATIENCE: Duration = Duration::from_secs(2);

/// How long ranks that share memory may take after one has failed. They hear of it at their next call, which the layers of a
/// large model put off for seconds.
const MEMORY_PATIENCE: Duration = Duration::from_secs(60);

/// How ranks reach each other.
pub enum Wire {
    /// Through memory. Every pass gets a new [`Exchange`], so that a failed pass leaves nothing to the next.
    Memory,
    /// From GPU to GPU, by one communicator for each rank, for all passes.
    Gpus(Vec<Arc<dyn Collective>>),
}

/// The threads of several ranks.
pub struct Team {
    orders: Vec<Sender<Order>>,
    threads: Vec<JoinHandle<()>>,
    wire: Wire,
    patience: Duration,
    /// Why there will be no further pass.
    lost: OnceLock<String>,
}

/// A pass, for one rank. It is answered exactly once: if nobody answers it, its end does.
struct Order {
    rank: usize,
    rest: Arc<Resumed>,
    seat: Arc<dyn Collective>,
    answers: Option<Sender<Answer>>,
}

/// What became of a rank's part in a pass.
enum Answer {
    /// What it has computed.
    Hidden(Vec<f32>),
    /// The reason that counts for all ranks: the first.
    Failed(String),
    /// Its thread has ended.
    Gone(String),
}

impl Order {
    fn answer(mut self, answer: Answer) {
        if let Some(answers) = self.answers.take() {
            // Once a pass has failed for good, nobody listens.
            let _ = answers.send(answer);
        }
    }
}

impl Drop for Order {
    fn drop(&mut self) {
        if let Some(answers) = self.answers.take() {
            let _ = answers.send(Answer::Gone(format!("rank {} failed: its thread has ended", self.rank)));
        }
    }
}

impl Team {
    /// Starts the ranks' threads.
    pub fn start(ranks: &[Arc<Rank>], wire: Wire) -> Result<Self, ModelError> {
        let patience = match wire {
            Wire::Memory => MEMORY_PATIENCE,
            Wire::Gpus(_) => GPU_PATIENCE,
        };
        Self::start_with(ranks, wire, patience)
    }

    pub(super) fn start_with(ranks: &[Arc<Rank>], wire: Wire, patience: Duration) -> Result<Self, ModelError> {
        let mut team = Self { orders: Vec::new(), threads: Vec::new(), wire, patience, lost: OnceLock::new() };
        for (i, rank) in ranks.iter().enumerate() {
            let (order, orders) = channel();
            let rank = Arc::clone(rank);
            let thread = std::thread::Builder::new().name(format!("rank-{i}")).spawn(move || work(&rank, orders));
            team.threads.push(thread.map_err(|e| ModelError::Threads { threads: ranks.len(), reason: e.to_string() })?);
            team.orders.push(order);
        }
        Ok(team)
    }

    /// One pass on all ranks; what one of them computed, which they all did. After [`PassError::Fatal`] every later pass
    /// fails with the same reason, at once.
    pub fn forward(&self, rest: Resumed) -> Result<Vec<f32>, PassError> {
        if let Some(reason) = self.lost.get() {
            return Err(PassError::Fatal(reason.clone()));
        }
        let (failure, missing, gone, hidden) = self.collect(&self.order(rest));
        let on_gpus = matches!(self.wire, Wire::Gpus(_));
        match (failure, hidden) {
            (None, Some(values)) if missing == 0 => Ok(values),
            // The other ranks are back, and meet around a new exchange.
            (Some(reason), _) if missing == 0 && !gone && !on_gpus => Err(PassError::Failed(reason)),
            (failure, _) => {
                let mut reason = failure.unwrap_or_else(|| "ranks did not finish a pass together".into());
                if missing > 0 {
                    reason += &format!("; {missing} of {} ranks did not come back", self.orders.len());
                }
                let reason = self.lost.get_or_init(|| reason);
                tracing::error!(reason, "a rank is lost: there will be no further pass");
                Err(PassError::Fatal(reason.clone()))
            }
        }
    }

    /// Gives each rank its part of a pass.
    fn order(&self, rest: Resumed) -> Receiver<Answer> {
        let rest = Arc::new(rest);
        let (answer, answers) = channel();
        for (rank, (order, seat)) in self.orders.iter().zip(self.seats()).enumerate() {
            // If the thread has ended, the order comes back, and its drop is the answer.
            drop(order.send(Order { rank, rest: Arc::clone(&rest), seat, answers: Some(answer.clone()) }));
        }
        answers
    }

    /// Waits for the ranks. What comes back: the first failure, how many ranks did not answer, whether a thread has ended, and
    /// what was computed.
    fn collect(&self, answers: &Receiver<Answer>) -> (Option<String>, usize, bool, Option<Vec<f32>>) {
        let (mut failure, mut gone, mut hidden) = (None, false, None);
        let mut missing = self.orders.len();
        let mut until: Option<Instant> = None;
        while missing > 0 {
            let answer = match until {
                None => answers.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(until) => answers.recv_timeout(until.saturating_duration_since(Instant::now())),
            };
            match answer {
                Ok(Answer::Hidden(values)) => hidden = Some(values),
                Ok(Answer::Failed(reason)) => failure = failure.or(Some(reason)),
                Ok(Answer::Gone(reason)) => {
                    gone = true;
                    failure = failure.or(Some(reason));
                }
                Err(_) => break,
            }
            missing -= 1;
            if failure.is_some() || matches!(self.wire, Wire::Gpus(_)) {
                until.get_or_insert_with(|| Instant::now() + self.patience);
            }
        }
        (failure, missing, gone, hidden)
    }

    /// Where the ranks sit in one pass.
    fn seats(&self) -> Vec<Arc<dyn Collective>> {
        match &self.wire {
            Wire::Memory => {
                let exchange = Exchange::new(self.orders.len());
                (0..self.orders.len()).map(|rank| Arc::new(exchange.seat(rank)) as Arc<dyn Collective>).collect()
            }
            Wire::Gpus(seats) => seats.clone(),
        }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.orders.clear();
        // A rank that did not come back would be waited for without end.
        if self.lost.get().is_none() {
            for thread in self.threads.drain(..) {
                let _ = thread.join();
            }
        }
    }
}

/// A rank's thread: pass after pass, until there are no more orders.
fn work(rank: &Rank, orders: Receiver<Order>) {
    for order in orders {
        let pass = Pass::of(&order.rest, order.seat.as_ref());
        let answer = match catch_unwind(AssertUnwindSafe(|| rank.forward(&pass))) {
            Ok(Ok(hidden)) => Answer::Hidden(hidden),
            Ok(Err(e)) => Answer::Failed(order.seat.fail(&reason(&e))),
            Err(_) => Answer::Failed(order.seat.fail("it panicked")),
        };
        order.answer(answer);
    }
}
