//! Checkpoints of NeMo and Megatron: a folder with `model_config.yaml` and the arrays in `model_weights`, in their zarr
//! format, or the `.nemo` file that is a tar of it; or the arrays in `model_weights.pt`, or in PyTorch's distributed format. Tensors come under the names and in the layouts of
//! transformers, a slice from no more of each chunk than it takes, whatever degree the chunks were cut for.

mod array;
mod chunked;
mod config;
mod context;
mod layout;
mod store;
mod torch_dist;
mod zarr;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use array::{Array, WEIGHTS, Weights};
pub use config::ATTRIBUTE_WEIGHTS;
use layout::{HEAD, Layout};
use serde_json::Value;
use store::Store;
use torch_dist::{METADATA, TorchDist};

#[cfg(fuzzing)]
use super::MappedFile;
use super::{PytorchFile, Slice, TensorInfo, WeightSource};
use crate::model::error::ModelError;
use crate::model::settings::Settings;

const CONFIG: &str = "model_config.yaml";

/// The configuration of NeMo 2, and its folder of weights.
const CONTEXT: &str = "context/model.yaml";
const WEIGHTS_OF_NEMO_2: &str = "weights";

/// The arrays in one file, as PyTorch writes the format that NeMo uses since 2024.
const WEIGHTS_FILE: &str = "model_weights.pt";

/// An open checkpoint.
#[derive(Debug)]
pub struct NemoCheckpoint {
    store: Store,
    weights: Weights,
    layout: Layout,
    config: Value,
    config_path: PathBuf,
    tokenizer: Option<String>,
}

impl NemoCheckpoint {
    /// Whether a path looks like such a checkpoint: a folder with NeMo's configuration, or a `.nemo` file.
    pub fn is(path: &Path) -> bool {
        path.join(CONFIG).exists()
            || (path.join(CONTEXT).exists() && path.join(WEIGHTS_OF_NEMO_2).exists())
            || (path.is_file() && path.extension().is_some_and(|e| e == "nemo"))
    }

    /// Opens a folder or `.nemo` file.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        if path.is_dir() { Self::read(Store::folder(path)?) } else { Self::read(Store::tar(path)?) }
    }

    /// Opens a `.nemo` file of which the bytes are there.
    #[cfg(fuzzing)]
    pub fn read_tar(file: MappedFile) -> Result<Self, ModelError> {
        Self::read(Store::read_tar(file)?)
    }

    fn read(store: Store) -> Result<Self, ModelError> {
        let (nemo, weights) = if store.length(CONTEXT).is_some() && store.length(CONFIG).is_none() {
            let weights = TorchDist::open(&store, WEIGHTS_OF_NEMO_2)?;
            let outputs = weights.shape(HEAD).and_then(|shape| shape.first()).copied();
            let nemo = config::parse_context(&store.place(CONTEXT), store.open(CONTEXT)?.all(), outputs)?;
            (nemo, Weights::Distributed(weights))
        } else {
            (config::parse(&store.place(CONFIG), store.open(CONFIG)?.all())?, weights(&store)?)
        };
        let (architecture, mut config) = config::translate(&nemo)?;
        let layout = Layout::open(&store, &weights, &architecture)?;
        let embedding = layout.tensors.get("model.embed_tokens.weight").ok_or_else(|| {
            ModelError::malformed(
                &store.place(weights.folder()),
                "holds no array model.embedding.word_embeddings.weight",
            )
        })?;
        config["vocab_size"] = embedding.shape[0].into();
        let tokenizer = tokenizer(&store, &nemo)?;
        Ok(Self { config_path: nemo.path().to_path_buf(), store, weights, layout, config, tokenizer })
    }

    /// The configuration as `config.json` would say it. `num_labels` outputs; `mean` and `std` if rewards are to be
    /// standardised as `(reward - mean) / std`.
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// Where the configuration was read, for messages.
    pub fn config_path(&self) -> PathBuf {
        self.config_path.clone()
    }

    /// The SentencePiece model, with its place for messages.
    pub fn tokenizer_model(&self) -> Result<Option<(PathBuf, &[u8])>, ModelError> {
        let Some(name) = &self.tokenizer else { return Ok(None) };
        Ok(Some((self.store.place(name), self.store.open(name)?.all())))
    }

    /// The files that make the numbers: configuration, tokenizer and arrays, or the one `.nemo` file.
    pub fn paths(&self) -> Vec<PathBuf> {
        let array_of = |name: &str| name.rsplit_once('/').map(|(folder, _)| folder.to_owned());
        let mut items: BTreeSet<String> = self.layout.arrays.iter().flat_map(Array::files).map(str::to_owned).collect();
        if let Weights::Distributed(weights) = &self.weights {
            items.insert(format!("{}/{METADATA}", weights.folder));
        }
        let used = |name: &str| {
            self.store.place(name) == self.config_path
                || items.contains(name)
                || self.tokenizer.as_deref() == Some(name)
                || (name == WEIGHTS_FILE && matches!(self.weights, Weights::File(_)))
                || array_of(name).is_some_and(|folder| self.layout.arrays.iter().any(|a| a.folder() == Some(&folder)))
        };
        self.store.on_disk(self.store.names().filter(|name| used(name)))
    }
}

