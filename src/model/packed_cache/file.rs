//! A file of packed matrices: safetensors, in which each matrix is a tensor of bytes, its parts one after the other.
//!
//! Invariant: each part begins at a multiple of [`PART_ALIGNMENT`] in the file, hence in memory. Beside the file stands its digest;
//! without it, the file is none.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use safetensors::SafeTensors;
use serde_json::json;

use super::Matrices;
use crate::model::checkpoint::MappedFile;
use crate::model::checkpoint::digest::{TreeHash, hex};
use crate::model::checkpoint::digest_memory::DigestMemory;
use crate::model::compute::kernels::{PART_ALIGNMENT, PackedMatrix, SharedBytes, WeightType};

/// A mapped file.
pub struct PackedFile {
    bytes: SharedBytes,
    matrices: BTreeMap<String, Range<usize>>,
}

impl PackedFile {
    /// The file at `path`, if it is there, whole, and the one that was written. One that is not is removed.
    pub fn open(path: &Path, digests: &DigestMemory) -> Option<Self> {
        if !is_whole(path, digests) {
            return None;
        }
        let file = MappedFile::open(path).ok()?;
        let matrices = matrices(file.bytes())?;
        // Says when it was used last.
        if let Ok(digest) = File::options().append(true).open(digest_of(path)) {
            let _ = digest.set_modified(SystemTime::now());
        }
        Some(Self { bytes: Arc::new(file), matrices })
    }

    /// A matrix `[n, k]`, if it is in the file.
    pub fn matrix(&self, name: &str, weights: WeightType, shape: [usize; 2]) -> Option<PackedMatrix> {
        PackedMatrix::shared(weights, shape, &self.bytes, self.matrices.get(name)?.clone())
    }
}

impl AsRef<[u8]> for MappedFile {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}

fn matrices(bytes: &[u8]) -> Option<BTreeMap<String, Range<usize>>> {
    let (header, metadata) = SafeTensors::read_metadata(bytes).ok()?;
    let data = header + size_of::<u64>();
    let range = |(start, end): (usize, usize)| data + start..data + end;
    Some(metadata.tensors().into_iter().map(|(name, info)| (name, range(info.data_offsets))).collect())
}

/// Whether the file at `path` is there, and the one that was written. One that is not is removed.
pub fn is_whole(path: &Path, digests: &DigestMemory) -> bool {
    let Ok(expected) = fs::read_to_string(digest_of(path)) else { return false };
    let is_whole = digests.tree_hash(path).is_ok_and(|found| expected.trim_end() == hex(&found));
    if !is_whole {
        tracing::warn!(file = %path.display(), "packed weights are not those that were written, and are removed");
        remove(path);
    }
    is_whole
}

/// Where the digest of a file stands.
pub fn digest_of(path: &Path) -> PathBuf {
    path.with_extension("sha256")
}

/// Removes a file and its digest, the digest first.
pub fn remove(path: &Path) {
    let _ = fs::remove_file(digest_of(path));
    let _ = fs::remove_file(path);
}

/// Bytes of a matrix in a file.
fn length(matrix: &PackedMatrix) -> usize {
    matrix.parts().iter().map(|part| part.len().next_multiple_of(PART_ALIGNMENT)).sum()
}

/// What stands before the matrices: the header's length, and the header with spaces behind it.
fn header(matrices: &Matrices) -> Vec<u8> {
    let mut start = 0;
    let mut entries = BTreeMap::new();
    for (name, matrix) in matrices {
        let end = start + length(matrix);
        entries.insert(name, json!({"dtype": "U8", "shape": [end - start], "data_offsets": [start, end]}));
        start = end;
    }
    let mut text = json!(entries).to_string();
    let length = (size_of::<u64>() + text.len()).next_multiple_of(PART_ALIGNMENT) - size_of::<u64>();
    text.extend(std::iter::repeat_n(' ', length - text.len()));
    [&(length as u64).to_le_bytes(), text.as_bytes()].concat()
}

/// Bytes of the file with these matrices.
pub fn bytes_of(matrices: &Matrices) -> u64 {
    let matrices_bytes: usize = matrices.values().map(|matrix| length(matrix)).sum();
    (header(matrices).len() + matrices_bytes) as u64
}

/// Writes a file with these matrices, and gives the digest of what was to be written.
pub fn write(file: &mut File, matrices: &Matrices) -> io::Result<[u8; 32]> {
    let mut hash = TreeHash::default();
    let mut write = |bytes: &[u8]| {
        hash.update(bytes);
        file.write_all(bytes)
    };
    write(&header(matrices))?;
    for matrix in matrices.values() {
        for part in matrix.parts() {
            write(part)?;
            write(&vec![0; part.len().next_multiple_of(PART_ALIGNMENT) - part.len()])?;
        }
    }
    file.sync_all()?;
    Ok(hash.finish())
}
