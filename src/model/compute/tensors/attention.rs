//! Causal attention along the paths of a micro-batch's forest. Scores, softmax and mix are float32 whatever the activations
//! are.
//!
//! Invariant: memory is linear in tokens. The queries of a segment go by in tiles of at most [`TILE_ROWS`] rows and
//! [`TILE_SCORES`] scores; a tile sees the keys of its own path and no others, so that a row that is not finite cannot
//! touch a rollout that does not contain it.

use std::ops::Range;

use candle_core::{D, DType, Device, Result, Tensor};

use super::paths::{Path, join};
use crate::batch::MicroBatch;
use crate::model::shapes::{AttentionOptions, HeadLayout};

/// Most rows in a tile. Half a tile of scores lies above the diagonal and is computed in vain; more tiles are more
/// launches.
const TILE_ROWS: usize = 512;
/// Most scores in a tile, over all heads: 128 MiB of float32, of which the softmax holds three at a time. Exceeded only
/// where the scores of a single row are more.
const TILE_SCORES: usize = 1 << 25;

/// The forest of a micro-batch as this attention needs it: made once, used by every layer.
pub struct PortablePlan {
    paths: Vec<Path>,
    /// 0, 1, 2, ... to the end of the longest path; u32.
    positions: Tensor,
}

impl PortablePlan {
    /// The plan for the rows of `batch`, on `device`.
    pub fn new(batch: &MicroBatch, device: &Device) -> Result<Self> {
        let paths = Path::all(batch);
        let longest = paths.iter().map(Path::end).max().unwrap_or(0);
        Ok(Self { paths, positions: Tensor::arange(0, longest as u32, device)? })
    }
}

/// Consecutive rows of one segment, and the positions that they may see.
struct Tile {
    rows: Range<usize>,
    /// Position of the first row.
    position: usize,
    keys: Range<usize>,
}

impl Tile {
    /// The rows of a path's segment in tiles of at most `scores` scores.
    fn all(path: &Path, heads: usize, window: Option<usize>, scores: usize) -> impl Iterator<Item = Self> {
        // A tile that is no higher than the window is wide sees less than twice the window.
        let window_rows = window.unwrap_or(usize::MAX);
        let most_keys = path.end().min(window_rows.saturating_mul(2));
        let height = (scores / (heads * most_keys)).clamp(1, window_rows.min(TILE_ROWS));
        path.rows.clone().step_by(height).map(move |row| {
            let rows = row..path.rows.end.min(row + height);
            let position = path.first + row - path.rows.start;
            let keys = first_seen(position, window)..position + rows.len();
            Self { rows, position, keys }
        })
    }

    /// Which key each row sees, `[rows, keys]`: 1 if it does.
    fn visible(&self, positions: &Tensor, window: Option<usize>) -> Result<Tensor> {
        let rows = positions.narrow(0, self.position, self.rows.len())?.unsqueeze(1)?;
        let keys = positions.narrow(0, self.keys.start, self.keys.len())?.unsqueeze(0)?;
        let causal = keys.broadcast_le(&rows)?;
        match window {
            Some(window) if self.keys.len() > window => {
                let last_row = keys.affine(1.0, (window - 1) as f64)?;
                causal.mul(&last_row.broadcast_ge(&rows)?)
            }
            // What the last row sees, which reaches least far back, begins no later than the tile's first key.
            _ => Ok(causal),
        }
    }
}

/// First position that the query at `position` sees.
fn first_seen(position: usize, window: Option<usize>) -> usize {
    window.map_or(0, |window| (position + 1).saturating_sub(window))
}

/// Attention of every row over the positions of its path, its own last: `qkv` is `[tokens, layout.row()]`, with queries
/// and keys already rotated; the result is `[tokens, heads * head_dim]`, of the same type. The rows are those of
/// `plan`, on the same device.
pub fn portable_attention(
    qkv: &Tensor,
    plan: &PortablePlan,
    layout: HeadLayout,
    options: AttentionOptions,
) -> Result<Tensor> {
    attention_in_tiles(qkv, plan, layout, options, TILE_SCORES)
}

