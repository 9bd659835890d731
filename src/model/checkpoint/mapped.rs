//! The bytes of a weights file: a read-only memory map, or a file that is built into the program. The one place of the
//! model room, apart from its kernels, that needs `unsafe`.

use std::borrow::Cow;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::Mmap;

use crate::model::error::ModelError;

/// A whole file. Pages of a mapped one are read on first touch and shared with every other process that maps it.
#[derive(Debug)]
pub struct MappedFile {
    path: PathBuf,
    content: Content,
    /// Bytes of weights that were asked for, for whoever wants to know what a rank has read.
    read: AtomicU64,
}

#[derive(Debug)]
enum Content {
    Mapped(Mmap),
    Memory(Cow<'static, [u8]>),
}

impl MappedFile {
    /// Maps a file.
    #[allow(unsafe_code)]
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        // A pipe would be waited for, and a folder has no bytes.
        if !std::fs::metadata(path).map_err(ModelError::io(path))?.is_file() {
            return Err(ModelError::malformed(path, "is no file"));
        }
        let file = File::open(path).map_err(ModelError::io(path))?;
        // SAFETY: the map is read-only and lives as long as `Mmap`. What remains is that another process may change
        // or cut the file while it is mapped; we only read plain numbers out of it (never references, lengths or
        // enum tags that were checked earlier: headers are parsed into owned values once), so a change can give wrong
        // numbers, and a cut a SIGBUS, as with any mapped file, but no broken invariant of a Rust type. Checkpoints
        // are not to be changed while they are loaded; they are replaced by renaming.
        let map = unsafe { Mmap::map(&file) }.map_err(ModelError::io(path))?;
        if map.starts_with(b"version https://git-lfs") {
            let reason = "is a pointer of Git LFS, not the file itself; fetch it with `git lfs pull`";
            return Err(ModelError::malformed(path, reason));
        }
        Ok(Self { path: path.to_path_buf(), content: Content::Mapped(map), read: AtomicU64::new(0) })
    }

    /// A file that is built into the program; `name` is for messages.
    pub fn embedded(name: PathBuf, bytes: &'static [u8]) -> Self {
        Self { path: name, content: Content::Memory(bytes.into()), read: AtomicU64::new(0) }
    }

    /// A file that was made up in memory; `name` is for messages.
    #[cfg(any(test, fuzzing))]
    pub fn owned(name: PathBuf, bytes: Vec<u8>) -> Self {
        Self { path: name, content: Content::Memory(bytes.into()), read: AtomicU64::new(0) }
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its contents, for headers.
    pub fn bytes(&self) -> &[u8] {
        match &self.content {
            Content::Mapped(map) => map,
            Content::Memory(bytes) => bytes,
        }
    }

    /// A part of its contents, for weights: counted in [`Self::bytes_read`]. `None` if it reaches past the end.
    pub fn weights(&self, range: Range<usize>) -> Option<&[u8]> {
        let bytes = self.bytes().get(range)?;
        self.read.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Some(bytes)
    }

    /// Bytes that went through [`Self::weights`].
    pub fn bytes_read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// Gives the pages of a part back to the system: they were converted, and would else count as this process's memory
    /// for as long as the model lives. Whoever reads them again gets them from the file.
    #[allow(unsafe_code)]
    pub fn release(&self, range: Range<usize>) {
        if let Content::Mapped(map) = &self.content
            && range.end <= map.len()
            && !range.is_empty()
        {
            // SAFETY: the map is private to reading and backed by the file, so dropping its pages loses nothing: the
            // next access, on whichever thread, reads the same bytes from the file again.
            // A system that refuses the advice keeps the pages, which is no more than a waste.
            let _ = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len()) };
        }
    }
}
