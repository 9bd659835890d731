//! Checkpoints: named tensors in files, behind one trait.
//!
//! A format is one file here and one line where references are opened ([`crate::model::source::base`], or [`open_folder`] for Hugging Face's
//! layout). Names and layouts are those of Hugging Face's
//! `transformers` whatever the format; a format that differs translates. Whoever reads a tensor states the shape that
//! it expects.

mod adapter;
mod composed;
mod dense;
pub(crate) mod gguf;
mod mapped;
mod nemo;
pub(crate) mod peft;
mod pytorch;
mod safetensors;
mod shards;

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

pub use adapter::{ADAPTER_CONFIG, Adapter};
pub use composed::{Composed, Rounding};
pub use dense::Dense;
pub use gguf::GgufFile;
pub use mapped::MappedFile;
pub use nemo::{ATTRIBUTE_WEIGHTS, NemoCheckpoint};
pub use pytorch::PytorchFile;
pub use safetensors::SafetensorsFile;
pub use shards::Shards;

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

/// Weights of a folder in Hugging Face layout, in transformers' order of preference. A file comes before an index of the
/// same format: where both are there, somebody has merged the shards, or trained on, and saved into one file.
const WEIGHT_FILES: [(&str, Open); 2] = [
    ("model.safetensors", |path| Ok(Box::new(SafetensorsFile::open(path)?))),
    ("pytorch_model.bin", |path| Ok(Box::new(PytorchFile::open(path)?))),
];

/// Opens one weights file of a format.
type Open = fn(&Path) -> Result<Box<dyn WeightSource>, ModelError>;

/// Opens the weights of a folder in Hugging Face layout: `model.safetensors`, else `pytorch_model.bin`, each as one file or
/// as the shards that `NAME.index.json` names.
pub fn open_folder(folder: &Path) -> Result<Shards, ModelError> {
    for (name, open) in WEIGHT_FILES {
        let single = folder.join(name);
        if single.exists() {
            return Shards::single(&single, open);
        }
        let index = folder.join(format!("{name}.index.json"));
        if index.exists() {
            return Shards::open(&index, open);
        }
    }
    let looked: Vec<_> = WEIGHT_FILES.iter().map(|(name, _)| format!("{name}, {name}.index.json")).collect();
    Err(ModelError::malformed(folder, format!("holds no weights; looked for {}", looked.join(", "))))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A safetensors file of one value, under this name.
    fn write(path: &Path, tensor: &str) {
        let bytes = 1f32.to_le_bytes();
        let view = ::safetensors::tensor::TensorView::new(::safetensors::Dtype::F32, vec![1], &bytes).unwrap();
        ::safetensors::serialize_to_file([(tensor, view)], None, path).unwrap();
    }

    /// An index that was left behind when the shards were merged says nothing of what the merged file holds.
    #[test]
    fn a_whole_file_comes_before_an_index() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        write(&path("model-00001-of-00001.safetensors"), "old");
        std::fs::write(
            path("model.safetensors.index.json"),
            r#"{"weight_map": {"old": "model-00001-of-00001.safetensors"}}"#,
        )
        .unwrap();
        assert_eq!(open_folder(folder.path()).unwrap().names(), ["old"]);
        write(&path("model.safetensors"), "new");
        assert_eq!(open_folder(folder.path()).unwrap().names(), ["new"]);
        // Of any form, safetensors come first.
        std::fs::remove_file(path("model.safetensors")).unwrap();
        std::fs::write(path("pytorch_model.bin"), "").unwrap();
        assert_eq!(open_folder(folder.path()).unwrap().names(), ["old"]);
    }
}
