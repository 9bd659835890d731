//! The metadata of a GGUF file, value by value: a wrong type is an error that names file and key, never a default.

use candle_core::quantized::gguf_file::Value;

use super::GgufFile;
use crate::model::ModelError;

impl GgufFile {
    /// A key of the file's architecture.
    pub(super) fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.family.name)
    }

    /// A text value.
    pub fn string(&self, key: &str) -> Result<Option<&str>, ModelError> {
        self.value(key, "text", |v| v.to_string().ok().map(String::as_str))
    }

    /// A list of texts.
    pub fn strings(&self, key: &str) -> Result<Option<Vec<&str>>, ModelError> {
        self.value(key, "a list of texts", |v| {
            v.to_vec().ok()?.iter().map(|item| item.to_string().ok().map(String::as_str)).collect()
        })
    }

    /// A list of whole numbers.
    pub fn integers(&self, key: &str) -> Result<Option<Vec<usize>>, ModelError> {
        self.value(key, "a list of whole numbers", |v| v.to_vec().ok()?.iter().map(whole).collect())
    }

    /// A whole number.
    pub fn integer(&self, key: &str) -> Result<Option<usize>, ModelError> {
        self.value(key, "a whole number", whole)
    }

    /// A yes or no.
    pub fn boolean(&self, key: &str) -> Result<Option<bool>, ModelError> {
        self.value(key, "true or false", |v| v.to_bool().ok())
    }

    pub(super) fn float(&self, key: &str) -> Result<Option<f64>, ModelError> {
        // The shortest decimal that reads back as the same float32 is the number that was meant (1e-5, not
        // 9.999999747e-6).
        self.value(key, "a number", |v| match v {
            Value::F32(x) => x.to_string().parse().ok(),
            Value::F64(x) => Some(*x),
            _ => None,
        })
    }

    pub(super) fn required(&self, key: &str) -> Result<usize, ModelError> {
        self.integer(key)?.ok_or_else(|| ModelError::malformed(self.path(), format!("no metadata {key:?}")))
    }

    fn value<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, ModelError> {
        let Some(value) = self.content.metadata.get(key) else { return Ok(None) };
        match read(value) {
            Some(value) => Ok(Some(value)),
            None => Err(ModelError::malformed(
                self.path(),
                format!("metadata {key:?} has type {:?}, expected {expected}", value.value_type()),
            )),
        }
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

/// A whole number of any width; negative ones are not.
fn whole(value: &Value) -> Option<usize> {
    match value {
        Value::I8(x) => usize::try_from(*x).ok(),
        Value::I16(x) => usize::try_from(*x).ok(),
        Value::I32(x) => usize::try_from(*x).ok(),
        Value::I64(x) => usize::try_from(*x).ok(),
        Value::Bool(_) => None,
        other => usize::try_from(other.to_u64().ok()?).ok(),
    }
}
