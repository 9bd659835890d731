//! What the machine's fused multiply-adds reach, as the measure of every kernel.

use std::hint::black_box;
use std::time::{Duration, Instant};

use super::isa::{Isa, Task};
use super::simd::Simd;

/// Rounds of one run: some ten milliseconds.
const ROUNDS: usize = 1 << 18;
/// Independent rows, enough to hide the latency of a fused multiply-add on every current core; each is two registers.
const CHAINS: usize = 6;

/// Floating-point operations per second of a loop of fused multiply-adds in registers, on every thread of the current
/// pool at once: the best of the runs that fit into a time.
pub fn peak(time: Duration) -> f64 {
    let (isa, threads) = (Isa::detect(), rayon::current_num_threads());
    let operations = (2 * ROUNDS * CHAINS * isa.width() * threads) as f64;
    let began = Instant::now();
    let mut best = 0.0f64;
    while began.elapsed() < time {
        let run = Instant::now();
        rayon::broadcast(|_| isa.run(Chains));
        best = best.max(operations / run.elapsed().as_secs_f64());
    }
    best
}

struct Chains;

impl Task for Chains {
    #[inline(always)]
    fn run<const WIDTH: usize, S: Simd<WIDTH>>(self, simd: S) {
        let (factor, start) = (black_box(0.5), black_box([1.0; WIDTH]));
        let mut chains = [simd.load(&start); CHAINS];
        for _ in 0..ROUNDS {
            for i in 0..CHAINS {
                chains[i] = simd.mul_add(factor, chains[i], chains[i]);
            }
        }
        let mut end = [[0.0; WIDTH]; CHAINS];
        for i in 0..CHAINS {
            simd.store(chains[i], &mut end[i]);
        }
        black_box(end);
    }
}
