//! Checkpoints: named tensors in files, behind one trait.
//!
//! A format is one file here and one line in [`open_weights`]. Names and layouts are those of Hugging Face's
//! `transformers` whatever the format; a format that differs translates. Whoever reads a tensor states the shape that
//! it expects.

mod composed;
pub(crate) mod gguf;
mod mapped;
mod safetensors;

use std::path::{Path, PathBuf};

pub use composed::{Adapter, Composed, HEAD, Rounding};
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

/// Named tensors. Shared by the threads that load layers side by side.
pub trait WeightSource: Send + Sync {
    /// What is known of a tensor; `None` if there is no such tensor.
    fn info(&self, name: &str) -> Option<TensorInfo>;

    /// Reads a tensor as float32, row after row.
    fn read(&self, name: &str) -> Result<Vec<f32>, ModelError>;

    /// Every tensor's name, sorted.
    fn names(&self) -> Vec<String>;

    /// The file that holds a tensor, or would hold it; for messages.
    fn origin(&self, name: &str) -> PathBuf;

    /// Reads a tensor of which the shape is known.
    fn read_shape(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, ModelError> {
        self.expect(name, shape)?;
        self.read(name)
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
