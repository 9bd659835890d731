//! Checkpoints: named tensors in files, behind one trait.
//!
//! A format is one file here and one line in [`open_weights`]. Names and layouts are those of Hugging Face's
//! `transformers` whatever the format; a format that differs translates. Whoever reads a tensor states the shape that
//! it expects.

mod composed;
mod dense;
pub(crate) mod gguf;
mod mapped;
mod safetensors;

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

pub use composed::{Adapter, Composed, HEAD, Rounding};
pub use dense::Dense;
pub use gguf::GgufFile;
pub use mapped::MappedFile;
pub use safetensors::SafetensorsFiles;

use super::ModelError;

/// What is known of a tensor before it is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Outermost dimension first, as PyTorch has it.
    pub shape: Vec<usize>,
    /// The narrowest type that holds its values exactly.
    pub precision: Precision,
}

impl TensorInfo {
    /// The tensor seen as a matrix: the outermost dimension by all others. A vector has one column.
    pub fn matrix(&self) -> (usize, usize) {
        match &self.shape[..] {
            [] => (1, 1),
            [rows, rest @ ..] => (*rows, rest.iter().product()),
        }
    }
}

/// Types that hold a tensor's values exactly. Every one of them widens to float32 without loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// IEEE 754 binary32; also every quantised type, which is read as float32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// The upper half of binary32.
    Bf16,
}

impl Precision {
    /// As model versions write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
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

/// Named tensors. Shared by the threads that load layers side by side.
pub trait WeightSource: Send + Sync {
    /// What is known of a tensor; `None` if there is no such tensor.
    fn info(&self, name: &str) -> Option<TensorInfo>;

    /// Reads a slice of a tensor as float32, row after row, from no more of the file than it takes. The slice lies within
    /// the tensor; callers go through [`Self::read`].
    fn read_within(&self, name: &str, slice: &Slice) -> Result<Vec<f32>, ModelError>;

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

/// Opens the safetensors of a folder in Hugging Face layout: `model.safetensors.index.json` with its shards, or
/// `model.safetensors`.
pub fn open_folder(folder: &Path) -> Result<SafetensorsFiles, ModelError> {
    let index = folder.join("model.safetensors.index.json");
    if index.exists() {
        return SafetensorsFiles::open_sharded(&index);
    }
    let single = folder.join("model.safetensors");
    if single.exists() {
        return SafetensorsFiles::open(&single);
    }
    let elsewhere = ["pytorch_model.bin", "pytorch_model.bin.index.json"].iter().any(|f| folder.join(f).exists());
    Err(ModelError::malformed(
        folder,
        match elsewhere {
            true => {
                "holds weights as pytorch_model.bin only; convert them to model.safetensors (in Python: \
                 `AutoModelForSequenceClassification.from_pretrained(folder).save_pretrained(out)`)"
            }
            false => "holds no weights: neither model.safetensors nor model.safetensors.index.json",
        },
    ))
}
