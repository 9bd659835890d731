//! Tensors that lie row after row in little-endian bytes, as most formats store them.

use std::ops::Range;

use half::{bf16, f16};

use super::{MappedFile, Slice};
use crate::model::compute::dtype::Precision;

/// A dense tensor's place in a file. Made only for ranges that were checked against the file's length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dense {
    /// The type of its values.
    pub precision: Precision,
    /// The tensor seen as a matrix.
    pub columns: usize,
    /// Its bytes in the file.
    pub bytes: Range<usize>,
}

/// The place of a tensor's rows in a file, whatever they hold. Made only for ranges that were checked against the file's
/// length.
#[derive(Debug, Clone)]
pub struct Rows {
    /// Bytes of an element.
    pub size: usize,
    /// Elements of a row.
    pub columns: usize,
    /// The tensor's bytes in the file.
    pub bytes: Range<usize>,
}

impl Rows {
    /// Hands over the bytes of a slice, row after row, in as few pieces as it lies in.
    ///
    /// # Panics
    /// If the slice is not within the tensor, which [`super::WeightSource::read`] checks, or the bytes not in the file.
    pub fn visit(&self, file: &MappedFile, slice: &Slice, mut piece: impl FnMut(&[u8])) {
        let at = |row: usize, column: usize| self.bytes.start + (row * self.columns + column) * self.size;
        let within = |range| file.weights(range).expect("the header's ranges were checked against the file");
        if slice.columns == (0..self.columns) {
            piece(within(at(slice.rows.start, 0)..at(slice.rows.end, 0)));
        } else {
            for row in slice.rows.clone() {
                piece(within(at(row, slice.columns.start)..at(row, slice.columns.end)));
            }
        }
        file.release(at(slice.rows.start, 0)..at(slice.rows.end, 0));
    }
}

impl Dense {
    /// The slice's values as float32, row after row.
    ///
    /// # Panics
    /// If the slice is not within the tensor, which [`super::WeightSource::read`] checks, or the bytes not in the file.
    pub fn read(&self, file: &MappedFile, slice: &Slice) -> Vec<f32> {
        let rows = Rows { size: self.precision.bytes(), columns: self.columns, bytes: self.bytes.clone() };
        let mut values = Vec::with_capacity(slice.len());
        rows.visit(file, slice, |bytes| self.precision.widen(bytes, &mut values));
        values
    }
}

impl Precision {
    /// Bytes of one value.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// The nearest value that the type has, ties to even.
    pub fn round(self, value: f32) -> f32 {
        match self {
            Self::F32 => value,
            Self::F16 => f16::from_f32(value).to_f32(),
            Self::Bf16 => bf16::from_f32(value).to_f32(),
        }
    }

    /// Appends the values that little-endian bytes stand for. They need not be aligned in a file.
    pub fn widen(self, bytes: &[u8], values: &mut Vec<f32>) {
        match self {
            Self::F32 => values.extend(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b))),
            Self::F16 => values.extend(bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32())),
            Self::Bf16 => values.extend(bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32())),
        }
    }
}
