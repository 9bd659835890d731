//! The metadata of a GGUF file, value by value: a wrong type is an error that names file and key, never a default.

use super::GgufFile;
use super::header::Value;
use crate::model::error::ModelError;

impl GgufFile {
    /// A key of the file's architecture.
    pub(super) fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.family.name)
    }

    /// A text value.
    pub fn string(&self, key: &str) -> Result<Option<&str>, ModelError> {
        self.value(key, "text", |value| value.text(self.bytes()))
    }

    /// A list of texts.
    pub fn strings(&self, key: &str) -> Result<Option<Vec<&str>>, ModelError> {
        self.value(key, "a list of texts", |value| {
            value.items(self.bytes())?.iter().map(|item| item.text(self.bytes())).collect()
        })
    }

    /// A list of whole numbers.
    pub fn integers(&self, key: &str) -> Result<Option<Vec<usize>>, ModelError> {
        self.value(key, "a list of whole numbers", |value| {
            value.items(self.bytes())?.iter().map(|item| item.whole(self.bytes())).collect()
        })
    }

    /// A list of numbers.
    pub fn floats(&self, key: &str) -> Result<Option<Vec<f64>>, ModelError> {
        self.value(key, "a list of numbers", |value| {
            value.items(self.bytes())?.iter().map(|item| item.float(self.bytes())).collect()
        })
    }

    /// A whole number.
    pub fn integer(&self, key: &str) -> Result<Option<usize>, ModelError> {
        self.value(key, "a whole number", |value| value.whole(self.bytes()))
    }

    /// A yes or no.
    pub fn boolean(&self, key: &str) -> Result<Option<bool>, ModelError> {
        self.value(key, "true or false", |value| value.boolean(self.bytes()))
    }

    pub(super) fn float(&self, key: &str) -> Result<Option<f64>, ModelError> {
        self.value(key, "a number", |value| value.float(self.bytes()))
    }

    pub(super) fn required(&self, key: &str) -> Result<usize, ModelError> {
        self.integer(key)?.ok_or_else(|| ModelError::malformed(self.path(), format!("no metadata {key:?}")))
    }

    fn value<T>(
        &self,
        key: &str,
        expected: &str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<Option<T>, ModelError> {
        let Some(value) = self.header.metadata.get(key) else { return Ok(None) };
        match read(value) {
            Some(value) => Ok(Some(value)),
            None => {
                let reason = format!("metadata {key:?} has type {:?}, expected {expected}", value.kind);
                Err(ModelError::malformed(self.path(), reason))
            }
        }
    }

    fn bytes(&self) -> &[u8] {
        self.file.bytes()
    }

    pub(super) fn unsupported(&self, field: &str, found: &str, expected: &str) -> ModelError {
        ModelError::Unsupported {
            path: self.path().to_path_buf(),
            field: field.to_owned(),
            found: found.to_owned(),
            expected: expected.to_owned(),
        }
    }
}