fn attention_in_tiles(
    qkv: &Tensor,
    plan: &PortablePlan,
    layout: HeadLayout,
    options: AttentionOptions,
    tile_scores: usize,
) -> Result<Tensor> {
    let HeadLayout { heads, kv_heads, head_dim } = layout;
    let group = heads / kv_heads;
    let tokens = qkv.dim(0)?;
    if tokens == 0 {
        return Tensor::zeros((0, heads * head_dim), qkv.dtype(), qkv.device());
    }
    // A row's query heads of one key head lie together, as more queries of that key head: keys and values are never
    // repeated.
    let queries = qkv.narrow(1, 0, heads * head_dim)?.to_dtype(DType::F32)?.affine(f64::from(options.scale), 0.0)?;
    let queries = queries.reshape((tokens, kv_heads, group * head_dim))?.transpose(0, 1)?;
    let queries = queries.contiguous()?.reshape((kv_heads, tokens * group, head_dim))?;
    let kv = qkv.narrow(1, heads * head_dim, 2 * kv_heads * head_dim)?.to_dtype(DType::F32)?;
    let kv = kv.reshape((tokens, 2 * kv_heads, head_dim))?.transpose(0, 1)?.contiguous()?;

    let mut mixed = Vec::with_capacity(plan.paths.len());
    for path in &plan.paths {
        let seen = first_seen(path.first, options.window)..path.end();
        let kv = join(path.parts(&kv, 1, seen.clone())?, 1)?;
        for tile in Tile::all(path, heads, options.window, tile_scores) {
            let queries = queries.narrow(1, tile.rows.start * group, tile.rows.len() * group)?;
            let kv = kv.narrow(1, tile.keys.start - seen.start, tile.keys.len())?;
            let (keys, values) = (kv.narrow(0, 0, kv_heads)?, kv.narrow(0, kv_heads, kv_heads)?);
            let visible = tile.visible(&plan.positions, options.window)?;
            mixed.push(attend(&queries, &keys, &values, &visible, options.soft_cap)?.to_dtype(qkv.dtype())?);
        }
    }
    let mixed = Tensor::cat(&mixed, 1)?.reshape((kv_heads, tokens, group * head_dim))?;
    mixed.transpose(0, 1)?.reshape((tokens, heads * head_dim))
}

/// The mix of `values` for each of `queries: [kv_heads, rows * group, head_dim]`, scaled, over `keys` and `values`,
/// `[kv_heads, keys, head_dim]`, where `visible: [rows, keys]` says so.
fn attend(queries: &Tensor, keys: &Tensor, values: &Tensor, visible: &Tensor, soft_cap: Option<f32>) -> Result<Tensor> {
    let (kv_heads, queried, _) = queries.dims3()?;
    let (rows, seen) = visible.dims2()?;
    let mut scores = queries.matmul(&keys.transpose(1, 2)?)?;
    if let Some(cap) = soft_cap.map(f64::from) {
        scores = ((scores / cap)?.tanh()? * cap)?;
    }
    scores = scores.reshape((kv_heads, rows, queried / rows, seen))?;
    let visible = visible.reshape((1, rows, 1, seen))?.broadcast_as(scores.shape())?;
    let hidden = Tensor::full(f32::NEG_INFINITY, (), scores.device())?.broadcast_as(scores.shape())?;
    scores = visible.where_cond(&scores, &hidden)?.reshape((kv_heads, queried, seen))?;
    let weights = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?)?.exp()?;
    drop(scores);
    // Dividing the mix rather than the weights: head_dim divisions a row, not one for each of its keys.
    weights.matmul(values)?.broadcast_div(&weights.sum_keepdim(D::Minus1)?)
}

#[cfg(test)]
mod tests {
    use half::bf16;
    use proptest::prelude::*;

    use super::*;
    use crate::model::compute::kernels::{AttentionPlan, Kept, attention};

