//! An array in rectangles, each saved as a tensor of its own.
//!
//! The invariant: the rectangles fill the array, and none overlaps another.

use std::ops::Range;

use super::store::{Blob, Store};
use crate::model::checkpoint::Slice;
use crate::model::checkpoint::pytorch::SavedTensor;
use crate::model::compute::dtype::Precision;
use crate::model::error::ModelError;

/// Pairs of rectangles that are compared with each other at most.
const MAX_PAIRS: usize = 1 << 24;

/// An array as a stack of matrices.
#[derive(Debug)]
pub struct ChunkedArray {
    /// Matrices, rows, columns.
    shape: [usize; 3],
    /// Dimensions of a matrix: 1 if it is a vector.
    dimensions: usize,
    precision: Precision,
    chunks: Vec<Chunk>,
}

/// A rectangle of an array.
#[derive(Debug)]
pub struct Chunk {
    /// The file that it is in.
    pub file: String,
    offsets: [usize; 3],
    sizes: [usize; 3],
    tensor: SavedTensor,
}

impl Chunk {
    /// The rectangle with `(offsets, sizes)`, which was saved at `(offset, length)` of a file.
    pub fn open(
        store: &Store,
        file: String,
        (offset, length): (usize, usize),
        (offsets, sizes): ([usize; 3], [usize; 3]),
        precision: Precision,
    ) -> Result<Self, ModelError> {
        let Blob { file: mapped, bytes } = store.open(&file)?;
        let malformed = |reason: String| ModelError::malformed(&store.place(&file), reason);
        let start = bytes.start.checked_add(offset);
        let place =
            start.and_then(|start| Some(start..start.checked_add(length)?)).filter(|place| place.end <= bytes.end);
        let place = place.ok_or_else(|| malformed(format!("has no {length} bytes at {offset}")))?;
        let tensor = SavedTensor::open(mapped, place, sizes)
            .map_err(|reason| malformed(format!("{reason}, at byte {offset}")))?;
        if tensor.precision() != precision {
            let found = tensor.precision();
            return Err(malformed(format!("has a tensor of {found} at byte {offset}, expected {precision}")));
        }
        Ok(Self { file, offsets, sizes, tensor })
    }

    /// Its range in one of the dimensions.
    fn range(&self, dimension: usize) -> Range<usize> {
        self.offsets[dimension]..self.offsets[dimension] + self.sizes[dimension]
    }
}

impl ChunkedArray {
    /// An array of rectangles; the error is the end of a sentence about it.
    pub fn new(
        shape: [usize; 3],
        dimensions: usize,
        precision: Precision,
        mut chunks: Vec<Chunk>,
    ) -> Result<Self, String> {
        chunks.sort_by_key(|chunk| chunk.offsets);
        let mut volume: usize = 0;
        for chunk in &chunks {
            let within =
                (0..3).all(|i| chunk.offsets[i].checked_add(chunk.sizes[i]).is_some_and(|end| end <= shape[i]));
            if !within {
                return Err(format!(
                    "has a chunk at {:?} of {:?}, beyond its shape {shape:?}",
                    chunk.offsets, chunk.sizes
                ));
            }
            // Each is at most the array, and there are no more than there are bytes of metadata.
            volume = volume.saturating_add(chunk.sizes.iter().product());
        }
        if volume != shape.iter().product::<usize>() {
            return Err(format!("has chunks of {volume} values together, expected the shape {shape:?}"));
        }
        let mut pairs = 0;
        for (i, chunk) in chunks.iter().enumerate() {
            // In their order only those can overlap that begin before this one's last matrix.
            for other in chunks[i + 1..].iter().take_while(|other| other.offsets[0] < chunk.range(0).end) {
                pairs += 1;
                let apart = |i| chunk.range(i).end <= other.offsets[i] || other.range(i).end <= chunk.offsets[i];
                if pairs > MAX_PAIRS || !(0..3).any(apart) {
                    return Err(format!("has chunks at {:?} and {:?} that overlap", chunk.offsets, other.offsets));
                }
            }
        }
        Ok(Self { shape, dimensions, precision, chunks })
    }

    /// The type of the values.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Shape of one matrix, or of the vector that it is; there are as many as the stack's first dimension says.
    pub fn matrix_shape(&self) -> &[usize] {
        &self.shape[1..1 + self.dimensions]
    }

    /// Matrices in the stack.
    pub fn matrices(&self) -> usize {
        self.shape[0]
    }

    /// The files that its rectangles are in.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.chunks.iter().map(|chunk| chunk.file.as_str())
    }

    /// Appends a slice of one matrix, row after row. It lies within the array.
    pub fn read(
        &self,
        store: &Store,
        matrix: usize,
        Slice { rows, columns }: &Slice,
        values: &mut Vec<f32>,
    ) -> Result<(), ModelError> {
        let (start, width) = (values.len(), columns.len());
        values.resize(start + rows.len() * width, 0.0);
        let common = |a: &Range<usize>, b: Range<usize>| a.start.max(b.start)..a.end.min(b.end);
        for chunk in self.chunks.iter().filter(|chunk| chunk.range(0).contains(&matrix)) {
            let (part, strip) = (common(rows, chunk.range(1)), common(columns, chunk.range(2)));
            if part.is_empty() || strip.is_empty() {
                continue;
            }
            let file = store.open(&chunk.file)?.file;
            let [first, top, left] = chunk.offsets;
            let inner = chunk.sizes[2];
            // Whole rows of a chunk lie side by side.
            let step = if strip == chunk.range(2) { part.len() } else { 1 };
            for row in part.clone().step_by(step) {
                let at = (row - top) * inner;
                let slice = Slice {
                    rows: matrix - first..matrix - first + 1,
                    columns: at + strip.start - left..at + (step - 1) * inner + strip.end - left,
                };
                let read = chunk.tensor.read(file, &slice);
                for (i, read) in read.chunks_exact(strip.len()).enumerate() {
                    let to = start + (row + i - rows.start) * width + strip.start - columns.start;
                    values[to..to + strip.len()].copy_from_slice(read);
                }
            }
        }
        Ok(())
    }
}
