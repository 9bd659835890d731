//! What the machine's fused multiply-adds reach, as the measure of every kernel.

use std::hint::black_box;
use std::time::{Duration, Instant};

use super::isa::{Isa, Task};
use super::simd::Simd;

/// Rounds of one run: some ten milliseconds.
const ROUNDS: usize = 1 << 18;
/// Independent rows, enough to hide the latency of a fused multiply-add on every current core; each is two registers.
const CHAINS: usize = 6;

/// Floating-point operations per second of a loop of fused multiply-adds in registers.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Peak {
    /// Of the best run.
    pub best: f64,
    /// Of all runs together: on a machine whose cores are shared with others, what there is on average.
    pub mean: f64,
}

/// The peak on every thread of the current pool at once, over about as much time as is given.
pub fn peak(time: Duration) -> Peak {
    let (isa, threads) = (Isa::current(), rayon::current_num_threads());
    let operations = (2 * ROUNDS * CHAINS * isa.width() * threads) as f64;
    let mut times = Vec::new();
    while times.iter().sum::<Duration>() < time {
        let run = Instant::now();
        rayon::broadcast(|_| isa.run(Chains));
        times.push(run.elapsed());
    }
    let all: Duration = times.iter().sum();
    let shortest = times.iter().min().copied().unwrap_or(all);
    Peak { best: operations / shortest.as_secs_f64(), mean: operations * times.len() as f64 / all.as_secs_f64() }
}

struct Chains;

impl Task for Chains {
    #[inline(always)]
    fn run<const WIDTH: usize, S: Simd<WIDTH>>(self, simd: S) {
        let (factor, start) = (black_box(0.5), black_box([1.0; WIDTH]));
        let mut chains = [simd.load(&start); CHAINS];
        for _ in 0..ROUNDS {
            for chain in &mut chains {
                *chain = simd.mul_add(factor, *chain, *chain);
            }
        }
        let mut end = [[0.0; WIDTH]; CHAINS];
        for (chain, end) in chains.into_iter().zip(&mut end) {
            simd.store(chain, end);
        }
        black_box(end);
    }
}
