//! Ranks that are threads of one process: they hand each other their tensors in shared memory.
//!
//! Unfinished sums go from rank to rank along a line. An all-reduce is a reduce-scatter and an all-gather: rank `r` adds up the `r`-th part of all tensors, rank 0's first,
//! and everybody collects the parts. So the work is shared, and the order of summation fixed.

use std::any::Any;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Result, Tensor, bail};

use super::shard::Shard;
use super::{Collective, Line};

/// The table around which the ranks of one forward pass meet. Each pass gets a new one, so that nothing of a failed one
/// is left.
pub struct Exchange {
    world: usize,
    table: Mutex<Table>,
    changed: Condvar,
}

struct Table {
    /// What the ranks put down in this round.
    slots: Vec<Option<Arc<dyn Any + Send + Sync>>>,
    /// How many have taken what they came for.
    taken: usize,
    round: u64,
    /// Sums on their way from each rank to the next.
    on_the_way: Vec<VecDeque<Vec<f32>>>,
    /// Who will say nothing any more.
    left: Vec<bool>,
    /// Why there will be no more rounds.
    failure: Option<String>,
}

impl Exchange {
    /// A table for `world` ranks.
    pub fn new(world: usize) -> Arc<Self> {
        let table = Table {
            slots: vec![None; world],
            taken: 0,
            round: 0,
            on_the_way: vec![VecDeque::new(); world],
            left: vec![false; world],
            failure: None,
        };
        Arc::new(Self { world, table: Mutex::new(table), changed: Condvar::new() })
    }

    /// Rank `rank`'s seat. While it is held, the others count on it.
    pub fn seat(self: &Arc<Self>, rank: usize) -> ThreadRank {
        ThreadRank { exchange: Arc::clone(self), rank }
    }

    /// Ends the pass for everybody. The first reason counts, and is the answer.
    fn fail(&self, reason: String) -> String {
        let first = self.lock().failure.get_or_insert(reason).clone();
        self.changed.notify_all();
        first
    }

    /// A rank that panicked left no half-made change behind: every change is one assignment.
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until something is ready that the ranks `on` have to bring about.
    fn wait(&self, on: Range<usize>, ready: impl Fn(&Table) -> bool) -> Result<MutexGuard<'_, Table>> {
        let mut table = self.lock();
        loop {
            // Who has everything goes on, even if somebody has left meanwhile.
            if ready(&table) {
                return Ok(table);
            }
            if let Some(reason) = &table.failure {
                bail!("{reason}");
            }
            if let Some(rank) = on.clone().find(|rank| table.left[*rank]) {
                bail!("rank {rank} failed: it left");
            }
            table = self.changed.wait(table).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Puts `mine` down and takes everybody's, in order of the ranks.
    fn meet<T: Send + Sync + 'static>(&self, rank: usize, mine: T) -> Result<Vec<Arc<T>>> {
        // The last round's things must be cleared away first.
        let mut table = self.wait(0..self.world, |table| table.slots[rank].is_none())?;
        table.slots[rank] = Some(Arc::new(mine));
        let round = table.round;
        self.changed.notify_all();
        drop(table);
        let everybody = |table: &Table| table.round == round && table.slots.iter().all(Option::is_some);
        let mut table = self.wait(0..self.world, everybody)?;
        let all: Option<Vec<Arc<T>>> =
            table.slots.iter().map(|slot| Arc::clone(slot.as_ref()?).downcast::<T>().ok()).collect();
        table.taken += 1;
        if table.taken == self.world {
            table.taken = 0;
            table.round += 1;
            table.slots.fill(None);
            self.changed.notify_all();
        }
        drop(table);
        match all {
            Some(all) => Ok(all),
            None => bail!("ranks made different collective calls"),
        }
    }
}

/// Blocks of sums that may lie between two ranks: enough that neither waits while the other is at work on one.
const ON_THE_WAY: usize = 2;

/// One rank's seat at an [`Exchange`]. Once it is dropped, nobody waits for this rank any more.
pub struct ThreadRank {
    exchange: Arc<Exchange>,
    rank: usize,
}

impl Drop for ThreadRank {
    fn drop(&mut self) {
        if std::thread::panicking() {
            drop(self.fail("it panicked"))
        } else {
            self.exchange.lock().left[self.rank] = true;
            self.exchange.changed.notify_all();
        }
    }
}

