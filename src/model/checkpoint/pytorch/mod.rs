//! `pytorch_model.bin`: a state dict as `torch.save` writes it since PyTorch 1.6, a zip archive of stored entries with a
//! pickle in it that says which tensor is where. Nothing in the pickle is executed; see [`pickle`].
//!
//! Format: `torch/serialization.py` of PyTorch. A state dict may be wrapped once, as training frameworks do
//! (`{"state_dict": {...}}`, `"model"`, `"module"`, `"model_state_dict"`), and all its names may begin with `module.` or
//! `_orig_mod.`, which wrappers of the model put there, a few of them around one another; both are undone.

mod archive;
pub(super) mod pickle;
mod saved;
mod strided;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use archive::Archive;
use pickle::{Pickle, TensorView, Value};
pub use saved::SavedTensor;
use strided::Strided;

use super::names::wrapped;
use super::{MappedFile, Slice, TensorInfo, WeightSource};
use crate::model::compute::dtype::Precision;
use crate::model::error::ModelError;

/// Keys under which training frameworks put the model's own state dict.
const WRAPPERS: [&str; 4] = ["state_dict", "model", "module", "model_state_dict"];

/// The tensors of one file.
#[derive(Debug)]
pub struct PytorchFile {
    file: MappedFile,
    tensors: BTreeMap<String, Entry>,
}

/// A tensor of a type that can be read, or the name of its type.
#[derive(Debug)]
struct Entry {
    shape: Vec<usize>,
    values: Result<Strided, String>,
}

impl PytorchFile {
    /// Opens a file and reads its pickle.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        Self::read(MappedFile::open(path)?)
    }

    /// Reads the pickle of a file that is open.
    pub fn read(file: MappedFile) -> Result<Self, ModelError> {
        let tensors = tensors(&file).map_err(|reason| ModelError::malformed(file.path(), reason))?;
        Ok(Self { file, tensors })
    }
}

/// The tensors of the state dict, by the names of the model that it was taken from.
fn tensors(file: &MappedFile) -> Result<BTreeMap<String, Entry>, String> {
    let archive = Archive::read(file.bytes())?;
    let pickle = Pickle::run(archive.pickle(file.bytes()))?;
    let views = state_dict(&pickle)?;
    let names: Vec<&str> = views.iter().map(|(name, _)| *name).collect();
    let outer = wrapped(&names).len();
    let mut tensors = BTreeMap::new();
    for (name, view) in &views {
        let entry = Entry::new(view, &archive).map_err(|reason| format!("tensor {name:?} {reason}"))?;
        if tensors.insert(name[outer..].to_owned(), entry).is_some() {
            return Err(format!("tensor {name:?} is there twice"));
        }
    }
    Ok(tensors)
}

/// The named tensors of the outermost dictionary, or of the one that it wraps; at least one.
fn state_dict<'a>(pickle: &'a Pickle) -> Result<Vec<(&'a str, TensorView<'a>)>, String> {
    let named = |value: Value| -> Vec<_> {
        let items = pickle.dictionary(value).unwrap_or_default();
        items.iter().filter_map(|(key, value)| Some((pickle.text(*key)?, pickle.tensor(*value)?))).collect()
    };
    let Some(items) = pickle.dictionary(pickle.root()) else {
        return Err("holds no state dict: its outermost object is not a dictionary".into());
    };
    let own = named(pickle.root());
    if !own.is_empty() {
        return Ok(own);
    }
    let wrapped = items.iter().filter(|(key, _)| pickle.text(*key).is_some_and(|key| WRAPPERS.contains(&key)));
    let mut found = wrapped.map(|(_, value)| named(*value)).filter(|tensors| !tensors.is_empty());
    match (found.next(), found.next()) {
        (Some(tensors), None) => Ok(tensors),
        (None, _) => Err(format!("holds no tensors, neither by itself nor under {}", WRAPPERS.join(", "))),
        (Some(_), Some(_)) => Err(format!("holds several state dicts; expected one of {}", WRAPPERS.join(", "))),
    }
}

/// The precision of a type of storage, if it is one of plain weights.
fn precision(kind: &str) -> Option<Precision> {
    match kind {
        "FloatStorage" => Some(Precision::F32),
        "HalfStorage" => Some(Precision::F16),
        "BFloat16Storage" => Some(Precision::Bf16),
        _ => None,
    }
}

impl Entry {
    /// The error is the end of a sentence about the tensor.
    fn new(view: &TensorView, archive: &Archive) -> Result<Self, String> {
        let bytes =
            archive.storage(view.key).ok_or_else(|| format!("has no entry data/{} in the archive", view.key))?;
        let values = match precision(view.kind) {
            Some(precision) => Ok(Strided::new(view, precision, bytes)?),
            None => Err(view.kind.to_owned()),
        };
        TensorInfo::elements(view.shape).ok_or_else(|| format!("has shape {:?}", view.shape))?;
        Ok(Self { shape: view.shape.to_vec(), values })
    }
}

impl WeightSource for PytorchFile {
    fn info(&self, name: &str) -> Option<TensorInfo> {
        let entry = self.tensors.get(name)?;
        // Types without a precision are refused when read, where the message can name them.
        let precision = entry.values.as_ref().map_or(Precision::F32, Strided::precision);
        Some(TensorInfo { shape: entry.shape.clone(), precision })
    }

    fn read_within(&self, name: &str, slice: &Slice) -> Result<Vec<f32>, ModelError> {
        match &self.tensors.get(name).ok_or_else(|| self.missing(name))?.values {
            Ok(values) => Ok(values.read(&self.file, slice)),
            Err(kind) => Err(ModelError::Dtype {
                path: self.origin(name),
                tensor: name.to_owned(),
                expected: "FloatStorage, HalfStorage or BFloat16Storage",
                found: kind.clone(),
            }),
        }
    }

    fn bytes_read(&self) -> u64 {
        self.file.bytes_read()
    }

    fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    fn origin(&self, _name: &str) -> PathBuf {
        self.file.path().to_path_buf()
    }
}

#[cfg(test)]
pub(super) mod tests;
