//! Several files of one format as one source: the shards of a folder in Hugging Face layout, with the index that says
//! which tensor is in which, and files with a head beside them. Tensors have the names of a model with a head, whatever
//! stands before them in the files (see [`super::names`]).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::names::{body, with_head, wrapped};
use super::{RawInfo, Slice, TensorInfo, WeightSource};
use crate::model::error::{ModelError, read_json};

/// Opens one weights file of a format.
pub(super) type Open = fn(&Path) -> Result<Box<dyn WeightSource>, ModelError>;

/// The tensors of one file or of several shards.
pub struct Shards {
    /// The file, or the index.
    path: PathBuf,
    files: Vec<(PathBuf, Box<dyn WeightSource>)>,
    /// Where each tensor is.
    tensors: BTreeMap<String, Place>,
    /// The shard of each tensor that the index promises and that is not there. transformers loads such a folder, and so
    /// is it here where nobody needs the tensor.
    broken: BTreeMap<String, PathBuf>,
}

/// A tensor in a file.
struct Place {
    file: usize,
    /// Its name there.
    name: String,
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
        Self::named(path, vec![(path.to_path_buf(), file)], tensors, BTreeMap::new())
    }

    /// The shards that an index names. What an index does not name is no part of the model.
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
        let absent = weight_map.iter().filter(|(tensor, _)| !tensors.contains_key(*tensor));
        let broken = absent.map(|(tensor, shard)| (tensor.clone(), folder.join(shard))).collect();
        Self::named(index, files, tensors, broken)
    }

    /// Gives tensors the names that they have in a model with a head; `tensors` are their names in the files, and which.
    fn named(
        path: &Path,
        files: Vec<(PathBuf, Box<dyn WeightSource>)>,
        tensors: BTreeMap<String, usize>,
        broken: BTreeMap<String, PathBuf>,
    ) -> Result<Self, ModelError> {
        let names: Vec<&str> = tensors.keys().map(String::as_str).collect();
        let outer = wrapped(&names).len();
        let inner: Vec<&str> = names.iter().map(|name| &name[outer..]).collect();
        let begin = body(&inner);
        let named = |name: &str| with_head(name.get(outer..).unwrap_or(name), begin);
        let broken = broken.into_iter().map(|(name, shard)| (named(&name), shard)).collect();
        let mut places = BTreeMap::new();
        for (name, file) in &tensors {
            if places.insert(named(name), Place { file: *file, name: name.clone() }).is_some() {
                let reason = format!("tensor {name:?} is there twice, once under another name");
                return Err(ModelError::malformed(path, reason));
            }
        }
        Ok(Self { path: path.to_path_buf(), files, tensors: places, broken })
    }

    /// Adds a file with tensors that the others have not; `begin` stands before their names in the model.
    pub(super) fn add(&mut self, path: PathBuf, file: Box<dyn WeightSource>, begin: &str) {
        let index = self.files.len();
        for name in file.names() {
            let place = Place { file: index, name: name.clone() };
            self.tensors.entry(format!("{begin}{name}")).or_insert(place);
        }
        self.files.push((path, file));
    }

    /// Every file that holds weights.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.files.iter().map(|(path, _)| path.clone()).collect()
    }

    /// The file of a tensor, and its name there.
    fn place(&self, name: &str) -> Option<(&dyn WeightSource, &str)> {
        let place = self.tensors.get(name)?;
        Some((self.files[place.file].1.as_ref(), &place.name))
    }
}

impl WeightSource for Shards {
    fn info(&self, name: &str) -> Option<TensorInfo> {
        let (file, name) = self.place(name)?;
        file.info(name)
    }

    fn read_within(&self, name: &str, slice: &Slice) -> Result<Vec<f32>, ModelError> {
        let (file, name) = self.place(name).ok_or_else(|| self.missing(name))?;
        file.read_within(name, slice)
    }

    fn raw_info(&self, name: &str) -> Option<RawInfo> {
        let (file, name) = self.place(name)?;
        file.raw_info(name)
    }

    fn read_raw(&self, name: &str, slice: &Slice) -> Result<Vec<u8>, ModelError> {
        let (file, name) = self.place(name).ok_or_else(|| self.missing(name))?;
        file.read_raw(name, slice)
    }

    fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    fn origin(&self, name: &str) -> PathBuf {
        self.place(name).map_or_else(|| self.path.clone(), |(file, name)| file.origin(name))
    }

    fn bytes_read(&self) -> u64 {
        self.files.iter().map(|(_, file)| file.bytes_read()).sum()
    }

    fn missing(&self, name: &str) -> ModelError {
        let (path, hint) = match self.broken.get(name) {
            Some(shard) => (shard.clone(), format!("; {} says that it is there", self.path.display())),
            None => (self.path.clone(), String::new()),
        };
        ModelError::MissingTensor { path, tensor: name.to_owned(), hint }
    }
}