/// Finds the arrays, and refuses the formats that are not read, with what to do.
fn weights(store: &Store) -> Result<Weights, ModelError> {
    if store.length(WEIGHTS_FILE).is_some() {
        let path = store.place(WEIGHTS_FILE);
        return if path.exists() {
            PytorchFile::open(&path).map(Weights::File)
        } else {
            Err(ModelError::malformed(&path, "is read from a folder only; unpack the file around it"))
        };
    }
    let metadata = format!("{WEIGHTS}/metadata.json");
    let backend = match store.length(&metadata) {
        Some(_) => {
            let parsed: Value = serde_json::from_slice(store.open(&metadata)?.all())
                .map_err(|e| ModelError::malformed(&store.place(&metadata), e.to_string()))?;
            parsed["sharded_backend"].as_str().map(str::to_owned)
        }
        None => None,
    };
    let folder = store.place(WEIGHTS);
    match backend.as_deref() {
        _ if store.length(&format!("{WEIGHTS}/{METADATA}")).is_some() => {
            return TorchDist::open(store, WEIGHTS).map(Weights::Distributed);
        }
        Some("torch_dist") => return Err(without_metadata(&folder)),
        _ if store.names().any(|name| name.ends_with(".distcp")) => return Err(without_metadata(&folder)),
        Some("zarr") | None => {}
        Some(other) => {
            let reason = format!("has sharded_backend {other:?}, expected \"zarr\"");
            return Err(ModelError::malformed(&folder, reason));
        }
    }
    if store.names().any(|name| name.ends_with("model_weights.ckpt")) {
        return Err(ModelError::malformed(
            store.path(),
            "holds model_weights.ckpt, from before distributed checkpoints; convert it with NeMo: \
             python NeMo/scripts/checkpoint_converters/convert_gpt_nemo_to_mcore.py --input_name_or_path FILE \
             --output_path OUT",
        ));
    }
    Ok(Weights::Zarr)
}

fn without_metadata(folder: &Path) -> ModelError {
    ModelError::malformed(
        folder,
        format!("is in the format torch_dist, but holds no {METADATA}, which says what is where"),
    )
}

/// The SentencePiece model that the configuration names, else the only one that lies beside it.
fn tokenizer(store: &Store, nemo: &Settings) -> Result<Option<String>, ModelError> {
    for field in ["tokenizer.model", "tokenizer.tokenizer_model"] {
        let name = nemo.text(field)?.map(|name| name.strip_prefix("nemo:").unwrap_or(name));
        if let Some(name) = name.filter(|name| store.length(name).is_some()) {
            return Ok(Some(name.to_owned()));
        }
    }
    let found: Vec<_> = store.names().filter(|name| name.ends_with(".model") && !name.contains('/')).collect();
    let Some((first, others)) = found.split_first() else { return Ok(None) };
    // The same one is often there twice, under names with different hashes.
    let content = store.open(first)?;
    for other in others {
        if store.open(other)?.all() != content.all() {
            let reason = format!("holds different tokenizers, {}, and {CONFIG} names none of them", found.join(", "));
            return Err(ModelError::malformed(store.path(), reason));
        }
    }
    Ok(Some((*first).to_owned()))
}

impl WeightSource for NemoCheckpoint {
    fn info(&self, name: &str) -> Option<TensorInfo> {
        let placed = self.layout.tensors.get(name)?;
        let precision = self.layout.arrays[placed.array].precision();
        Some(TensorInfo { shape: placed.shape.clone(), precision })
    }

    fn read_within(&self, name: &str, slice: &Slice) -> Result<Vec<f32>, ModelError> {
        let placed = self.layout.tensors.get(name).ok_or_else(|| self.missing(name))?;
        let array = &self.layout.arrays[placed.array];
        let mut values = Vec::with_capacity(slice.len());
        for rows in placed.rows.runs(slice.rows.clone()) {
            array.read((&self.store, &self.weights), placed.matrix, rows, slice.columns.clone(), &mut values)?;
        }
        Ok(values)
    }

    fn names(&self) -> Vec<String> {
        self.layout.tensors.keys().cloned().collect()
    }

    fn origin(&self, name: &str) -> PathBuf {
        let array = self.layout.tensors.get(name).map(|placed| &self.layout.arrays[placed.array]);
        let place = match (array.and_then(Array::folder), &self.weights) {
            (Some(folder), _) => folder,
            (None, Weights::File(_)) if array.is_some() => WEIGHTS_FILE,
            (None, weights) => weights.folder(),
        };
        self.store.place(place)
    }

    fn bytes_read(&self) -> u64 {
        self.store.bytes_read() + self.weights.bytes_read()
    }
}

#[cfg(test)]
mod tests;