impl Collective for ThreadRank {
    #[cfg(test)]
    fn rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.exchange.world
    }

    /// In the order of the ranks, in float32 whatever the type.
    fn all_reduce(&self, x: &Tensor) -> Result<Tensor> {
        let all = self.exchange.meet(self.rank, x.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?)?;
        if all.iter().any(|values| values.len() != x.elem_count()) {
            bail!("ranks gave tensors of different sizes to one all-reduce");
        }
        let part = Shard { rank: self.rank, world: all.len() }.of(x.elem_count());
        let mut sum = all[0][part.clone()].to_vec();
        for values in &all[1..] {
            sum.iter_mut().zip(&values[part.clone()]).for_each(|(sum, value)| *sum += value);
        }
        let parts = self.exchange.meet(self.rank, sum)?;
        let mut values = Vec::with_capacity(x.elem_count());
        parts.iter().for_each(|part| values.extend_from_slice(part));
        Tensor::from_vec(values, x.shape(), x.device())?.to_dtype(x.dtype())
    }

    fn all_gather(&self, x: &Tensor) -> Result<Tensor> {
        let all = self.exchange.meet(self.rank, x.clone())?;
        let tensors: Vec<&Tensor> = all.iter().map(AsRef::as_ref).collect();
        Tensor::cat(&tensors, candle_core::D::Minus1)
    }

    fn broadcast(&self, x: &Tensor, root: usize) -> Result<Tensor> {
        // Only the root's counts, but all meet, so that nobody runs ahead.
        let all = self.exchange.meet(self.rank, (self.rank == root).then(|| x.clone()))?;
        match all.get(root).and_then(|x| x.as_ref().as_ref()) {
            Some(x) => Ok(x.clone()),
            None => bail!("ranks named different roots of one broadcast"),
        }
    }

    fn fail(&self, reason: &str) -> String {
        self.exchange.fail(format!("rank {} failed: {reason}", self.rank))
    }

    fn line(&self) -> Option<&dyn Line> {
        Some(self)
    }
}

impl Line for ThreadRank {
    fn take(&self) -> Result<Option<Vec<f32>>> {
        let Some(before) = self.rank.checked_sub(1) else { return Ok(None) };
        let mut table = self.exchange.wait(before..self.rank, |table| !table.on_the_way[before].is_empty())?;
        let sums = table.on_the_way[before].pop_front();
        self.exchange.changed.notify_all();
        Ok(sums)
    }

