//! The rows of a pass that are read: once the last layer has keys and values of all rows, nobody looks at the others.

use candle_core::{Device, Result, Tensor};

use crate::model::shapes::HeadLayout;

/// The rows that are read, each once.
pub(super) struct Reads {
    /// In ascending order.
    pub rows: Vec<u32>,
    /// The same on the pass's device.
    pub selected: Tensor,
    /// Where each read of the pass is among them.
    places: Tensor,
}

impl Reads {
    /// The rows of `reads`, of which several may be of one row.
    pub fn new(reads: &[u32], device: &Device) -> Result<Self> {
        let mut rows = reads.to_vec();
        rows.sort_unstable();
        rows.dedup();
        let places: Vec<_> = reads.iter().map(|read| rows.partition_point(|row| row < read) as u32).collect();
        Ok(Self { selected: Tensor::new(&rows[..], device)?, places: Tensor::new(&places[..], device)?, rows })
    }

    /// `x: [rows, features]` as `[reads, features]`.
    pub fn of_each(&self, x: &Tensor) -> Result<Tensor> {
        x.index_select(&self.places, 0)
    }

    /// The positions of the rows.
    pub fn positions(&self, positions: &[u32]) -> Vec<u32> {
        self.rows.iter().map(|&row| positions[row as usize]).collect()
    }
}

/// What a projection of so many operations for all rows costs where the queries are those of a part of the rows.
pub(super) fn projection_operations(all: usize, heads: HeadLayout, rows: usize, reads: usize) -> usize {
    let queries = all / heads.row() * heads.heads * heads.head_dim;
    all - queries + queries / rows.max(1) * reads
}
