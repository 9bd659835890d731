//! The fingerprint that a model version carries.
//!
//! Invariant: no two different lists of parts give the same bytes to hash.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::model::checkpoint::digest::hex;
use crate::model::error::ModelError;

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
    /// Adds it to a fingerprint; `hash` is [`tree_hash`](crate::model::checkpoint::digest::tree_hash), or remembers it.
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

#[cfg(test)]
mod tests {
    use super::*;

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
