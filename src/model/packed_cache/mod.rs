//! Packed weights that are kept in files between starts: a model that was loaded once is mapped the next time, where its matrices
//! lie as the kernels read them.
//!
//! Invariant: a matrix out of a file has the bytes of one that was packed. Its file is found by the model's version, the type of its
//! weights, the instruction set and the program that packed it, and is taken only with the digest that was made while it was
//! written. A file that cannot be read or written costs time and nothing else.

mod file;
mod keeper;
mod program;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use self::file::PackedFile;
use self::keeper::Keeper;
use crate::model::checkpoint::digest_memory::DigestMemory;
use crate::model::compute::kernels::{Isa, PackedMatrix, Rows, WeightType};
use crate::model::config::DiskRoom;
use crate::model::error::ModelError;

/// Fewer packed bytes are no file: they are packed in less than a second. Those of the tests are one.
const LEAST_BYTES: usize = if cfg!(test) { 1 } else { 512 << 20 };

/// Matrices by name, as they were packed.
type Matrices = BTreeMap<String, Arc<PackedMatrix>>;

/// The folder of packed weights.
pub struct PackedFolder {
    folder: PathBuf,
    digests: DigestMemory,
    room: DiskRoom,
    /// Tells this program's files from those of another, which may pack or read weights in another way.
    program: &'static str,
}

impl PackedFolder {
    /// Below a cache folder; `None` where nothing is to be kept, or the program cannot tell itself from others.
    pub fn below(cache_dir: &Path, room: DiskRoom) -> Option<Self> {
        if cache_dir.as_os_str().is_empty() || room == DiskRoom::Bytes(0) {
            return None;
        }
        let digests = DigestMemory::below(cache_dir);
        let program = program::digest(&digests)?;
        Some(Self { folder: cache_dir.join("packed"), digests, room, program })
    }

    /// The packed weights of the model of this name and version, for the instructions that are current on this thread.
    pub fn open(self, model: &str, weights: WeightType) -> PackedCache {
        // A name may be of any letters.
        let model: String =
            model.chars().map(|c| if c.is_ascii_alphanumeric() || "@-.".contains(c) { c } else { '_' }).collect();
        let isa = Isa::current().name();
        let path = self.folder.join(format!("{model}-{}-{isa}-{}.safetensors", weights.name(), self.program));
        match PackedFile::open(&path, &self.digests) {
            Some(file) => PackedCache::Kept(file),
            None => PackedCache::New(New { folder: self, path, matrices: Mutex::default() }),
        }
    }
}

/// The packed weights of one model.
#[derive(Default)]
pub enum PackedCache {
    /// None are kept.
    #[default]
    Off,
    /// They are in a file.
    Kept(PackedFile),
    /// They were packed, and are to be kept.
    New(New),
}

/// What was packed since there was no file.
pub struct New {
    folder: PackedFolder,
    path: PathBuf,
    matrices: Mutex<Matrices>,
}

impl PackedCache {
    /// The matrix of this name, which says which part of which tensors it is made of; packed out of `rows` where it is not kept.
    pub fn matrix(&self, name: &str, weights: WeightType, rows: &Rows) -> Result<Arc<PackedMatrix>, ModelError> {
        let name = format!("{name} {}", weights.name());
        if let Self::Kept(file) = self
            && let Some(matrix) = file.matrix(&name, weights, [rows.n, rows.k])
        {
            return Ok(Arc::new(matrix));
        }
        let matrix = Arc::new(PackedMatrix::load(weights, rows)?);
        if let Self::New(new) = self {
            new.matrices.lock().unwrap_or_else(PoisonError::into_inner).insert(name, Arc::clone(&matrix));
        }
        Ok(matrix)
    }

    /// Whether matrices come out of a file.
    pub fn is_mapped(&self) -> bool {
        matches!(self, Self::Kept(_))
    }

    /// Writes what was packed, on a thread of its own that ends when all is written. Nothing waits for it.
    pub fn keep(self) {
        let Some(keeper) = self.keeper() else { return };
        if let Err(error) = std::thread::Builder::new().name("packed-weights".into()).spawn(|| keeper.keep()) {
            tracing::warn!(%error, "packed weights are not kept: no thread could be started");
        }
    }

    /// Who writes what was packed, if it is worth it.
    fn keeper(self) -> Option<Keeper> {
        let Self::New(New { folder, path, matrices }) = self else { return None };
        let matrices = matrices.into_inner().unwrap_or_else(PoisonError::into_inner);
        let bytes: usize = matrices.values().map(|matrix| matrix.bytes()).sum();
        (bytes >= LEAST_BYTES).then(|| Keeper { path, matrices, digests: folder.digests, room: folder.room })
    }
}
