//! Ranks on the GPUs of one machine: NCCL, ordered on the streams on which candle computes.
//!
//! Invariant: all ranks of a group make the same calls in the same order, with tensors of the same type and, but for the
//! last dimension of an all-gather, the same shape. A call returns when it is enqueued; what reads its result on the same
//! device comes after it, on the same stream. A rank that stays away leaves the others waiting on their GPUs, which only
//! the end of the process ends.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use candle_core::cuda::cudarc::driver::{CudaSlice, DeviceRepr};
use candle_core::cuda::cudarc::nccl::{Comm, NcclType, ReduceOp, result::NcclError};
use candle_core::cuda::{CudaDType, CudaStorageSlice};
use candle_core::{CpuStorage, CudaDevice, CudaStorage, CustomOp1, Device, Error, Layout, Result, Shape, Tensor, bail};

use super::Collective;

/// One rank of a group.
pub struct Nccl {
    communicator: Mutex<Communicator>,
    rank: usize,
    world: usize,
}

/// A communicator that may move between threads.
struct Communicator(Comm);

// SAFETY: what keeps `Comm` from being `Send` is its pointer to NCCL's communicator. NCCL lets any thread use a
// communicator as long as one thread does at a time (user guide, "Thread Safety"); `Nccl` keeps it in a mutex, and
// nothing else has the pointer. Nor is it tied to the GPU that is current to a thread: the guide's example of one thread
// with many GPUs calls NCCL, to its end, without ever choosing one.
#[allow(unsafe_code)]
unsafe impl Send for Communicator {}

#[derive(Debug, Clone, Copy)]
enum Operation {
    /// The sum over all ranks.
    AllReduce,
    /// What every rank has, in order of rank along a new first dimension.
    AllGather,
    /// What this rank has.
    Broadcast(usize),
}

impl Nccl {
    /// A group of one rank on each of `devices`, all of them different GPUs, in order of rank.
    pub fn group(devices: &[Device]) -> Result<Vec<Self>> {
        let streams = devices.iter().map(|device| Ok(device.as_cuda_device()?.cuda_stream()));
        // All in one call, by one thread: no rank can wait here for another that failed to come.
        let communicators = Comm::from_devices(streams.collect::<Result<_>>()?).map_err(|e| failed("to connect", e))?;
        let rank = |communicator: Comm| Self {
            rank: communicator.rank(),
            world: communicator.world_size(),
            communicator: Mutex::new(Communicator(communicator)),
        };
        Ok(communicators.into_iter().map(rank).collect())
    }

    fn call(&self, x: &Tensor, operation: Operation) -> Result<Tensor> {
        x.apply_op1_no_bwd(&Call { nccl: self, operation })
    }
}

impl Collective for Nccl {
    #[cfg(test)]
    fn rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.world
    }

    /// In the tensor's own type: bfloat16 is rounded at every addition.
    fn all_reduce(&self, x: &Tensor) -> Result<Tensor> {
        self.call(x, Operation::AllReduce)
    }

    /// How the last dimension differs from rank to rank is asked first, for which the host waits.
    fn all_gather(&self, x: &Tensor) -> Result<Tensor> {
        let last = x.dims().len().checked_sub(1).ok_or_else(|| Error::Msg("all-gather of a scalar".into()))?;
        let columns = x.dim(last)?;
        let all: Vec<u32> =
            self.call(&Tensor::new(&[columns as u32], x.device())?, Operation::AllGather)?.flatten_all()?.to_vec1()?;
        let widest = all.iter().map(|&columns| columns as usize).max().unwrap_or(columns);
        // NCCL wants as much of every rank. [world, ..., widest]
        let gathered = self.call(&x.pad_with_zeros(last, 0, widest - columns)?.contiguous()?, Operation::AllGather)?;
        let part = |(rank, &columns): (usize, &u32)| gathered.get(rank)?.narrow(last, 0, columns as usize);
        Tensor::cat(&all.iter().enumerate().map(part).collect::<Result<Vec<_>>>()?, last)
    }

    fn broadcast(&self, x: &Tensor, root: usize) -> Result<Tensor> {
        if root >= self.world {
            bail!("no rank {root} among {}", self.world);
        }
        self.call(x, Operation::Broadcast(root))
    }

    /// Nobody hears it.
    fn fail(&self, reason: &str) -> String {
        format!("rank {} failed: {reason}", self.rank)
    }
}

struct Call<'a> {
    nccl: &'a Nccl,
    operation: Operation,
}

impl Call<'_> {
    fn run<T>(&self, device: &CudaDevice, values: &CudaSlice<T>, range: Range<usize>) -> Result<CudaStorage>
    where
        T: CudaDType + DeviceRepr + NcclType,
    {
        let parts = match self.operation {
            Operation::AllGather => self.nccl.world,
            Operation::AllReduce | Operation::Broadcast(_) => 1,
        };
        let len = parts * range.len();
        // SAFETY: any bits are a value of these types, and NCCL, on the same stream, writes all of them before anything
        // that is enqueued later reads them; if it refuses, nothing reads them at all.
        #[allow(unsafe_code)]
        let mut result = unsafe { device.alloc::<T>(len)? };
        if len > 0 {
            let values = values.slice(range);
            // A thread that panicked here left no call half made: NCCL's calls do not unwind.
            let communicator = self.nccl.communicator.lock().unwrap_or_else(PoisonError::into_inner);
            let Communicator(communicator) = &*communicator;
            match self.operation {
                Operation::AllReduce => communicator.all_reduce(&values, &mut result, &ReduceOp::Sum),
                Operation::AllGather => communicator.all_gather(&values, &mut result),
                Operation::Broadcast(root) => communicator.broadcast(Some(&values), &mut result, root as i32),
            }
            .map_err(|e| failed(self.name(), e))?;
        }
        Ok(CudaStorage::wrap_cuda_slice(result, device.clone()))
    }
}

impl CustomOp1 for Call<'_> {
    fn name(&self) -> &'static str {
        match self.operation {
            Operation::AllReduce => "all-reduce",
            Operation::AllGather => "all-gather",
            Operation::Broadcast(_) => "broadcast",
        }
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        bail!("{} over NCCL needs a tensor on a GPU, found one on the CPU", self.name())
    }

    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let Some((start, end)) = layout.contiguous_offsets() else {
            bail!("{} needs a contiguous tensor, found {layout:?}", self.name())
        };
        let result = match &x.slice {
            CudaStorageSlice::F32(values) => self.run(&x.device, values, start..end),
            CudaStorageSlice::F16(values) => self.run(&x.device, values, start..end),
            CudaStorageSlice::BF16(values) => self.run(&x.device, values, start..end),
            CudaStorageSlice::U32(values) => self.run(&x.device, values, start..end),
            _ => bail!("{} takes float32, float16, bfloat16 or u32", self.name()),
        }?;
        let mut shape = layout.dims().to_vec();
        if let Operation::AllGather = self.operation {
            shape.insert(0, self.nccl.world);
        }
        Ok((result, shape.into()))
    }
}

/// NCCL's own reason. `NcclError` does not print it.
fn failed(operation: &str, error: NcclError) -> Error {
    Error::Msg(format!("NCCL failed {operation}: {:?}; NCCL_DEBUG=INFO makes it say more", error.0))
}
