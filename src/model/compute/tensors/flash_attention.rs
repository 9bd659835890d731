//! Causal attention along the paths of a micro-batch's forest with FlashAttention 2, for float16 and bfloat16 on GPUs.
//!
//! A segment is a sequence whose queries are the last of its keys, which is how FlashAttention lays queries against more
//! keys than there are queries.
//!
//! Invariant: memory is linear in tokens. Segments go by in chunks whose paths together are no longer than the
//! micro-batch; one path never is.

use candle_core::{DType, Device, Result, Tensor};
use candle_flash_attn::{flash_attn_varlen_alibi_windowed_softcap, flash_attn_varlen_windowed};

use super::paths::{Path, join};
use crate::batch::MicroBatch;
use crate::model::shapes::{AttentionOptions, HeadLayout};

/// Widest head that the kernels are compiled for.
const MOST_HEAD_DIM: usize = 256;

/// The forest of a micro-batch as FlashAttention needs it: made once, used by every layer.
pub struct FlashPlan {
    chunks: Vec<Chunk>,
}

/// Segments that go by in one call.
struct Chunk {
    paths: Vec<Path>,
    queries: Lengths,
    keys: Lengths,
}

/// Where sequences that lie one after the other begin and end.
struct Lengths {
    /// 0 and the end of each sequence; u32.
    bounds: Tensor,
    longest: usize,
}

impl FlashPlan {
    /// The plan for the rows of `batch`, on `device`.
    pub fn new(batch: &MicroBatch, device: &Device) -> Result<Self> {
        let mut chunks: Vec<Vec<Path>> = Vec::new();
        let mut room = 0;
        for path in Path::all(batch) {
            match chunks.last_mut() {
                Some(chunk) if path.end() <= room => {
                    room -= path.end();
                    chunk.push(path);
                }
                _ => {
                    room = batch.tokens.len() - path.end();
                    chunks.push(vec![path]);
                }
            }
        }
        let chunk = |paths: Vec<Path>| {
            Ok(Chunk {
                queries: Lengths::new(paths.iter().map(|path| path.rows.len()), device)?,
                keys: Lengths::new(paths.iter().map(Path::end), device)?,
                paths,
            })
        };
        Ok(Self { chunks: chunks.into_iter().map(chunk).collect::<Result<_>>()? })
    }
}

impl Lengths {
    fn new(lengths: impl Iterator<Item = usize>, device: &Device) -> Result<Self> {
        let mut bounds = vec![0u32];
        let (mut end, mut longest) = (0, 0);
        for length in lengths {
            end += length;
            longest = longest.max(length);
            bounds.push(end as u32);
        }
        Ok(Self { bounds: Tensor::new(bounds, device)?, longest })
    }
}

/// Whether there is a kernel for such heads and activations.
pub fn fits(layout: HeadLayout, dtype: DType) -> bool {
    matches!(dtype, DType::F16 | DType::BF16) && layout.head_dim.is_multiple_of(8) && layout.head_dim <= MOST_HEAD_DIM
}

/// Attention of every row over the positions of its path, its own last: `qkv` is `[tokens, layout.row()]`, with queries
/// and keys already rotated; the result is `[tokens, heads * head_dim]`, of the same type. The rows are those of `plan`,
/// on the same device.
pub fn flash_attention(
    qkv: &Tensor,
    plan: &FlashPlan,
    layout: HeadLayout,
    options: AttentionOptions,
) -> Result<Tensor> {
    let HeadLayout { heads, kv_heads, head_dim } = layout;
    let tokens = qkv.dim(0)?;
    if tokens == 0 {
        return Tensor::zeros((0, heads * head_dim), qkv.dtype(), qkv.device());
    }
    let packed = qkv.reshape((tokens, heads + 2 * kv_heads, head_dim))?;
    // The window counts a query's own position; FlashAttention counts those to the left of it.
    let (left, right) = (options.window.map(|window| window - 1), Some(0));
    let mut mixed = Vec::with_capacity(plan.chunks.len());
    for Chunk { paths, queries, keys } in &plan.chunks {
        let gather = |head, count| {
            let packed = packed.narrow(1, head, count)?;
            let parts = paths.iter().map(|path| path.parts(&packed, 0, 0..path.end())).collect::<Result<Vec<_>>>()?;
            join(parts.concat(), 0)
        };
        let (k, v) = (gather(heads, kv_heads)?, gather(heads + kv_heads, kv_heads)?);
        let rows = paths.first().map_or(0, |path| path.rows.start)..paths.last().map_or(0, |path| path.rows.end);
        let q = packed.narrow(1, 0, heads)?.narrow(0, rows.start, rows.len())?;
        let (q_bounds, k_bounds) = (&queries.bounds, &keys.bounds);
        let (q_longest, k_longest, scale) = (queries.longest, keys.longest, options.scale);
        mixed.push(match options.soft_cap {
            None => {
                flash_attn_varlen_windowed(&q, &k, &v, q_bounds, k_bounds, q_longest, k_longest, scale, left, right)?
            }
            Some(cap) => flash_attn_varlen_alibi_windowed_softcap(
                &q, &k, &v, None, q_bounds, k_bounds, q_longest, k_longest, scale, left, right, cap,
            )?,
        });
    }
    join(mixed, 0)?.reshape((tokens, heads * head_dim))
}
