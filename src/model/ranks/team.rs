//! Several ranks at work: a thread each, all on the same pass.
//!
//! Invariant: a pass ends, whatever goes wrong on a rank. Ranks that share memory are all back when it does, and the next
//! pass is well. Ranks on GPUs cannot be called back while they wait for one that failed: the pass ends with its reason,
//! and the process shortly after.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use candle_core::{Error, Result};

use super::rank::Rank;
use crate::model::collective::{Collective, Exchange};
use crate::model::error::ModelError;
use crate::model::network::backbone::Pass;
use crate::model::prefix_cache::Resumed;

/// How long the answers to a failed micro-batch have to leave before the process ends. Nobody here sees them leave.
const FAREWELL: Duration = Duration::from_secs(2);

/// What the command line ends with where it is not the user's fault.
const INTERNAL: i32 = 3;

/// How ranks reach each other.
pub enum Wire {
    /// Through memory. Every pass gets a new table to meet around, so that nothing of a failed one is left.
    Memory,
    /// From GPU to GPU, by a seat for each rank that is its for good.
    Gpus(Vec<Arc<dyn Collective>>),
}

/// The threads of several ranks.
pub struct Team {
    orders: Vec<Sender<Order>>,
    threads: Vec<JoinHandle<()>>,
    wire: Wire,
    /// Why there will be no further pass.
    lost: OnceLock<String>,
    /// What is done about it.
    on_loss: fn(&str),
}

/// A pass, for one rank.
struct Order {
    rest: Arc<Resumed>,
    seat: Arc<dyn Collective>,
    answers: Sender<Answer>,
}

/// What a rank has computed, or the reason that counts for all.
type Answer = std::result::Result<Vec<f32>, String>;

impl Team {
    /// Starts the ranks' threads.
    pub fn start(ranks: &[Arc<Rank>], wire: Wire) -> std::result::Result<Self, ModelError> {
        Self::start_with(ranks, wire, end_process)
    }

    fn start_with(ranks: &[Arc<Rank>], wire: Wire, on_loss: fn(&str)) -> std::result::Result<Self, ModelError> {
        let mut team = Self { orders: Vec::new(), threads: Vec::new(), wire, lost: OnceLock::new(), on_loss };
        for (i, rank) in ranks.iter().enumerate() {
            let (order, orders) = channel();
            let rank = Arc::clone(rank);
            let thread = std::thread::Builder::new().name(format!("rank-{i}")).spawn(move || work(&rank, &orders));
            team.threads.push(thread.map_err(|e| ModelError::Threads { threads: ranks.len(), reason: e.to_string() })?);
            team.orders.push(order);
        }
        Ok(team)
    }

    /// One pass on all ranks; what the first of them computed, which they all did.
    pub fn forward(&self, rest: Resumed) -> Result<Vec<f32>> {
        if let Some(reason) = self.lost.get() {
            return Err(Error::Msg(reason.clone()));
        }
        let rest = Arc::new(rest);
        let (answer, answers) = channel();
        for (order, seat) in self.orders.iter().zip(self.seats()) {
            let (rest, answers) = (Arc::clone(&rest), answer.clone());
            // Should a thread be gone, so is its seat, which the others notice, and its answer.
            let _ = order.send(Order { rest, seat, answers });
        }
        drop(answer);
        let mut hidden = Vec::with_capacity(self.orders.len());
        let mut failure = None;
        for answer in answers {
            match (answer, &self.wire) {
                (Ok(values), _) => hidden.push(values),
                (Err(reason), Wire::Memory) => failure = Some(reason),
                (Err(reason), Wire::Gpus(_)) => {
                    (self.on_loss)(self.lost.get_or_init(|| reason.clone()));
                    return Err(Error::Msg(reason));
                }
            }
        }
        match (failure, hidden.pop()) {
            (None, Some(values)) if hidden.len() + 1 == self.orders.len() => Ok(values),
            (failure, _) => Err(Error::Msg(failure.unwrap_or_else(|| "a rank's thread is gone".into()))),
        }
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
        // Lost ranks do not come back.
        if self.lost.get().is_none() {
            for thread in self.threads.drain(..) {
                let _ = thread.join();
            }
        }
    }
}

/// A rank's thread: pass after pass, until there are no more orders.
fn work(rank: &Rank, orders: &Receiver<Order>) {
    for Order { rest, seat, answers } in orders {
        let pass = Pass::of(&rest, seat.as_ref());
        let answer = match catch_unwind(AssertUnwindSafe(|| rank.forward(&pass))) {
            Ok(hidden) => hidden.map_err(|e| seat.fail(&e.to_string())),
            Err(_) => Err(seat.fail("it panicked")),
        };
        drop(seat);
        // Once a pass is lost, nobody listens.
        let _ = answers.send(answer);
    }
}

