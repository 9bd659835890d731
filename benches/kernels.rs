//! How fast the CPU kernels are, in GFLOP/s and as a share of what the machine's fused multiply-adds reach in the same
//! run. `cargo bench --bench kernels` prints one line per shape; `-- WORD` takes only the shapes whose names have it.

use std::time::{Duration, Instant};

use reward_sidecar::batch::MicroBatch;
use reward_sidecar::model::compute::kernels::{
    Addends, AttentionPlan, Expert, FeedForwardWeights, Kept, PackedMatrix, Share, WeightType, add_shares, attention,
    experts, gate, linear, peak, rms_norm, rotary,
};
use reward_sidecar::model::shapes::{Activation, AttentionOptions, HeadLayout};

/// Each figure is the best of several runs that together take at least this long.
const MIN_TIME: Duration = Duration::from_millis(400);

fn main() {
    // Cargo itself passes `--bench`.
    let word = std::env::args().skip(1).find(|a| !a.starts_with('-')).unwrap_or_default();
    for threads in [1, 2] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool of two threads");
        pool.install(|| {
            let bench = Bench { word: &word, peak: peak(MIN_TIME).best };
            println!("\n{threads} thread(s), peak {:.1} GFLOP/s", bench.peak / 1e9);
            bench_linear(&bench);
            bench_experts(&bench);
            bench_attention(&bench);
            bench_rows(&bench);
        });
    }
}

struct Bench<'a> {
    /// Only names that contain it are measured.
    word: &'a str,
    /// Floating-point operations per second.
    peak: f64,
}

impl Bench<'_> {
    fn compute(&self, name: &str, flops: f64, f: impl FnMut()) {
        if name.contains(self.word) {
            let seconds = best(f);
            let rate = flops / seconds;
            let percent = 100.0 * rate / self.peak;
            println!("{name:<44} {:>9.3} ms {:>7.1} GFLOP/s {percent:>4.0} %", seconds * 1e3, rate / 1e9);
        }
    }

    fn memory(&self, name: &str, bytes: usize, f: impl FnMut()) {
        if name.contains(self.word) {
            let seconds = best(f);
            println!("{name:<44} {:>9.3} ms {:>7.1} GB/s", seconds * 1e3, bytes as f64 / seconds / 1e9);
        }
    }

    /// Counts the products of queries and keys, and of weights and values, that the masks leave.
    fn attention(&self, name: &str, layout: HeadLayout, rollouts: &[Vec<u32>]) {
        let batch = MicroBatch::pack(rollouts, true);
        let plan = AttentionPlan::new(&batch, layout);
        let options = AttentionOptions { scale: 0.125, window: None, soft_cap: None };
        let qkv = values(batch.tokens.len() * layout.row());
        let mut out = vec![0.0; batch.tokens.len() * layout.heads * layout.head_dim];
        let pairs: f64 = batch.positions.iter().map(|&p| f64::from(p) + 1.0).sum();
        let flops = 4.0 * pairs * (layout.heads * layout.head_dim) as f64;
        self.compute(name, flops, || attention(&qkv, Kept::default(), &plan, options, None, &mut out));
    }
}

fn bench_linear(bench: &Bench) {
    for weight_type in WeightType::ALL {
        let name = weight_type.name();
        for (k, n) in [(576, 1536), (576, 960), (1536, 576), (1024, 3072), (3072, 1024), (4096, 4096)] {
            let w = PackedMatrix::pack_rows(weight_type, &[&values(n * k)], k);
            for t in [1, 16, 64, 256, 1024, 2048] {
                let (x, mut y) = (values(t * k), vec![0.0; t * n]);
                let flops = 2.0 * (t * n * k) as f64;
                let name = format!("linear {name} {k} -> {n}, {t} rows");
                bench.compute(&name, flops, || linear(&x, &w, Addends::NONE, &mut y));
            }
        }
    }
}

/// A mixture of 64 experts, of which each row goes through 8.
fn bench_experts(bench: &Bench) {
    const NAME: &str = "8 of 64 experts 1024 -> 512 -> 1024";
    if !NAME.contains(bench.word) {
        return;
    }
    let (count, of_each, hidden, features) = (64, 8, 1024, 512);
    let (up, down) = (values(2 * features * hidden), values(hidden * features));
    let pack = |rows: &[f32], k| PackedMatrix::pack_rows(WeightType::F32, &[rows], k);
    let weights: Vec<_> = (0..count).map(|_| (pack(&up, hidden), pack(&down, features))).collect();
    for t in [1, 16, 64, 256, 1024] {
        // Rows go around the experts in steps that share no factor with their number.
        let places: Vec<Vec<usize>> =
            (0..t).map(|row| (0..of_each).map(|i| (row * 5 + i * 7) % count).collect()).collect();
        let rows: Vec<Vec<u32>> = (0..count)
            .map(|expert| (0..t as u32).filter(|&row| places[row as usize].contains(&expert)).collect())
            .collect();
        let mut shares = vec![Vec::new(); t];
        for (result, &row) in rows.iter().flatten().enumerate() {
            shares[row as usize].push(Share { result, weight: 0.125 });
        }
        let layers: Vec<_> = weights
            .iter()
            .zip(&rows)
            .map(|((up, down), rows)| {
                let weights = FeedForwardWeights { up, up_bias: None, gated: true, activation: Activation::Silu, down };
                Expert { weights, bias: None, rows }
            })
            .collect();
        let (x, mut results, mut y) = (values(t * hidden), vec![0.0; t * of_each * hidden], vec![0.0; t * hidden]);
        let flops = 6.0 * (t * of_each * hidden * features) as f64;
        bench.compute(&format!("{NAME}, {t} rows"), flops, || experts(&x, &layers, hidden, &mut results));
        let bytes = size_of_val(&results[..]) + 2 * size_of_val(&y[..]);
        let name = format!("{NAME}, sums of {t} rows");
        bench.memory(&name, bytes, || add_shares(&results, &shares, false, None, hidden, &mut y));
    }
}

fn bench_attention(bench: &Bench) {
    let small = HeadLayout { heads: 9, kv_heads: 3, head_dim: 64 };
    for t in [64, 256, 1024, 2048, 4096, 8192] {
        bench.attention(&format!("attention 9/3 x 64, {t} tokens"), small, &[vec![1; t]]);
    }
    for tokens in [1, 5] {
        let leaves: Vec<Vec<u32>> = (2..202).map(|i| [vec![1; 1000], vec![i; tokens]].concat()).collect();
        bench.attention(&format!("attention 9/3 x 64, 200 x {tokens} on 1000"), small, &leaves);
    }
    let large = HeadLayout { heads: 32, kv_heads: 8, head_dim: 128 };
    bench.attention("attention 32/8 x 128, 1024 tokens", large, &[vec![1; 1024]]);
}

fn bench_rows(bench: &Bench) {
    let t = 2048;
    let (x, weight, mut out) = (values(t * 576), values(576), values(t * 576));
    bench.memory("rms_norm 2048 x 576", 8 * t * 576, || rms_norm(&x, &weight, 1e-5, &mut out));
    let (x, mut out) = (values(t * 3072), values(t * 1536));
    bench.memory("silu_mul 2048 x 1536", 12 * t * 1536, || gate(Activation::Silu, &x, 1536, &mut out));
    let layout = HeadLayout { heads: 9, kv_heads: 3, head_dim: 64 };
    let (mut qkv, angles) = (values(t * layout.row()), values(t * 32));
    bench.memory("rotary 2048 x 12 heads", 8 * t * 12 * 64, || rotary(&mut qkv, layout, &angles, &angles));
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
