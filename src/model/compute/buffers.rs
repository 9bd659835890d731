//! Buffers of activations that one layer after the other, and one pass after the other, finds again: memory from the system is
//! handed out page by page, each cleared first, which costs a pass several percent of its time.
//!
//! Invariant: a buffer has one owner at a time, and who takes one writes a value before it is read.

use std::sync::{Mutex, MutexGuard, PoisonError};

use candle_core::{CpuStorage, InplaceOp1, Layout, Result, Tensor};

/// Values from which on a buffer is worth keeping: 128 KiB, below which the allocator keeps memory itself.
const LEAST_VALUES: usize = 1 << 15;

/// Buffers that are kept at most: a layer has five at a time.
const MOST_BUFFERS: usize = 8;

/// Buffers without an owner.
struct Buffers(Mutex<Vec<Vec<f32>>>);

static FREE: Buffers = Buffers(Mutex::new(Vec::new()));

/// `len` arbitrary values.
pub fn take(len: usize) -> Vec<f32> {
    FREE.take(len)
}

/// Keeps a buffer for those who come next.
pub fn give(buffer: Vec<f32>) {
    FREE.give(buffer);
}

impl Buffers {
    fn lock(&self) -> MutexGuard<'_, Vec<Vec<f32>>> {
        // Each change is one call, so that a panic between two of them leaves nothing broken.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The smallest that is large enough. Where none is, a new one takes the place of the largest, so that their number does
    /// not grow with the sizes of passes.
    fn take(&self, len: usize) -> Vec<f32> {
        if len < LEAST_VALUES {
            return vec![0.0; len];
        }
        let mut free = self.lock();
        let place = free.partition_point(|buffer| buffer.capacity() < len);
        if place == free.len() {
            free.pop();
            return vec![0.0; len];
        }
        let mut buffer = free.remove(place);
        drop(free);
        buffer.resize(len, 0.0);
        buffer
    }

    /// See [`give`]. Of too many the smallest goes.
    fn give(&self, buffer: Vec<f32>) {
        if buffer.capacity() < LEAST_VALUES {
            return;
        }
        let mut free = self.lock();
        let place = free.partition_point(|other| other.capacity() < buffer.capacity());
        free.insert(place, buffer);
        if free.len() > MOST_BUFFERS {
            free.remove(0);
        }
    }
}

/// Gives back the memory of a tensor that nobody else looks at: not a clone, not a view, and none of it is in use.
pub fn recycle(tensor: Tensor) -> Result<()> {
    if tensor.device().is_cpu() { tensor.inplace_op1(&Recycle) } else { Ok(()) }
}

struct Recycle;

impl InplaceOp1 for Recycle {
    fn name(&self) -> &'static str {
        "recycle"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, _: &Layout) -> Result<()> {
        if let CpuStorage::F32(values) = storage {
            give(std::mem::take(values));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn the_smallest_that_is_large_enough_is_taken() {
        let buffers = Buffers(Mutex::default());
        let [large, small] = [4, 2].map(|times| {
            let buffer = buffers.take(times * LEAST_VALUES);
            let at = buffer.as_ptr();
            buffers.give(buffer);
            at
        });
        // The large one was there when the small one was asked for.
        assert_eq!(large, small);
        buffers.give(vec![0.0; 2 * LEAST_VALUES]);
        let taken = buffers.take(LEAST_VALUES + 5);
        assert_eq!((taken.len(), taken.capacity()), (LEAST_VALUES + 5, 2 * LEAST_VALUES));
        let third = buffers.take(3 * LEAST_VALUES);
        assert_eq!(third.as_ptr(), large);
        assert!(buffers.lock().is_empty());
    }

    #[test]
    fn few_are_kept_and_none_that_is_small_or_was_too_small() {
        let buffers = Buffers(Mutex::default());
        buffers.give(vec![0.0; LEAST_VALUES - 1]);
        (0..2 * MOST_BUFFERS).for_each(|i| buffers.give(vec![0.0; LEAST_VALUES + i]));
        let kept: Vec<usize> = buffers.lock().iter().map(Vec::capacity).collect();
        assert!(kept.iter().copied().eq((MOST_BUFFERS..2 * MOST_BUFFERS).map(|i| LEAST_VALUES + i)), "{kept:?}");
        assert_eq!(buffers.take(3 * LEAST_VALUES).len(), 3 * LEAST_VALUES);
        assert_eq!(buffers.lock().len(), MOST_BUFFERS - 1);
    }

    #[test]
    fn a_tensor_gives_its_memory_back() {
        let tensor = Tensor::zeros((2, 3), candle_core::DType::F32, &Device::Cpu).unwrap();
        let other = tensor.clone();
        recycle(tensor).unwrap();
        let (storage, _) = other.storage_and_layout();
        let candle_core::Storage::Cpu(CpuStorage::F32(values)) = &*storage else { panic!("made so") };
        assert!(values.is_empty());
    }
}
