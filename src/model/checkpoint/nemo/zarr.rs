//! A zarr array (version 2) of plain numbers: a `.zarray` file that says its shape, and one file for each chunk with its
//! values in row-major order. No compression and no filters, as Megatron writes weights; the type `"bfloat16"`, which
//! zarr does not know, is theirs. A chunk that is missing is an error, never a fill value.
//!
//! Format: <https://zarr-specs.readthedocs.io/en/latest/v2/v2.0.html>.

use std::ops::Range;

use serde_json::Value;

use super::store::{Blob, Store};
use crate::model::checkpoint::TensorInfo;
use crate::model::compute::dtype::Precision;
use crate::model::error::ModelError;

/// An array as a stack of matrices. A vector is a matrix of one column, and what is not stacked a stack of one.
#[derive(Debug)]
pub struct ZarrArray {
    /// The array's folder in the checkpoint.
    name: String,
    /// Matrices, rows, columns.
    shape: [usize; 3],
    /// Of a chunk.
    chunk: [usize; 3],
    /// The array's own dimensions among the three.
    dimensions: Range<usize>,
    separator: char,
    precision: Precision,
}

/// `.zarray`.
#[derive(serde::Deserialize)]
struct Header {
    zarr_format: u64,
    shape: Vec<usize>,
    chunks: Vec<usize>,
    dtype: String,
    compressor: Value,
    filters: Value,
    order: String,
    #[serde(default = "dot")]
    dimension_separator: char,
}

fn dot() -> char {
    '.'
}

impl ZarrArray {
    /// Opens an array and looks whether all of its chunks are there. A stacked array's first dimension is the layer.
    pub fn open(store: &Store, name: String, stacked: bool) -> Result<Self, ModelError> {
        let header = format!("{name}/.zarray");
        let malformed = |reason: String| ModelError::malformed(&store.place(&header), reason);
        let parsed = serde_json::from_slice(store.open(&header)?.all()).map_err(|e| malformed(e.to_string()))?;
        let array = Self::new(name, parsed, stacked).map_err(malformed)?;
        array.check_chunks(store)?;
        Ok(array)
    }

    fn new(name: String, header: Header, stacked: bool) -> Result<Self, String> {
        let Header { zarr_format, shape, chunks, dtype, compressor, filters, order, dimension_separator } = header;
        if zarr_format != 2 {
            return Err(format!("zarr_format is {zarr_format}, expected 2"));
        }
        if !compressor.is_null() {
            return Err(format!("compressor is {compressor}, expected null"));
        }
        if filters.as_array().map_or(!filters.is_null(), |filters| !filters.is_empty()) {
            return Err(format!("filters is {filters}, expected null"));
        }
        if order != "C" {
            return Err(format!("order is {order:?}, expected \"C\""));
        }
        let precision = match &*dtype {
            "bfloat16" => Precision::Bf16,
            "<f2" | "float16" => Precision::F16,
            "<f4" | "float32" => Precision::F32,
            other => return Err(format!("dtype is {other:?}, expected bfloat16, <f2 or <f4")),
        };
        if !matches!(dimension_separator, '.' | '/') {
            return Err(format!("dimension_separator is {dimension_separator:?}, expected \".\" or \"/\""));
        }
        let first = usize::from(!stacked);
        let dimensions = first..first + shape.len();
        if dimensions.is_empty() || dimensions.end > 3 || (stacked && shape.len() < 2) {
            let expected = if stacked { "a vector or matrix for each layer" } else { "a vector or matrix" };
            return Err(format!("shape is {shape:?}, expected {expected}"));
        }
        if chunks.len() != shape.len() || chunks.contains(&0) || shape.contains(&0) {
            return Err(format!("shape is {shape:?} and chunks {chunks:?}, expected the same number of sizes above 0"));
        }
        let fits = TensorInfo::elements(&shape).is_some() && TensorInfo::elements(&chunks).is_some();
        if !fits {
            return Err(format!("shape is {shape:?} and chunks {chunks:?}, more than memory can hold"));
        }
        let cube = |sizes: &[usize]| {
            let mut cube = [1; 3];
            cube[dimensions.clone()].copy_from_slice(sizes);
            cube
        };
        let (shape, chunk) = (cube(&shape), cube(&chunks));
        Ok(Self { name, shape, chunk, dimensions, separator: dimension_separator, precision })
    }

