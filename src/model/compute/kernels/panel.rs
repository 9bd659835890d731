//! Panels: how a weight matrix lies in memory for the tiles that read it, whatever the type of its weights.
//!
//! A panel holds as many outputs as a tile is wide, row `k` after row `k`; zeros stand past the last output. A type of weights
//! is one file beside this one, with its [`Properties`] and its [`Panels`], and a row in the table of [`super::weight_type`].

use std::fmt::Debug;
use std::ops::Range;

use rayon::prelude::*;

use super::addends::Addends;
use super::aligned::Aligned;
use super::grid::Block;
use super::isa::Isa;

/// Rows of activations that meet all weights before the next ones do. A multiple of every tile's height.
pub(super) const BLOCK_ROWS: usize = 96;

/// The size of a weight matrix `[n, k]`, and the instruction set for whose tiles it is packed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dimensions {
    pub(super) isa: Isa,
    pub(super) n: usize,
    pub(super) k: usize,
}

/// One block of `y = x wᵀ` that is to be computed, on the calling thread.
pub(super) struct BlockTask<'a> {
    /// All activations, `[t, k]`.
    pub(super) x: &'a [f32],
    pub(super) addends: &'a Addends<'a>,
    /// Whether dot products go on from the values that the block holds.
    pub(super) continued: bool,
    /// The rows and columns of `y`.
    pub(super) block: Block<'a>,
}

/// What is to be known of a type of weights.
#[derive(Debug)]
pub(super) struct Properties {
    /// As `--dtype` and reports write it.
    pub(super) name: &'static str,
    /// As model versions write it.
    pub(super) version: &'static str,
    /// Bytes of one weight.
    pub(super) bytes: usize,
    /// Bits of a weight's magnitude at their most.
    pub(super) bits: u32,
    /// Whether each rank rounds its part of a row by itself, so that another number of ranks gives other bits.
    pub(super) rounds_by_rank: bool,
    /// Packs rows of `k` weights into panels of `width` outputs.
    pub(super) pack: fn(rows: &[&[f32]], width: usize, k: usize) -> Box<dyn Panels>,
}

/// The packed weights of a matrix.
pub(super) trait Panels: Debug + Send + Sync {
    /// Computes a block whose columns begin at the border of a panel.
    fn compute(&self, dimensions: Dimensions, task: BlockTask);

    /// Bytes held.
    fn bytes(&self) -> usize;
}

/// Rows `depth` of panel `index`, each of `width` values, where all panels have `k` rows.
#[inline(always)]
pub(super) fn panel<'a, T>(panels: &'a [T], width: usize, k: usize, index: usize, depth: &Range<usize>) -> &'a [T] {
    let start = index * k * width;
    &panels[start + depth.start * width..start + depth.end * width]
}

/// Packs rows of `k` weights as panels `[panel, k, width]`.
pub(super) fn pack<T: Copy + Default + Send + Sync>(
    rows: &[&[f32]],
    width: usize,
    k: usize,
    store: impl Fn(f32) -> T + Sync,
) -> Aligned<T> {
    let mut panels = Aligned::zeros(rows.len().div_ceil(width) * width * k);
    panels.par_chunks_mut(width * k).zip(rows.par_chunks(width)).for_each(|(panel, rows)| {
        for (k, panel) in panel.chunks_exact_mut(width).enumerate() {
            for (value, row) in panel.iter_mut().zip(rows) {
                *value = store(row[k]);
            }
        }
    });
    panels
}
