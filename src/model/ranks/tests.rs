//! Tests of ranks that fail, panic, stay away, or whose thread ends.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use candle_core::{Device, Result, Tensor, bail};

use super::rank::Rank;
use super::team::{Team, Wire};
use super::{PassError, Place, Ranks, pool};
use crate::batch::MicroBatch;
use crate::engine::EngineError;
use crate::model::collective::Collective;
use crate::model::compute::backend::Backend;
use crate::model::compute::kernels::WeightType;
use crate::model::error::ModelError;
use crate::model::network::backbone::{Backbone, Pass, RankContext};
use crate::model::prefix_cache::Resumed;

/// Short, where the test holds a rank back for as long as it runs: how long it is decides nothing.
const PATIENCE: Duration = Duration::from_millis(20);

/// Tokens that make ranks fail, each in its own way.
const ERROR: u32 = 1;
const PANIC: u32 = 2;
/// Rank 1 fails, and rank 0 does not return.
const STUCK: u32 = 3;
/// Rank 0 does not return, and no rank fails.
const LATE: u32 = 4;

/// A rank that adds up what all ranks say.
struct Says {
    value: f32,
    /// Silent until the test is over.
    over: Mutex<Receiver<()>>,
}

impl Backbone for Says {
    fn bytes(&self) -> usize {
        0
    }

    fn adapted(&self, _: &RankContext) -> std::result::Result<Box<dyn Backbone>, ModelError> {
        unreachable!("no test here loads an adapter")
    }

    fn forward(&self, pass: &Pass) -> Result<Tensor> {
        match (pass.ranks.rank(), pass.batch.tokens[0]) {
            (0, STUCK | LATE) => {
                let _ = self.over.lock().unwrap().recv();
                bail!("the test is over")
            }
            (1, STUCK) => bail!("no memory left"),
            (_, LATE) => Tensor::from_vec(vec![self.value], (1, 1), &Device::Cpu),
            (rank, token) => {
                let before = Tensor::from_vec(vec![self.value], (1, 1), &Device::Cpu)?;
                let first = pass.ranks.all_reduce(&before)?;
                match (rank, token) {
                    (1, ERROR) => bail!("no memory left"),
                    (1, PANIC) => panic!("a broken rank"),
                    _ => pass.ranks.all_reduce(&first),
                }
            }
        }
    }
}

/// Ranks, and what ends the wait of those that do not return: it is dropped when the test is over.
fn ranks(values: &[f32]) -> (Vec<Arc<Rank>>, Vec<Sender<()>>) {
    let (over, waits): (Vec<_>, Vec<_>) = values.iter().map(|_| channel()).unzip();
    let rank = |(&value, over): (&f32, Receiver<()>)| {
        let says = Says { value, over: Mutex::new(over) };
        Arc::new(Rank::new(Box::new(says), Arc::new(pool(1, None).unwrap()), 0))
    };
    (values.iter().zip(waits).map(rank).collect(), over)
}

fn pass(team: &Team, token: u32) -> std::result::Result<Vec<f32>, PassError> {
    let batch = MicroBatch::pack(&[[token]], true);
    team.forward(Resumed { batch, reads: vec![0], ..Resumed::default() })
}

fn failed(reason: &str) -> PassError {
    PassError::Failed(reason.into())
}

fn fatal(reason: &str) -> PassError {
    PassError::Fatal(reason.into())
}

#[test]
fn a_rank_that_fails_fails_the_pass_and_the_next_one_is_well() {
    let (ranks, _over) = ranks(&[1.0, 2.0, 4.0]);
    let team = Team::start(&ranks, Wire::Memory).unwrap();
    for _ in 0..20 {
        assert_eq!(pass(&team, 0).unwrap(), [21.0]);
        assert_eq!(pass(&team, ERROR).unwrap_err(), failed("rank 1 failed: no memory left"));
        assert_eq!(pass(&team, PANIC).unwrap_err(), failed("rank 1 failed: it panicked"));
    }
}

#[test]
fn a_rank_that_never_returns_ends_the_engine_and_not_the_process() {
    let (ranks, over) = ranks(&[1.0, 2.0]);
    let team = Team::start_with(&ranks, Wire::Memory, PATIENCE).unwrap();
    let place = Place { backend: Backend::Kernels(WeightType::F32), devices: Vec::new(), slots: 0 };
    let ranks = Ranks { ranks, team: Some(team), cache: None, bytes_per_token: 0, pass: Arc::default(), place };
    let batch = MicroBatch::pack(&[[STUCK]], true);
    let reason = "rank 1 failed: no memory left; 1 of 2 ranks did not come back";
    // Every later pass says so, whatever it asks for.
    for batch in [batch, MicroBatch::pack(&[[0]], true), MicroBatch::pack(&[[0]], true)] {
        let error = EngineError::from(ranks.forward(&batch, &[0]).err().unwrap());
        assert!(matches!(&error, EngineError::Fatal(found) if found == reason), "{error}");
    }
    // Nor does dropping it wait.
    drop(ranks);
    drop(over);
}

/// A seat as on a GPU: nobody hears of a failure, and who waits for a rank that does not come waits on.
struct Deaf {
    rank: usize,
    /// Silent until the test is over.
    others: Mutex<Receiver<()>>,
    /// Whether saying that it fails ends the rank's thread.
    dies: bool,
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
        assert!(!self.dies, "a thread that ends");
        format!("rank {} failed: {reason}", self.rank)
    }
}

/// Two ranks as on GPUs, and what ends their waits.
fn on_gpus(dies: bool) -> (Team, Vec<Sender<()>>) {
    let (mut over, others): (Vec<_>, Vec<_>) = (0..2).map(|_| channel()).unzip();
    let seat = |(rank, others)| Arc::new(Deaf { rank, others: Mutex::new(others), dies }) as Arc<dyn Collective>;
    let wire = Wire::Gpus(others.into_iter().enumerate().map(seat).collect());
    let (ranks, more) = ranks(&[1.0, 2.0]);
    over.extend(more);
    (Team::start_with(&ranks, wire, PATIENCE).unwrap(), over)
}

#[test]
fn a_rank_that_waits_on_a_gpu_is_left_behind() {
    let (team, over) = on_gpus(false);
    for token in [PANIC, 0, 0] {
        let reason = "rank 1 failed: it panicked; 1 of 2 ranks did not come back";
        assert_eq!(pass(&team, token).unwrap_err(), fatal(reason));
    }
    drop(team);
    drop(over);
}

#[test]
fn a_rank_on_a_gpu_that_does_not_finish_with_the_others_is_left_behind() {
    let (team, over) = on_gpus(false);
    let reason = "ranks did not finish a pass together; 1 of 2 ranks did not come back";
    assert_eq!(pass(&team, LATE).unwrap_err(), fatal(reason));
    drop(team);
    drop(over);
}

#[test]
fn a_thread_that_has_ended_is_not_waited_for() {
    let (team, over) = on_gpus(true);
    let reason = "rank 1 failed: its thread has ended; 1 of 2 ranks did not come back";
    for token in [ERROR, 0] {
        assert_eq!(pass(&team, token).unwrap_err(), fatal(reason));
    }
    drop(team);
    drop(over);
}
