//! Checksums of files, and the fingerprint that a model version carries.

use std::path::{Path, PathBuf};

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::model::checkpoint::MappedFile;
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

/// Collects everything that makes a model's numbers. Order matters; every part is framed by its name and length, so
/// that no two different lists of parts give the same bytes.
#[derive(Default)]
pub struct Fingerprint(Sha256);

impl Fingerprint {
    /// Adds a part.
    pub fn add(&mut self, name: &str, bytes: &[u8]) {
        for part in [name.as_bytes(), bytes] {
            self.0.update((part.len() as u64).to_le_bytes());
            self.0.update(part);
        }
    }

    /// The first 12 hex digits: enough that two models of one user do not meet, short enough to be read.
    pub fn short(self) -> String {
        hex(&self.0.finalize()[..6])
    }
}

/// One thing that a model's numbers are made of.
#[derive(Debug, Clone, PartialEq)]
pub enum Ingredient {
    /// A file's contents.
    File(PathBuf),
    /// The contents of a file in the program.
    Embedded(&'static [u8]),
    /// A number or name that says how the others are put together.
    Fact(String),
}

impl Ingredient {
    /// Adds it to a fingerprint; `hash` is [`tree_hash`], or remembers it.
    pub fn add_to(
        &self,
        fingerprint: &mut Fingerprint,
        hash: impl Fn(&Path) -> Result<[u8; 32], ModelError>,
    ) -> Result<(), ModelError> {
        match self {
            Self::File(path) => fingerprint.add("file", &hash(path)?),
            Self::Embedded(bytes) => fingerprint.add("embedded", bytes),
            Self::Fact(fact) => fingerprint.add("fact", fact.as_bytes()),
        }
        Ok(())
    }
}

/// SHA-256 of some bytes.
pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// Two digits for each byte.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use crate::model::source::digest::*;

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
    fn parts_do_not_run_into_each_other() {
        let version = |parts: &[(&str, &str)]| {
            let mut fingerprint = Fingerprint::default();
            parts.iter().for_each(|(name, bytes)| fingerprint.add(name, bytes.as_bytes()));
            fingerprint.short()
        };
        assert_eq!(version(&[("a", "b")]), version(&[("a", "b")]));
        assert_ne!(version(&[("a", "bc")]), version(&[("ab", "c")]));
        assert_ne!(version(&[("a", ""), ("b", "")]), version(&[("a", "b")]));
    }
}
