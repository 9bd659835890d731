//! Scales and other numbers of which a block of a matrix's values shares one.
//!
//! The invariant: what is read is as many of them as the blocks that a slice touches.

use std::ops::Range;

use crate::model::checkpoint::{Slice, WeightSource};
use crate::model::compute::dtype::Precision;
use crate::model::error::ModelError;

/// One number for each block of a matrix.
#[derive(Debug)]
pub struct Scales {
    /// The tensor that holds them, in rows of blocks.
    pub name: String,
    /// Outputs and inputs of a block.
    pub block: [usize; 2],
    /// Whether the tensor's rows are blocks of inputs.
    pub transposed: bool,
    /// The type of the numbers.
    pub precision: Precision,
}

/// Some of the numbers, by their places in the whole.
pub struct Table<T> {
    first: [usize; 2],
    width: usize,
    values: Vec<T>,
    transposed: bool,
}

impl<T: Copy> Table<T> {
    /// The numbers of some rows and columns, row after row, or column after column where `transposed`.
    pub fn new(rows: &Range<usize>, columns: &Range<usize>, values: Vec<T>, transposed: bool) -> Self {
        let width = if transposed { rows.len() } else { columns.len() };
        Self { first: [rows.start, columns.start], width, values, transposed }
    }

    /// The number at a place.
    pub fn at(&self, row: usize, column: usize) -> T {
        let (row, column) = (row - self.first[0], column - self.first[1]);
        let (row, column) = if self.transposed { (column, row) } else { (row, column) };
        self.values[row * self.width + column]
    }
}

impl Scales {
    /// The numbers of the blocks that a slice of the matrix touches, by their places in the grid.
    pub fn read(&self, files: &dyn WeightSource, slice: &Slice) -> Result<Table<f32>, ModelError> {
        let [height, width] = self.block;
        let touched = |range: &Range<usize>, length: usize| range.start / length..range.end.div_ceil(length);
        self.read_grid(files, touched(&slice.rows, height), touched(&slice.columns, width))
    }

    /// The numbers of some places of the grid.
    pub fn read_grid(
        &self,
        files: &dyn WeightSource,
        rows: Range<usize>,
        columns: Range<usize>,
    ) -> Result<Table<f32>, ModelError> {
        let slice = if self.transposed {
            Slice { rows: columns.clone(), columns: rows.clone() }
        } else {
            Slice { rows: rows.clone(), columns: columns.clone() }
        };
        Ok(Table::new(&rows, &columns, files.read(&self.name, &slice)?, self.transposed))
    }
}

/// The whole numbers of one byte at some places of a tensor.
pub fn read_bytes(
    files: &dyn WeightSource,
    name: &str,
    rows: Range<usize>,
    columns: Range<usize>,
) -> Result<Table<i8>, ModelError> {
    let bytes = files.read_raw(name, &Slice { rows: rows.clone(), columns: columns.clone() })?;
    Ok(Table::new(&rows, &columns, bytes.into_iter().map(|byte| byte as i8).collect(), false))
}
