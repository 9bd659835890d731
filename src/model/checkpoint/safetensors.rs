//! Safetensors: one file, or shards with an index. Memory-mapped; float32, float16 and bfloat16.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors};

use super::{MappedFile, Precision, TensorInfo, WeightSource};
use crate::model::ModelError;
use crate::model::error::read_json;

/// The tensors of one file or of several shards.
#[derive(Debug)]
pub struct SafetensorsFiles {
    /// The file, or the index of a sharded checkpoint.
    path: PathBuf,
    files: Vec<File>,
    tensors: BTreeMap<String, Entry>,
}

/// What holds the bytes.
#[derive(Debug)]
enum File {
    Mapped(MappedFile),
    /// Built into the program.
    Embedded {
        name: PathBuf,
        bytes: &'static [u8],
    },
}

impl File {
    fn path(&self) -> &Path {
        match self {
            Self::Mapped(file) => file.path(),
            Self::Embedded { name, .. } => name,
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Mapped(file) => file.bytes(),
            Self::Embedded { bytes, .. } => bytes,
        }
    }
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
        Self::single(File::Mapped(MappedFile::open(path)?))
    }

    /// A file that is built into the program; `name` is for messages.
    pub fn embedded(name: PathBuf, bytes: &'static [u8]) -> Result<Self, ModelError> {
        Self::single(File::Embedded { name, bytes })
    }

    fn single(file: File) -> Result<Self, ModelError> {
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
            let file = File::Mapped(MappedFile::open(&folder.join(name))?);
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

fn entries(file: &File, index: usize) -> Result<BTreeMap<String, Entry>, ModelError> {
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
        let precision = match entry.dtype {
            Dtype::F16 => Precision::F16,
            Dtype::BF16 => Precision::Bf16,
            // Others are refused when read, where the message can name them.
            _ => Precision::F32,
        };
        Some(TensorInfo { shape: entry.shape.clone(), precision })
    }

    fn read(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        let entry = self.tensors.get(name).ok_or_else(|| self.missing(name))?;
        let bytes = &self.files[entry.file].bytes()[entry.bytes.clone()];
        // Files are little-endian, and tensors need not be aligned in them.
        match entry.dtype {
            Dtype::F32 => Ok(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()),
            Dtype::F16 => Ok(bytes.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect()),
            Dtype::BF16 => Ok(bytes.chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect()),
            found => Err(ModelError::Dtype {
                path: self.origin(name),
                tensor: name.to_owned(),
                expected: "F32, F16 or BF16",
                found: format!("{found:?}"),
            }),
        }
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