/// Ends the process, soon and for certain.
fn end_process(reason: &str) {
    tracing::error!(reason, exit = INTERNAL, "a rank failed while others wait for it on their GPUs: the process ends");
    let farewell = || {
        std::thread::sleep(FAREWELL);
        // The end of a process runs what libraries left for it, of which the driver's may wait for the GPUs.
        let _ = std::thread::Builder::new().spawn(|| {
            std::thread::sleep(FAREWELL);
            std::process::abort();
        });
        std::process::exit(INTERNAL);
    };
    if std::thread::Builder::new().name("farewell".into()).spawn(farewell).is_err() {
        std::process::abort();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc;

    use candle_core::{Device, Tensor, bail};

    use crate::batch::MicroBatch;
    use crate::model::network::backbone::Backbone;
    use crate::model::ranks::pool;
    use crate::model::ranks::team::*;

    /// A rank that adds up what all ranks say, unless the first token asks it to fail.
    struct Says(f32);

    /// Tokens that make rank 1 fail in its own way.
    const ERROR: u32 = 1;
    const PANIC: u32 = 2;

    impl Backbone for Says {
        fn bytes(&self) -> usize {
            0
        }

        fn forward(&self, pass: &Pass) -> Result<Tensor> {
            let before = Tensor::from_vec(vec![self.0], (1, 1), &Device::Cpu)?;
            let first = pass.ranks.all_reduce(&before)?;
            match (pass.ranks.rank(), pass.batch.tokens[0]) {
                (1, ERROR) => bail!("no memory left"),
                (1, PANIC) => panic!("a broken rank"),
                _ => pass.ranks.all_reduce(&first),
            }
        }
    }

    fn ranks(says: &[f32]) -> Vec<Arc<Rank>> {
        says.iter().map(|&says| Arc::new(Rank::new(Box::new(Says(says)), Arc::new(pool(1).unwrap()), 0))).collect()
    }

    fn pass(team: &Team, token: u32) -> std::result::Result<Vec<f32>, String> {
        let batch = MicroBatch::pack(&[[token]], true);
        let hidden = team.forward(Resumed { batch, reads: vec![0], ..Resumed::default() });
        // A backtrace may follow.
        hidden.map_err(|e| e.to_string().lines().next().unwrap_or_default().to_owned())
    }

    #[test]
    fn a_rank_that_fails_fails_the_pass_and_the_next_one_is_well() {
        let team = Team::start(&ranks(&[1.0, 2.0, 4.0]), Wire::Memory).unwrap();
        for _ in 0..20 {
            assert_eq!(pass(&team, 0).unwrap(), [21.0]);
            assert_eq!(pass(&team, ERROR).unwrap_err(), "rank 1 failed: no memory left");
            assert_eq!(pass(&team, PANIC).unwrap_err(), "rank 1 failed: it panicked");
        }
    }

    /// A seat as on a GPU: nobody hears of a failure, and who waits for a rank that does not come waits on.
    struct Deaf {
        rank: usize,
        /// Silent until the test is over.
        others: Mutex<mpsc::Receiver<()>>,
    }

    impl Collective for Deaf {
        fn rank(&self) -> usize {
            self.rank
        }

        fn world(&self) -> usize {
            2
        }

        fn all_reduce(&self, x: &Tensor) -> Result<Tensor> {
            if self.rank == 0 {
                let _ = self.others.lock().unwrap().recv();
            }
            Ok(x.clone())
        }

        fn all_gather(&self, x: &Tensor) -> Result<Tensor> {
            Ok(x.clone())
        }

        fn broadcast(&self, x: &Tensor, _root: usize) -> Result<Tensor> {
            Ok(x.clone())
        }

        fn fail(&self, reason: &str) -> String {
            format!("rank {} failed: {reason}", self.rank)
        }
    }

    #[test]
    fn who_waits_on_a_gpu_is_not_waited_for() {
        static LOSSES: Mutex<Vec<String>> = Mutex::new(Vec::new());
        let (over, others): (Vec<_>, Vec<_>) = (0..2).map(|_| mpsc::channel()).unzip();
        let seat = |(rank, others)| Arc::new(Deaf { rank, others: Mutex::new(others) }) as Arc<dyn Collective>;
        let wire = Wire::Gpus(others.into_iter().enumerate().map(seat).collect());
        let on_loss = |reason: &str| LOSSES.lock().unwrap().push(reason.to_owned());
        let team = Team::start_with(&ranks(&[1.0, 2.0]), wire, on_loss).unwrap();
        for _ in 0..3 {
            assert_eq!(pass(&team, PANIC).unwrap_err(), "rank 1 failed: it panicked");
        }
        assert_eq!(*LOSSES.lock().unwrap(), ["rank 1 failed: it panicked"], "once");
        drop(team);
        drop(over);
    }
}