    const LAYOUTS: [HeadLayout; 4] = [
        HeadLayout { heads: 6, kv_heads: 3, head_dim: 8 },
        HeadLayout { heads: 4, kv_heads: 4, head_dim: 6 },
        HeadLayout { heads: 5, kv_heads: 1, head_dim: 16 },
        HeadLayout { heads: 1, kv_heads: 1, head_dim: 5 },
    ];

    /// Every kind of mask and cap; the windows are narrower and wider than segments and tiles.
    fn all_options(layout: HeadLayout) -> Vec<AttentionOptions> {
        let plain = AttentionOptions { scale: 1.0 / (layout.head_dim as f32).sqrt(), window: None, soft_cap: None };
        let windows = [1, 7, 64, 1000].map(|window| AttentionOptions { window: Some(window), ..plain });
        let capped = AttentionOptions { scale: 1.0, soft_cap: Some(0.7), ..plain };
        windows.into_iter().chain([plain, capped, AttentionOptions { window: Some(33), ..capped }]).collect()
    }

    /// A prompt with answers that branch at every kind of place, and a rollout that shares nothing.
    fn forest() -> Vec<Vec<u32>> {
        let prompt = [1; 40];
        let turn = [&prompt[..], &[2; 30]].concat();
        vec![
            [&prompt[..], &[3; 5]].concat(),
            [&prompt[..], &[3; 9]].concat(),
            [&turn[..], &[4]].concat(),
            [&turn[..], &[5]].concat(),
            [&turn[..], &[6; 50]].concat(),
            turn,
            vec![7; 3],
        ]
    }

