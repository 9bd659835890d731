//! How fast the CPU kernels are, in GFLOP/s and as a share of what the machine's fused multiply-adds reach in the same
//! run. `cargo bench --bench kernels` prints one line per shape.

use std::hint::black_box;
use std::time::{Duration, Instant};

use reward_sidecar::batch::MicroBatch;
use reward_sidecar::model::kernels::{
    AttentionOptions, AttentionPlan, HeadLayout, PackedMatrix, attention, linear, rms_norm, rotary, silu_mul,
};

/// Each figure is the best of several runs that together take at least this long.
const MIN_TIME: Duration = Duration::from_millis(400);

fn main() {
    for threads in [1, 2] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool of two threads");
        pool.install(|| measure(threads));
    }
}

fn measure(threads: usize) {
    let peak = peak(threads);
    println!("\n{threads} thread(s), peak {:.1} GFLOP/s", peak / 1e9);
    let report = |name: &str, flops: f64, seconds: f64| {
        let rate = flops / seconds;
        println!("{name:<44} {:>9.3} ms {:>7.1} GFLOP/s {:>4.0} %", seconds * 1e3, rate / 1e9, 100.0 * rate / peak);
    };
    for (k, n) in [(576, 1536), (576, 960), (1536, 576), (4096, 4096)] {
        let w = PackedMatrix::pack(n, k, &values(n * k));
        for t in [1, 16, 64, 256, 1024, 2048] {
            let (x, mut y) = (values(t * k), vec![0.0; t * n]);
            let seconds = best(|| linear(&x, &w, None, &mut y));
            report(&format!("linear {k} -> {n}, {t} rows"), 2.0 * (t * n * k) as f64, seconds);
        }
    }
    let layout = HeadLayout { heads: 9, kv_heads: 3, head_dim: 64 };
    for t in [64, 256, 1024, 2048] {
        attend(&format!("attention 9/3 x 64, {t} tokens"), layout, &[vec![1; t]], &report);
    }
    let leaves = |tokens| -> Vec<Vec<u32>> { (2..202).map(|i| [vec![1; 1000], vec![i; tokens]].concat()).collect() };
    attend("attention 9/3 x 64, 200 x 5 on 1000 shared", layout, &leaves(5), &report);
    attend("attention 9/3 x 64, 200 x 1 on 1000 shared", layout, &leaves(1), &report);
    attend(
        "attention 32/8 x 128, 1024 tokens",
        HeadLayout { heads: 32, kv_heads: 8, head_dim: 128 },
        &[vec![1; 1024]],
        &report,
    );

    let t = 2048;
    let mut out = values(t * 1536);
    let bytes = |name: &str, bytes: usize, seconds: f64| {
        println!("{name:<44} {:>9.3} ms {:>7.1} GB/s", seconds * 1e3, bytes as f64 / seconds / 1e9);
    };
    let (x, weight) = (values(t * 576), values(576));
    bytes("rms_norm 2048 x 576", 8 * t * 576, best(|| rms_norm(&x, &weight, 1e-5, &mut out[..t * 576])));
    let x = values(t * 3072);
    bytes("silu_mul 2048 x 1536", 12 * t * 1536, best(|| silu_mul(&x, 1536, &mut out)));
    let (mut qkv, angle) = (values(t * layout.row()), values(t * 32));
    bytes("rotary 2048 x 960", 8 * t * 12 * 64, best(|| rotary(&mut qkv, layout, &angle, &angle)));
}

/// Counts the products of queries and keys, and of weights and values, that the masks leave.
fn attend(name: &str, layout: HeadLayout, rollouts: &[Vec<u32>], report: &impl Fn(&str, f64, f64)) {
    let batch = MicroBatch::pack(rollouts, true);
    let plan = AttentionPlan::new(&batch, layout);
    let options = AttentionOptions { scale: 0.125, window: None, soft_cap: None };
    let qkv = values(batch.tokens.len() * layout.row());
    let mut out = vec![0.0; batch.tokens.len() * layout.heads * layout.head_dim];
    let pairs: f64 = batch.positions.iter().map(|&p| f64::from(p) + 1.0).sum();
    let flops = 4.0 * pairs * (layout.heads * layout.head_dim) as f64;
    report(name, flops, best(|| attention(&qkv, &plan, options, &mut out)));
}

/// Seconds of the fastest run.
fn best(mut f: impl FnMut()) -> f64 {
    f();
    let (start, mut best) = (Instant::now(), f64::INFINITY);
    let mut runs = 0;
    while runs < 3 || start.elapsed() < MIN_TIME {
        let run = Instant::now();
        f();
        best = best.min(run.elapsed().as_secs_f64());
        runs += 1;
    }
    best
}

fn values(len: usize) -> Vec<f32> {
    (0..len).map(|i| (i * 7919 % 2003) as f32 / 1001.5 - 1.0).collect()
}

/// Floating-point operations per second of a loop of fused multiply-adds in registers, on every thread of the pool.
fn peak(threads: usize) -> f64 {
    const ROUNDS: usize = 4_000_000;
    let flops = (2 * ROUNDS * CHAINS * CHAIN * threads) as f64;
    let run = || {
        rayon::broadcast(|_| {
            black_box(multiply_add(ROUNDS));
        });
    };
    flops / best(run)
}

/// Enough independent chains to hide the latency of a fused multiply-add on every current core.
const CHAINS: usize = 12;
const CHAIN: usize = 8;

fn multiply_add(rounds: usize) -> [[f32; CHAIN]; CHAINS] {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: the machine has just said that it has both.
        return unsafe { multiply_add_avx2(rounds) };
    }
    multiply_add_portable(rounds)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn multiply_add_avx2(rounds: usize) -> [[f32; CHAIN]; CHAINS] {
    multiply_add_portable(rounds)
}

#[inline(always)]
fn multiply_add_portable(rounds: usize) -> [[f32; CHAIN]; CHAINS] {
    let (a, b) = (black_box([0.5f32; CHAIN]), black_box([0.25f32; CHAIN]));
    let mut chains = [[1.0f32; CHAIN]; CHAINS];
    for _ in 0..rounds {
        for chain in &mut chains {
            for i in 0..CHAIN {
                chain[i] = a[i].mul_add(chain[i], b[i]);
            }
        }
    }
    chains
}