    fn check_chunks(&self, store: &Store) -> Result<(), ModelError> {
        let length = self.chunk.iter().product::<usize>() * self.precision.bytes();
        let counts = |i: usize| 0..self.shape[i].div_ceil(self.chunk[i]);
        // It ends at the first chunk that is not there, so it is never longer than there are files.
        for (matrix, row, column) in
            counts(0).flat_map(|m| counts(1).flat_map(move |r| counts(2).map(move |c| (m, r, c))))
        {
            let file = self.file([matrix, row, column]);
            let reason = match store.length(&file) {
                Some(found) if found == length => continue,
                Some(found) => format!("the chunk has {found} bytes, expected {length}"),
                None => "the chunk is missing".to_owned(),
            };
            return Err(ModelError::malformed(&store.place(&file), reason));
        }
        Ok(())
    }

    /// Matrices in the stack.
    pub fn matrices(&self) -> usize {
        self.shape[0]
    }

    /// Shape of one matrix, or of the vector that it is.
    pub fn matrix_shape(&self) -> &[usize] {
        &self.shape[1..self.dimensions.end]
    }

    /// The type of the values.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The array's folder in the checkpoint.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file of a chunk.
    fn file(&self, chunk: [usize; 3]) -> String {
        let indices: Vec<_> = chunk[self.dimensions.clone()].iter().map(usize::to_string).collect();
        format!("{}/{}", self.name, indices.join(&self.separator.to_string()))
    }

    /// Appends a rectangle of one matrix, row after row. It lies within the array.
    pub fn read(
        &self,
        store: &Store,
        matrix: usize,
        rows: Range<usize>,
        columns: Range<usize>,
        values: &mut Vec<f32>,
    ) -> Result<(), ModelError> {
        let [per_chunk, height, width] = self.chunk;
        let size = self.precision.bytes();
        if columns.is_empty() {
            return Ok(());
        }
        for (chunk_row, rows) in pieces(rows, height) {
            let mut parts: Vec<(Blob, Range<usize>)> = Vec::new();
            for (chunk_column, columns) in pieces(columns.clone(), width) {
                parts.push((store.open(&self.file([matrix / per_chunk, chunk_row, chunk_column]))?, columns));
            }
            let at = |row: usize, column: usize| ((matrix % per_chunk * height + row) * width + column) * size;
            let mut widen = |blob: &Blob, from: usize, to: usize| {
                let bytes = blob.file.weights(blob.bytes.start + from..blob.bytes.start + to);
                self.precision.widen(bytes.expect("chunks were measured when the array was opened"), values);
            };
            match &parts[..] {
                [(blob, columns)] if *columns == (0..width) => widen(blob, at(rows.start, 0), at(rows.end, 0)),
                parts => {
                    for row in rows.clone() {
                        for (blob, columns) in parts {
                            widen(blob, at(row, columns.start), at(row, columns.end));
                        }
                    }
                }
            }
            for (blob, _) in &parts {
                blob.file.release(blob.bytes.start + at(rows.start, 0)..blob.bytes.start + at(rows.end, 0));
            }
        }
        Ok(())
    }
}

/// A range cut at the multiples of a length: the number of each piece, and its range within the piece of that number.
fn pieces(range: Range<usize>, length: usize) -> impl Iterator<Item = (usize, Range<usize>)> {
    (range.start / length..range.end.div_ceil(length)).map(move |i| {
        let start = i * length;
        (i, range.start.max(start) - start..range.end.min(start + length) - start)
    })
}