    /// `len` values in [-1, 1) without a pattern, from a congruential generator.
    fn values(len: usize) -> Vec<f32> {
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..len).map(|_| next()).collect()
    }

    fn by_kernel(batch: &MicroBatch, layout: HeadLayout, options: AttentionOptions, qkv: &[f32]) -> Vec<f32> {
        let mut out = vec![f32::NAN; batch.tokens.len() * layout.heads * layout.head_dim];
        attention(qkv, Kept::default(), &AttentionPlan::new(batch, layout), options, None, &mut out);
        out
    }

    fn in_tiles(
        batch: &MicroBatch,
        layout: HeadLayout,
        options: AttentionOptions,
        qkv: &[f32],
        dtype: DType,
        scores: usize,
    ) -> Vec<f32> {
        let qkv = Tensor::from_slice(qkv, (batch.tokens.len(), layout.row()), &Device::Cpu).unwrap();
        let plan = PortablePlan::new(batch, &Device::Cpu).unwrap();
        let out = attention_in_tiles(&qkv.to_dtype(dtype).unwrap(), &plan, layout, options, scores).unwrap();
        assert_eq!(out.dtype(), dtype);
        assert_eq!(out.dims(), [batch.tokens.len(), layout.heads * layout.head_dim]);
        out.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    /// How far each of two attentions in float32 may be from the truth, where all values are below 1.
    ///
    /// A product of n terms is off by at most n half epsilons of the sum of its absolute terms, in whatever order they
    /// are added; scale, cap, difference and exponential add a few epsilons of that magnitude. An error of d in a score
    /// is one of d in its weight and, through the total, one of d in the others. The mix of k values adds k half
    /// epsilons, and the total as many.
    fn bound(batch: &MicroBatch, layout: HeadLayout, options: AttentionOptions) -> f32 {
        let longest = batch.positions.iter().max().unwrap() + 1;
        let magnitude = options.scale * layout.head_dim as f32;
        f32::EPSILON * ((layout.head_dim as f32 + 8.0) * magnitude + longest as f32 + 16.0)
    }

    fn assert_close(found: &[f32], expected: &[f32], tolerance: impl Fn(f32) -> f32, what: &str) {
        assert_eq!(found.len(), expected.len());
        for (i, (&found, &expected)) in found.iter().zip(expected).enumerate() {
            let off = (found - expected).abs();
            assert!(off <= tolerance(expected), "{what}: value {i} is {found}, expected {expected}");
        }
    }

    #[test]
    fn agrees_with_the_kernel_whatever_the_tiles() {
        for share in [true, false] {
            let batch = MicroBatch::pack(&forest(), share);
            for layout in LAYOUTS {
                let qkv = values(batch.tokens.len() * layout.row());
                for options in all_options(layout) {
                    let expected = by_kernel(&batch, layout, options, &qkv);
                    let bound = 2.0 * bound(&batch, layout, options);
                    // A row a tile, a few rows a tile, a segment a tile.
                    for scores in [1, 1000, TILE_SCORES] {
                        let found = in_tiles(&batch, layout, options, &qkv, DType::F32, scores);
                        assert_close(&found, &expected, |_| bound, &format!("{layout:?} {options:?} {scores}"));
                    }
                }
            }
        }
    }

    #[test]
    fn half_precision_is_rounded_once_at_the_end() {
        let batch = MicroBatch::pack(&forest(), true);
        let layout = LAYOUTS[0];
        let qkv = values(batch.tokens.len() * layout.row());
        let qkv: Vec<f32> = qkv.into_iter().map(|value| bf16::from_f32(value).to_f32()).collect();
        for options in all_options(layout) {
            let expected = by_kernel(&batch, layout, options, &qkv);
            let found = in_tiles(&batch, layout, options, &qkv, DType::BF16, 1000);
            let bound = 2.0 * bound(&batch, layout, options);
            // Rounding to nearest is off by half an epsilon of the type at most; what is rounded is off by `bound`.
            let tolerance = |expected: f32| bound + (expected.abs() + bound) * bf16::EPSILON.to_f32() / 2.0;
            assert_close(&found, &expected, tolerance, &format!("{options:?}"));
        }
    }

    #[test]
    fn what_is_not_finite_stays_in_its_rollouts() {
        let batch = MicroBatch::pack(&forest(), true);
        let layout = LAYOUTS[0];
        let options = all_options(layout)[4];
        let clean = values(batch.tokens.len() * layout.row());
        let expected = in_tiles(&batch, layout, options, &clean, DType::F32, 1000);
        let poisoned_row = batch.reads[4].row as usize;
        let mut qkv = clean;
        qkv[poisoned_row * layout.row()..][..layout.row()].fill(f32::NAN);
        let found = in_tiles(&batch, layout, options, &qkv, DType::F32, 1000);
        let width = layout.heads * layout.head_dim;
        for read in &batch.reads {
            let row = read.row as usize * width..(read.row as usize + 1) * width;
            match read.rollout {
                4 => assert!(found[row].iter().all(|value| value.is_nan())),
                _ => assert_eq!(found[row.clone()], expected[row]),
            }
        }
    }

    #[test]
    fn an_empty_batch_has_no_rows() {
        let options = all_options(LAYOUTS[0])[0];
        assert!(in_tiles(&MicroBatch::default(), LAYOUTS[0], options, &[], DType::F32, TILE_SCORES).is_empty());
    }

    proptest! {
        #[test]
        fn tiles_hold_every_row_once_and_few_scores(
            shapes in prop::collection::vec((0usize..40, 1usize..30, 0u32..3), 1..10),
            window in prop::option::of(1usize..50),
            scores in 1usize..2000,
        ) {
            let rollouts: Vec<_> =
                shapes.into_iter().map(|(prefix, tail, token)| [vec![9; prefix], vec![token; tail]].concat()).collect();
            let batch = MicroBatch::pack(&rollouts, true);
            let mut next = 0;
            for path in Path::all(&batch) {
                for tile in Tile::all(&path, 4, window, scores) {
                    prop_assert_eq!(tile.rows.start, next);
                    prop_assert!(tile.rows.len() == 1 || 4 * tile.rows.len() * tile.keys.len() <= scores);
                    prop_assert_eq!(tile.position, batch.positions[tile.rows.start] as usize);
                    prop_assert_eq!(tile.keys.end, batch.positions[tile.rows.end - 1] as usize + 1);
                    next = tile.rows.end;
                }
            }
            prop_assert_eq!(next, batch.tokens.len());
        }
    }
}
