//! Several files of one format as one source: the shards of a folder in Hugging Face layout, with the index that says
//! which tensor is in which.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::{RawInfo, Slice, TensorInfo, WeightSource};
use crate::model::error::{ModelError, read_json};

/// Opens one weights file of a format.
pub(super) type Open = fn(&Path) -> Result<Box<dyn WeightSource>, ModelError>;

/// The tensors of one file or of several shards.
pub struct Shards {
    /// The file, or the index.
    path: PathBuf,
    files: Vec<(PathBuf, Box<dyn WeightSource>)>,
    /// The file of each tensor.
    tensors: BTreeMap<String, usize>,
}

/// `model.safetensors.index.json`, or that of another format.
#[derive(serde::Deserialize)]
struct Index {
    /// File name of each tensor.
    weight_map: BTreeMap<String, String>,
}

impl Shards {
    /// One file.
    pub(super) fn single(path: &Path, open: Open) -> Result<Self, ModelError> {
        let file = open(path)?;
        let tensors = file.names().into_iter().map(|name| (name, 0)).collect();
        Ok(Self { path: path.to_path_buf(), files: vec![(path.to_path_buf(), file)], tensors })
    }

    /// The shards that an index names. Every tensor must be in the shard that the index says.
    pub(super) fn open(index: &Path, open: Open) -> Result<Self, ModelError> {
        let Index { weight_map } = read_json(index)?;
        let folder = index.parent().unwrap_or(Path::new("."));
        let names: BTreeSet<&String> = weight_map.values().collect();
        let mut files = Vec::new();
        let mut tensors = BTreeMap::new();
        for (i, name) in names.into_iter().enumerate() {
            // A shard's name is a file beside the index, never a path to somewhere else.
            if name.is_empty() || name.contains(['/', '\\']) || name == ".." {
                return Err(ModelError::malformed(index, format!("shard {name:?} is not a file name")));
            }
            let path = folder.join(name);
            let file = open(&path)?;
            let promised = |tensor: &String| weight_map.get(tensor) == Some(name);
            tensors.extend(file.names().into_iter().filter(promised).map(|tensor| (tensor, i)));
            files.push((path, file));
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
        self.files.iter().map(|(path, _)| path.clone()).collect()
    }

    fn file(&self, name: &str) -> Option<&dyn WeightSource> {
        Some(self.files[*self.tensors.get(name)?].1.as_ref())
    }
}

impl WeightSource for Shards {
    fn info(&self, name: &str) -> Option<TensorInfo> {
        self.file(name)?.info(name)
    }

    fn read_within(&self, name: &str, slice: &Slice) -> Result<Vec<f32>, ModelError> {
        self.file(name).ok_or_else(|| self.missing(name))?.read_within(name, slice)
    }

    fn raw_info(&self, name: &str) -> Option<RawInfo> {
        self.file(name)?.raw_info(name)
    }

    fn read_raw(&self, name: &str, slice: &Slice) -> Result<Vec<u8>, ModelError> {
        self.file(name).ok_or_else(|| self.missing(name))?.read_raw(name, slice)
    }

    fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    fn origin(&self, name: &str) -> PathBuf {
        self.file(name).map_or_else(|| self.path.clone(), |file| file.origin(name))
    }

    fn bytes_read(&self) -> u64 {
        self.files.iter().map(|(_, file)| file.bytes_read()).sum()
    }
}
