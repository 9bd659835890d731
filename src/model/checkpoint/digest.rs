//! Checksums of files.
//!
//! Invariant: a file has one tree hash, in whatever pieces its bytes were hashed.

use std::path::Path;

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::MappedFile;
use crate::model::error::ModelError;

/// Bytes hashed by one task of a tree hash.
const CHUNK_BYTES: usize = 16 << 20;

/// Plain SHA-256 of a file, in hex, as `sha256sum` prints it.
pub fn sha256_file(path: &Path) -> Result<String, ModelError> {
    let file = MappedFile::open(path)?;
    let digest = Sha256::digest(file.bytes());
    file.release(0..file.bytes().len());
    Ok(hex(&digest))
}

/// SHA-256 over the SHA-256 of each 16 MiB of a file: as strong, and as fast as there are cores.
pub fn tree_hash(path: &Path) -> Result<[u8; 32], ModelError> {
    // An empty file cannot be mapped on every system, and has no chunks.
    if std::fs::metadata(path).map_err(ModelError::io(path))?.len() == 0 {
        return Ok(Sha256::new().finalize().into());
    }
    let file = MappedFile::open(path)?;
    let length = file.bytes().len();
    let chunks: Vec<[u8; 32]> = (0..length.div_ceil(CHUNK_BYTES))
        .into_par_iter()
        .map(|i| {
            let chunk = i * CHUNK_BYTES..length.min((i + 1) * CHUNK_BYTES);
            let digest = Sha256::digest(&file.bytes()[chunk.clone()]).into();
            file.release(chunk);
            digest
        })
        .collect();
    Ok(Sha256::digest(chunks.as_flattened()).into())
}

/// The [`tree_hash`] of bytes that come one after the other.
#[derive(Default)]
pub struct TreeHash {
    chunks: Vec<[u8; 32]>,
    /// The chunk that is not whole yet, and its length.
    last: Sha256,
    length: usize,
}

impl TreeHash {
    /// Adds bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (now, rest) = bytes.split_at(bytes.len().min(CHUNK_BYTES - self.length));
            self.last.update(now);
            self.length += now.len();
            if self.length == CHUNK_BYTES {
                self.chunks.push(self.last.finalize_reset().into());
                self.length = 0;
            }
            bytes = rest;
        }
    }

    /// The hash of all of them.
    pub fn finish(mut self) -> [u8; 32] {
        if self.length > 0 {
            self.chunks.push(self.last.finalize().into());
        }
        Sha256::digest(self.chunks.as_flattened()).into()
    }
}

/// SHA-256 of some bytes.
pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// Two digits for each byte.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_the_standard() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("abc");
        std::fs::write(&path, "abc").unwrap();
        // FIPS 180-2, appendix B.1.
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256_file(&path).unwrap(), abc);
        assert_ne!(hex(&tree_hash(&path).unwrap()), abc);
    }

    #[test]
    fn a_file_has_the_hash_of_its_bytes_in_whatever_pieces_they_come() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bytes");
        for length in [0, 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES + 77] {
            let bytes: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
            std::fs::write(&path, &bytes).unwrap();
            for piece in [CHUNK_BYTES / 2 + 3, 3 * CHUNK_BYTES] {
                let mut hash = TreeHash::default();
                bytes.chunks(piece).for_each(|piece| hash.update(piece));
                assert_eq!(hash.finish(), tree_hash(&path).unwrap(), "{length} bytes in pieces of {piece}");
            }
        }
    }
}
