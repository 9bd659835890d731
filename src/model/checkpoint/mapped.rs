//! A read-only memory map of a weights file: the one place of the model room that needs `unsafe`.

use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use crate::model::ModelError;

/// A whole file, mapped. Pages are read on first touch and shared with every other process that maps the file.
#[derive(Debug)]
pub struct MappedFile {
    path: PathBuf,
    map: Mmap,
}

impl MappedFile {
    /// Maps a file.
    #[allow(unsafe_code)]
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let file = File::open(path).map_err(ModelError::io(path))?;
        // SAFETY: the map is read-only and lives as long as `Mmap`. What remains is that another process may change
        // or cut the file while it is mapped; we only read plain numbers out of it (never references, lengths or
        // enum tags that were checked earlier: headers are parsed into owned values once), so a change can give wrong
        // numbers, and a cut a SIGBUS, as with any mapped file, but no broken invariant of a Rust type. Checkpoints
        // are not to be changed while they are loaded; they are replaced by renaming.
        let map = unsafe { Mmap::map(&file) }.map_err(ModelError::io(path))?;
        Ok(Self { path: path.to_path_buf(), map })
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its contents.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }
}
