//! Why a model cannot be loaded. Every message names the file, the tensor or field in it, what was expected and what
//! was found, so that whoever reads it knows what to mend.

use std::path::{Path, PathBuf};

use super::compute::kernels::WeightType;

/// Why a model cannot be loaded. Always a matter of usage or configuration, never of one rollout.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The reference names nothing that can be loaded.
    #[error("cannot load {reference:?}: {reason}\nA model is one of:\n{forms}")]
    Reference {
        /// As given.
        reference: String,
        /// What was found there.
        reason: String,
        /// The known forms, a line each.
        forms: String,
    },
    /// No preset of that name is known, and there is no such file.
    #[error("there is no preset {found:?}, nor a file of that name; presets are {known}{hint}")]
    UnknownPreset {
        /// As given.
        found: String,
        /// Names of those in the program.
        known: String,
        /// The nearest of them, or nothing.
        hint: String,
    },
    /// A file is missing or cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file is there, but is not what it should be.
    #[error("{}: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong in it, and where.
        reason: String,
    },
    /// A tensor is not in the checkpoint.
    #[error("{}: no tensor {tensor:?}{hint}", path.display())]
    MissingTensor {
        /// The file, or the folder of a sharded checkpoint.
        path: PathBuf,
        /// Its name.
        tensor: String,
        /// What may explain it; empty or starting with `; `.
        hint: String,
    },
    /// A tensor has another shape than the configuration says.
    #[error("{}: tensor {tensor:?} has shape {found:?}, expected {expected:?}", path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// Its name.
        tensor: String,
        /// The shape that the configuration asks for.
        expected: Vec<usize>,
        /// The shape in the file.
        found: Vec<usize>,
    },
    /// A tensor has a type that cannot be read as float32.
    #[error("{}: tensor {tensor:?} has type {found}, expected {expected}", path.display())]
    Dtype {
        /// The file.
        path: PathBuf,
        /// Its name.
        tensor: String,
        /// The types that can be read.
        expected: &'static str,
        /// The type in the file.
        found: String,
    },
    /// No architecture of that name is known.
    #[error("{}: unknown architecture {found:?}; the families that can be loaded are {known}", path.display())]
    UnknownArchitecture {
        /// The configuration.
        path: PathBuf,
        /// As the configuration calls it.
        found: String,
        /// Families that are known.
        known: String,
    },
    /// A setting changes the numbers in a way that is not implemented; ignoring it would give wrong rewards.
    #[error("{}: {field} = {found} is not supported; expected {expected}", path.display())]
    Unsupported {
        /// The configuration.
        path: PathBuf,
        /// The field.
        field: String,
        /// Its value.
        found: String,
        /// What is supported.
        expected: String,
    },
    /// Several adapters cannot be served together as asked.
    #[error("adapter: {reason}")]
    Adapters {
        /// Why not, and what to do.
        reason: String,
    },
    /// The model cannot be shared by so many ranks.
    #[error(
        "tp is {found}, but {heads} query heads in {kv_heads} groups can be shared by no such number of ranks; possible: \
         {possible}"
    )]
    Degree {
        /// As asked for.
        found: usize,
        /// Query heads of the model.
        heads: usize,
        /// Its key-value heads.
        kv_heads: usize,
        /// Degrees that there are.
        possible: String,
    },
    /// An encoder is to be used as only a decoder can be.
    #[error("the model is an encoder, in which every token sees the whole rollout: {reason}")]
    Encoder {
        /// What cannot be, and what can.
        reason: String,
    },
    /// The base of a composed model cannot be had.
    #[error("{reason}\n{remedy}")]
    Base {
        /// What failed.
        reason: String,
        /// What to do, with the exact command and path.
        remedy: String,
    },
    /// The device is missing, or cannot be used.
    #[error("cannot compute on {device}: {reason}\n{remedy}")]
    Device {
        /// As chosen.
        device: String,
        /// What was found.
        reason: String,
        /// What to do.
        remedy: String,
    },
    /// The device does not compute with weights of this type.
    #[error("{device} has no weights of type {dtype}: a GPU has bf16, the CPU {}", WeightType::ALL.map(WeightType::name).join(", "))]
    WeightType {
        /// As chosen.
        device: String,
        /// As chosen.
        dtype: String,
    },
    /// The tensor library failed.
    #[error("tensor operation failed while loading: {0}")]
    Tensor(#[from] candle_core::Error),
    /// A pass failed over the rollouts that types of weights are tried on.
    #[error("dtype = fast: a trial pass failed: {0}\nName a type of weights instead.")]
    Trial(String),
    /// The threads of the forward pass could not be started.
    #[error("cannot start {threads} threads: {reason}")]
    Threads {
        /// How many.
        threads: usize,
        /// The system's reason.
        reason: String,
    },
}

impl ModelError {
    /// [`ModelError::Io`] for a path; made for `map_err`.
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + use<> {
        let path = path.to_path_buf();
        move |source| Self::Io { path, source }
    }

    /// [`ModelError::Malformed`] for a path.
    pub(crate) fn malformed(path: &Path, reason: impl Into<String>) -> Self {
        Self::Malformed { path: path.to_path_buf(), reason: reason.into() }
    }
}

/// Reads a whole file.
pub(crate) fn read_file(path: &Path) -> Result<Vec<u8>, ModelError> {
    std::fs::read(path).map_err(ModelError::io(path))
}

/// Reads a whole file as UTF-8.
pub(crate) fn read_text(path: &Path) -> Result<String, ModelError> {
    std::fs::read_to_string(path).map_err(ModelError::io(path))
}

/// Reads and parses a JSON file.
pub(crate) fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, ModelError> {
    serde_json::from_slice(&read_file(path)?).map_err(|e| ModelError::malformed(path, e.to_string()))
}
