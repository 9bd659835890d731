//! Named tensors, whatever file they are in: what is known of them, and how parts of them are read.
//!
//! Names and layouts are those of Hugging Face's `transformers`; a format that differs translates. A reader states the
//! shape that it expects.

use std::ops::Range;
use std::path::PathBuf;

use crate::model::compute::dtype::Precision;
use crate::model::error::ModelError;

/// What is known of a tensor before it is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Outermost dimension first, as PyTorch has it.
    pub shape: Vec<usize>,
    /// The narrowest type that holds its values exactly.
    pub precision: Precision,
}

impl TensorInfo {
    /// Values in a tensor of a shape; `None` if they would not fit into memory as float32, which no honest header says.
    /// Whoever reads a header asks this first: [`Self::matrix`] multiplies without looking.
    pub fn elements(shape: &[usize]) -> Option<usize> {
        // Without the zeros, which would hide an overflow on either side of them.
        let limit = isize::MAX as usize / size_of::<f32>();
        shape.iter().try_fold(1, |n: usize, &length| n.checked_mul(length.max(1))).filter(|&n| n <= limit)?;
        Some(shape.iter().product())
    }

    /// The tensor seen as a matrix: the outermost dimension by all others. A vector has one column.
    pub fn matrix(&self) -> (usize, usize) {
        match &self.shape[..] {
            [] => (1, 1),
            [rows, rest @ ..] => (*rows, rest.iter().product()),
        }
    }
}

/// Types of what stands in files: plain weights, and codes that others make weights of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ElementType {
    F32,
    F16,
    Bf16,
    /// Four bits of exponent, three of mantissa, no infinities: `torch.float8_e4m3fn`.
    F8E4M3,
    I8,
    U8,
    I32,
    I64,
}

impl ElementType {
    /// Bytes of one.
    pub fn bytes(self) -> usize {
        match self {
            Self::F8E4M3 | Self::I8 | Self::U8 => 1,
            Self::F16 | Self::Bf16 => 2,
            Self::F32 | Self::I32 => 4,
            Self::I64 => 8,
        }
    }

    /// The type as that of plain weights.
    pub fn precision(self) -> Option<Precision> {
        match self {
            Self::F32 => Some(Precision::F32),
            Self::F16 => Some(Precision::F16),
            Self::Bf16 => Some(Precision::Bf16),
            Self::F8E4M3 | Self::I8 | Self::U8 | Self::I32 | Self::I64 => None,
        }
    }
}

/// A tensor as it stands in its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawInfo {
    /// Outermost dimension first.
    pub shape: Vec<usize>,
    /// Type of its elements.
    pub element: ElementType,
}

/// A rectangle of a tensor that is seen as a matrix; see [`TensorInfo::matrix`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    /// Rows, in the outermost dimension.
    pub rows: Range<usize>,
    /// Columns, in all others.
    pub columns: Range<usize>,
}

impl Slice {
    /// Values in it.
    pub fn len(&self) -> usize {
        self.rows.len() * self.columns.len()
    }
}

/// A slice of a change of low rank that is not merged: `f * (W + scale * B A)`.
pub struct Factors {
    /// `A`: `[rank, columns]`.
    pub a: Vec<f32>,
    /// `B`: `[rows, rank]`.
    pub b: Vec<f32>,
    /// At least 1.
    pub rank: usize,
    /// What the product is multiplied by.
    pub scale: f32,
    /// What each row is multiplied by in the end, `f`; `None` where that is 1.
    pub row_factors: Option<Vec<f32>>,
}

/// Named tensors. Shared by the threads that load layers side by side.
pub trait WeightSource: Send + Sync {
    /// What is known of a tensor; `None` if there is no such tensor.
    fn info(&self, name: &str) -> Option<TensorInfo>;

    /// Reads a slice of a tensor as float32, row after row, from no more of the file than it takes. The slice lies within
    /// the tensor; callers go through [`Self::read`].
    fn read_within(&self, name: &str, slice: &Slice) -> Result<Vec<f32>, ModelError>;

    /// A tensor as it stands in its file; `None` if it is not there, is of another type than those of [`ElementType`], or
    /// the format has plain weights alone.
    fn raw_info(&self, _name: &str) -> Option<RawInfo> {
        None
    }

    /// The bytes of a slice of a tensor that [`Self::raw_info`] knows, row after row, little-endian. The slice lies within
    /// the tensor.
    fn read_raw(&self, name: &str, _slice: &Slice) -> Result<Vec<u8>, ModelError> {
        Err(self.missing(name))
    }

    /// Whether a tensor is another than the base's, which several models may share.
    fn is_changed(&self, _name: &str) -> bool {
        false
    }

    /// A slice of what is added to a matrix of the base, where it is of low rank and can be left apart; `None` where it cannot.
    fn low_rank(&self, _name: &str, _slice: &Slice) -> Result<Option<Factors>, ModelError> {
        Ok(None)
    }

    /// Every tensor's name, sorted.
    fn names(&self) -> Vec<String>;

    /// The file that holds a tensor, or would hold it; for messages.
    fn origin(&self, name: &str) -> PathBuf;

    /// Bytes of weights that were read from files so far.
    fn bytes_read(&self) -> u64;

    /// Reads a slice of a tensor as float32, row after row.
    fn read(&self, name: &str, slice: &Slice) -> Result<Vec<f32>, ModelError> {
        let info = self.info(name).ok_or_else(|| self.missing(name))?;
        let (rows, columns) = info.matrix();
        if slice.rows.end > rows || slice.columns.end > columns {
            let (rows, columns) = (&slice.rows, &slice.columns);
            return Err(ModelError::malformed(
                &self.origin(name),
                format!(
                    "tensor {name:?} has shape {:?}, which has no rows {rows:?} by columns {columns:?}",
                    info.shape
                ),
            ));
        }
        self.read_within(name, slice)
    }

    /// Reads a whole tensor as float32.
    fn read_all(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        let (rows, columns) = self.info(name).ok_or_else(|| self.missing(name))?.matrix();
        self.read_within(name, &Slice { rows: 0..rows, columns: 0..columns })
    }

    /// Reads a whole tensor of which the shape is known.
    fn read_shape(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, ModelError> {
        self.expect(name, shape)?;
        self.read_all(name)
    }

    /// The tensor's precision, if it is there and has this shape.
    fn expect(&self, name: &str, shape: &[usize]) -> Result<Precision, ModelError> {
        let info = self.info(name).ok_or_else(|| self.missing(name))?;
        if info.shape != shape {
            return Err(ModelError::Shape {
                path: self.origin(name),
                tensor: name.to_owned(),
                expected: shape.to_vec(),
                found: info.shape,
            });
        }
        Ok(info.precision)
    }

    /// The error that says that a tensor is missing.
    fn missing(&self, name: &str) -> ModelError {
        ModelError::MissingTensor { path: self.origin(name), tensor: name.to_owned(), hint: String::new() }
    }
}
