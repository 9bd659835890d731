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
use super::stored::Parts;
use crate::model::error::ModelError;

/// Rows of activations that meet all weights before the next ones do. A multiple of every tile's height.
pub(super) const BLOCK_ROWS: usize = 192;

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

/// Packs rows as panels that are `width` values wide.
pub(super) type Pack = fn(rows: &Rows, width: usize) -> Result<Box<dyn Panels>, ModelError>;

/// Panels of a matrix `[n, k]`, `width` outputs wide, out of the [`Panels::parts`] of such ones; `None` where the parts are not of
/// their size.
pub(super) type Unpack = fn(parts: &mut Parts, n: usize, k: usize, width: usize) -> Option<Box<dyn Panels>>;

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
    /// Packs rows of weights into panels of `width` outputs.
    pub(super) pack: Pack,
    /// Takes panels as they were packed.
    pub(super) unpack: Unpack,
}

/// The packed weights of a matrix.
pub(super) trait Panels: Debug + Send + Sync {
    /// Computes a block whose columns begin at the border of a panel.
    fn compute(&self, dimensions: Dimensions, task: BlockTask);

    /// All that was packed, as this machine has it in memory.
    fn parts(&self) -> Vec<&[u8]>;
}

/// Rows `depth` of panel `index`, each of `width` values, where all panels have `k` rows.
#[inline(always)]
pub(super) fn panel<'a, T>(panels: &'a [T], width: usize, k: usize, index: usize, depth: &Range<usize>) -> &'a [T] {
    let start = index * k * width;
    &panels[start + depth.start * width..start + depth.end * width]
}

/// Weights that a thread has in float32 at a time while it packs them: 2 MiB, so that loading needs little more memory than what
/// is loaded, and several rows of the widest matrix are read in one go.
const VALUES_AT_A_TIME: usize = 1 << 19;

/// A matrix `[n, k]` of which rows can be read, by several threads at a time.
pub struct Rows<'a> {
    /// Outputs.
    pub n: usize,
    /// Inputs.
    pub k: usize,
    /// Reads rows, one after the other.
    pub read: &'a (dyn Fn(Range<usize>) -> Result<Vec<f32>, ModelError> + Sync),
}

impl Rows<'_> {
    /// Lets `pack` fill each panel of `width` outputs from their weights, `[outputs, k]`; of the last one there may be fewer.
    ///
    /// # Panics
    /// If a read gives fewer or more values than it was asked for.
    pub(super) fn fill<P: Send>(
        &self,
        width: usize,
        panels: impl IndexedParallelIterator<Item = P>,
        pack: impl Fn(P, &[f32]) + Sync,
    ) -> Result<(), ModelError> {
        let at_a_time = (VALUES_AT_A_TIME / (width * self.k)).max(1);
        panels.chunks(at_a_time).enumerate().try_for_each(|(i, panels)| {
            let first = i * at_a_time * width;
            let rows = first..self.n.min(first + panels.len() * width);
            let values = (self.read)(rows.clone())?;
            assert_eq!(values.len(), rows.len() * self.k, "rows {rows:?} have {} values each", self.k);
            for (panel, rows) in panels.into_iter().zip(values.chunks(width * self.k)) {
                pack(panel, rows);
            }
            Ok(())
        })
    }
}

/// Packs weights as panels `[panel, k, width]`.
pub(super) fn pack<T: Copy + Default + Send + Sync>(
    rows: &Rows,
    width: usize,
    store: impl Fn(f32) -> T + Sync,
) -> Result<Aligned<T>, ModelError> {
    let k = rows.k;
    let mut panels = Aligned::zeros(rows.n.div_ceil(width) * width * k);
    rows.fill(width, panels.par_chunks_mut(width * k), |panel, rows| {
        for (i, panel) in panel.chunks_exact_mut(width).enumerate() {
            for (value, row) in panel.iter_mut().zip(rows.chunks_exact(k)) {
                *value = store(row[i]);
            }
        }
    })?;
    Ok(panels)
}
