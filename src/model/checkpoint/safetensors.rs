//! Safetensors: one file, or shards with an index. Memory-mapped; float32, float16 and bfloat16.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};

use super::{Dense, MappedFile, Precision, Slice, TensorInfo, WeightSource};
use crate::model::ModelError;
use crate::model::error::read_json;

/// The tensors of one file or of several shards.
#[derive(Debug)]
pub struct SafetensorsFiles {
    /// The file, or the index of a sharded checkpoint.
    path: PathBuf,
    files: Vec<MappedFile>,
    tensors: BTreeMap<String, Entry>,
}

/// Where a tensor stands. Ranges were checked against the file's length by the header's parser.
#[derive(Debug)]
struct Entry {
    file: usize,
    shape: Vec<usize>,
    dtype: Dtype,
    bytes: Range<usize>,
}

/// `model.safetensors.index.json`.
#[derive(serde::Deserialize)]
struct Index {
    /// File name of each tensor.
    weight_map: BTreeMap<String, String>,
}

impl SafetensorsFiles {
    /// One file.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        Self::single(MappedFile::open(path)?)
    }

    /// A file that is built into the program; `name` is for messages.
    pub fn embedded(name: PathBuf, bytes: &'static [u8]) -> Result<Self, ModelError> {
        Self::single(MappedFile::embedded(name, bytes))
    }

    fn single(file: MappedFile) -> Result<Self, ModelError> {
        let tensors = entries(&file, 0)?;
        Ok(Self { path: file.path().to_path_buf(), files: vec![file], tensors })
    }

    /// The shards that an index names. Every tensor must be in the shard that the index says.
    pub fn open_sharded(index: &Path) -> Result<Self, ModelError> {
        let Index { weight_map } = read_json(index)?;
        let folder = index.parent().unwrap_or(Path::new("."));
        let mut names: Vec<&String> = weight_map.values().collect();
        names.sort();
        names.dedup();
        let mut files = Vec::new();
        let mut tensors = BTreeMap::new();
        for (i, name) in names.iter().enumerate() {
            // A shard's name is a file beside the index, never a path to somewhere else.
            if name.contains(['/', '\\']) || *name == ".." {
                return Err(ModelError::malformed(index, format!("shard {name:?} is not a file name")));
            }
            let file = MappedFile::open(&folder.join(name))?;
            let mut shard = entries(&file, i)?;
            shard.retain(|tensor, _| weight_map.get(tensor) == Some(name));
            tensors.extend(shard);
            files.push(file);
        }
        if let Some((tensor, shard)) = weight_map.iter().find(|(tensor, _)| !tensors.contains_key(*tensor)) {
            return Err(ModelError::MissingTensor {
                path: folder.join(shard),
                tensor: tensor.clone(),
                hint: format!("; {} says that it is there", index.display()),
            });
        }
        Ok(Self { path: index.to_path_buf(), files, tensors })
    }

    /// Every file that holds weights.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.files.iter().map(|f| f.path().to_path_buf()).collect()
    }
}

fn entries(file: &MappedFile, index: usize) -> Result<BTreeMap<String, Entry>, ModelError> {
    let malformed = |e: safetensors::SafeTensorError| {
        ModelError::malformed(file.path(), format!("not a readable safetensors file: {e}"))
    };
    let (header, metadata) = SafeTensors::read_metadata(file.bytes()).map_err(malformed)?;
    let data = header + 8;
    let mut entries = BTreeMap::new();
    for (name, info) in metadata.tensors() {
        let (start, end) = info.data_offsets;
        let bytes = data + start..data + end;
        if bytes.end > file.bytes().len() {
            return Err(ModelError::malformed(
                file.path(),
                format!("tensor {name:?} reaches past the end of the file"),
            ));
        }
        entries.insert(name, Entry { file: index, shape: info.shape.clone(), dtype: info.dtype, bytes });
    }
    Ok(entries)
}

impl WeightSource for SafetensorsFiles {
    fn info(&self, name: &str) -> Option<TensorInfo> {
        let entry = self.tensors.get(name)?;
        // Types without a precision are refused when read, where the message can name them.
        let precision = precision(entry.dtype).unwrap_or(Precision::F32);
        Some(TensorInfo { shape: entry.shape.clone(), precision })
    }

    fn read_within(&self, name: &str, slice: &Slice) -> Result<Vec<f32>, ModelError> {
        let entry = self.tensors.get(name).ok_or_else(|| self.missing(name))?;
        let precision = precision(entry.dtype).ok_or_else(|| ModelError::Dtype {
            path: self.origin(name),
            tensor: name.to_owned(),
            expected: "F32, F16 or BF16",
            found: format!("{:?}", entry.dtype),
        })?;
        let columns = entry.shape.iter().skip(1).product();
        Ok(Dense { precision, columns, bytes: entry.bytes.clone() }.read(&self.files[entry.file], slice))
    }

    fn bytes_read(&self) -> u64 {
        self.files.iter().map(MappedFile::bytes_read).sum()
    }

    fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    fn origin(&self, name: &str) -> PathBuf {
        match self.tensors.get(name) {
            Some(entry) => self.files[entry.file].path().to_path_buf(),
            None => self.path.clone(),
        }
    }
}

fn precision(dtype: Dtype) -> Option<Precision> {
    match dtype {
        Dtype::F32 => Some(Precision::F32),
        Dtype::F16 => Some(Precision::F16),
        Dtype::BF16 => Some(Precision::Bf16),
        _ => None,
    }
}