    fn hand_on(&self, sums: Vec<f32>) -> Result<Option<Vec<f32>>> {
        if self.rank + 1 == self.exchange.world {
            return Ok(Some(sums));
        }
        let mut table =
            self.exchange.wait(self.rank + 1..self.rank + 2, |table| table.on_the_way[self.rank].len() < ON_THE_WAY)?;
        table.on_the_way[self.rank].push_back(sums);
        self.exchange.changed.notify_all();
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use half::bf16;

    use super::*;
    use crate::model::compute::kernels;

    /// What every rank says, each on its own thread.
    fn on<T: Send>(world: usize, say: impl Fn(ThreadRank) -> Result<T> + Sync) -> Vec<std::thread::Result<Result<T>>> {
        let exchange = Exchange::new(world);
        std::thread::scope(|scope| {
            let ranks: Vec<_> = (0..world)
                .map(|rank| {
                    let (seat, say) = (exchange.seat(rank), &say);
                    scope.spawn(move || say(seat))
                })
                .collect();
            ranks.into_iter().map(|rank| rank.join()).collect()
        })
    }

    fn tensor(values: Vec<f32>) -> Tensor {
        let n = values.len();
        Tensor::from_vec(values, (1, n), &Device::Cpu).unwrap()
    }

    fn values(rank: usize, round: usize, len: usize) -> Vec<f32> {
        (0..len).map(|i| libm::sinf((rank * 31 + round * 7 + i) as f32) * 10f32.powi(rank as i32 - 2)).collect()
    }

    #[test]
    fn sums_are_taken_in_the_order_of_the_ranks() {
        for world in [1, 2, 3, 8] {
            // Fewer values than ranks, and many rounds, so that fast ranks meet slow ones of the round before.
            for len in [1, 5, 1000] {
                let said = on(world, |rank| {
                    (0..50)
                        .map(|round| {
                            let sum = rank.all_reduce(&tensor(values(rank.rank(), round, len)))?;
                            sum.flatten_all()?.to_vec1::<f32>()
                        })
                        .collect::<Result<Vec<_>>>()
                });
                for said in said {
                    for (round, sum) in said.unwrap().unwrap().iter().enumerate() {
                        let mut expected = values(0, round, len);
                        for rank in 1..world {
                            expected.iter_mut().zip(values(rank, round, len)).for_each(|(sum, v)| *sum += v);
                        }
                        kernels::testing::assert_same_bits(sum, &expected, "sum");
                    }
                }
            }
        }
    }

    #[test]
    fn sums_of_narrow_types_are_rounded_once() {
        // Of eight bits: 256 and 1 are 257, which needs nine, and is halfway between two.
        let said = on(3, |rank| {
            let own = tensor(vec![[256.0, 1.0, 1.0][rank.rank()]]).to_dtype(DType::BF16)?;
            rank.all_reduce(&own)?.flatten_all()?.to_vec1::<bf16>()
        });
        for said in said {
            assert_eq!(said.unwrap().unwrap(), [bf16::from_f32(258.0)]);
        }
    }

    #[test]
    fn gathers_and_broadcasts() {
        let said = on(3, |rank| {
            let own = tensor(vec![rank.rank() as f32; rank.rank() + 1]);
            let gathered = rank.all_gather(&own)?.flatten_all()?.to_vec1::<f32>()?;
            Ok((gathered, rank.broadcast(&own, 1)?.flatten_all()?.to_vec1::<f32>()?))
        });
        for said in said {
            assert_eq!(said.unwrap().unwrap(), (vec![0.0, 1.0, 1.0, 2.0, 2.0, 2.0], vec![1.0, 1.0]));
        }
    }

    #[test]
    fn sums_go_along_the_line_block_by_block() {
        let blocks = 20;
        let said = on(4, |rank| {
            let line = rank.line().unwrap();
            (0..blocks)
                .map(|block| {
                    let mut sums = line.take()?.unwrap_or_else(|| vec![block as f32]);
                    sums.push(rank.rank() as f32);
                    line.hand_on(sums)
                })
                .collect::<Result<Vec<_>>>()
        });
        for (rank, said) in said.into_iter().enumerate() {
            let expected = |block| (rank == 3).then(|| vec![block as f32, 0.0, 1.0, 2.0, 3.0]);
            assert_eq!(said.unwrap().unwrap(), (0..blocks).map(expected).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_rank_that_fails_fails_the_others() {
        let said = on(4, |rank| {
            if rank.rank() == 2 {
                rank.fail("out of memory");
                bail!("out of memory");
            }
            rank.all_reduce(&tensor(vec![1.0]))
        });
        for (rank, said) in said.into_iter().enumerate() {
            let error = said.unwrap().unwrap_err().to_string();
            let expected = if rank == 2 { "out of memory" } else { "rank 2 failed: out of memory" };
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn a_rank_that_panics_fails_the_others() {
        let said = on(2, |rank| match rank.rank() {
            1 => panic!("a broken rank"),
            _ => rank.all_reduce(&tensor(vec![1.0])),
        });
        assert!(said[1].is_err());
        assert!(said[0].as_ref().unwrap().as_ref().unwrap_err().to_string().contains("rank 1 failed: it panicked"));
    }

    #[test]
    fn nobody_waits_for_a_rank_that_has_left() {
        let said = on(3, |rank| match rank.rank() {
            0 => rank.all_reduce(&tensor(vec![1.0])),
            _ => {
                rank.all_reduce(&tensor(vec![1.0]))?;
                rank.all_reduce(&tensor(vec![1.0]))
            }
        });
        assert!(said[0].as_ref().unwrap().is_ok());
        for said in &said[1..] {
            assert!(said.as_ref().unwrap().as_ref().unwrap_err().to_string().contains("rank 0 failed: it left"));
        }
    }

    #[test]
    fn ranks_that_disagree_are_told() {
        let said = on(2, |rank| match rank.rank() {
            0 => rank.all_reduce(&tensor(vec![1.0])),
            _ => rank.all_gather(&tensor(vec![1.0])),
        });
        let messages: Vec<String> = said.into_iter().map(|s| s.unwrap().unwrap_err().to_string()).collect();
        assert!(messages.iter().any(|m| m.contains("different collective calls")), "{messages:?}");
    }
}
