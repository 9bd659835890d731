//! Three layers over the defaults: file, environment, flags. Each value is checked as it is set, so that an error can
//! name the layer it stands in, and a bad value is an error even where a later layer overrides it.

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use toml::Value;

use super::address;
use super::environment::Environment;
use super::key::{Key, Kind, OFF, Unfit};
use super::keys::{KEYS, nearest};
use super::{ConfigError, Settings};
use crate::limits::MAX_SECRET_BYTES;
use crate::secret::{REDACTED, Secret};

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// The configuration file.
    File(PathBuf),
    /// An environment variable.
    Environment,
    /// A flag.
    Flag,
}

impl Origin {
    /// The later layer has the higher number.
    fn layer(&self) -> u8 {
        match self {
            Origin::Default => 0,
            Origin::File(_) => 1,
            Origin::Environment => 2,
            Origin::Flag => 3,
        }
    }

    /// For errors: the source of what was given for `key`.
    fn of(&self, key: &Key) -> String {
        match self {
            Origin::Default => "the default".into(),
            Origin::File(path) => path.display().to_string(),
            Origin::Environment => key.variable(),
            Origin::Flag => format!("--{}", key.flag()),
        }
    }

    /// For the comment in a printed configuration: one line, whatever the file is called.
    pub(super) fn comment(&self, key: &Key) -> String {
        match self {
            Origin::Default => "default".into(),
            Origin::File(path) => format!("file {path:?}"),
            Origin::Environment => format!("environment {}", key.variable()),
            Origin::Flag => format!("flag --{}", key.flag()),
        }
    }
}

/// The layers so far: every key has a value. In place of a secret stands [`REDACTED`]; the secrets stand apart, so that
/// whatever prints the layers does not print them.
#[derive(Debug, Clone)]
pub(super) struct Merged {
    values: BTreeMap<&'static str, (Value, Origin)>,
    secrets: BTreeMap<&'static str, Secret>,
}

impl Merged {
    pub fn defaults() -> Self {
        let values = KEYS.iter().map(|key| (key.name, ((key.default)(), Origin::Default))).collect();
        Self { values, secrets: BTreeMap::new() }
    }

    /// The value as it may be shown, and where it came from.
    pub fn get(&self, key: &Key) -> (&Value, &Origin) {
        let (value, origin) = &self.values[key.name];
        (value, origin)
    }

    pub fn set_file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| ConfigError::File { path: path.to_owned(), source })?;
        let table: toml::Table = text.parse().map_err(|error| syntax_error(path, &text, &error))?;
        let origin = Origin::File(path.to_owned());
        for (name, value) in table {
            let key = KEYS.iter().find(|key| key.name == name).ok_or_else(|| ConfigError::UnknownKey {
                origin: path.display().to_string(),
                nearest: nearest(&name).map(|key| key.name.to_owned()),
                key: name,
            })?;
            // A printed configuration says that no model was named; reading it back means the same.
            if key.name == "model" && value.as_str() == Some("") {
                continue;
            }
            self.set(key, value, &origin)?;
        }
        Ok(())
    }

    pub fn set_environment(&mut self, environment: &Environment) -> Result<(), ConfigError> {
        self.set_texts(environment.values(), &Origin::Environment)
    }

    pub fn set_flags(&mut self, values: &BTreeMap<&'static str, String>) -> Result<(), ConfigError> {
        self.set_texts(values, &Origin::Flag)
    }

    fn set_texts(&mut self, values: &BTreeMap<&'static str, String>, origin: &Origin) -> Result<(), ConfigError> {
        for key in KEYS {
            if let Some(text) = values.get(key.name) {
                let value =
                    key.kind.parse(text).map_err(|unfit| refuse(key, origin, unfit, text, format!("'{text}'")))?;
                self.set(key, value, origin)?;
            }
        }
        Ok(())
    }

    fn set(&mut self, key: &Key, value: Value, origin: &Origin) -> Result<(), ConfigError> {
        let text = value.as_str().unwrap_or_default();
        key.kind.check(&value).map_err(|unfit| refuse(key, origin, unfit, text, describe(&value)))?;
        match (key.kind, value) {
            (Kind::Secret, Value::String(text)) if text != OFF => self.set_secret(key, Secret::new(text), origin),
            (_, value) => {
                self.secrets.remove(key.name);
                self.values.insert(key.name, (value, origin.clone()));
            }
        }
        Ok(())
    }

    fn set_secret(&mut self, key: &Key, secret: Secret, origin: &Origin) {
        self.secrets.insert(key.name, secret);
        self.values.insert(key.name, (Value::String(REDACTED.into()), origin.clone()));
    }

    /// Defaults that depend on other settings: a server that was given Unix sockets alone opens no port.
    pub fn set_dependent_defaults(&mut self) {
        let off = off();
        if ["uds", "shm", "http"].iter().any(|other| self.values[*other].0 != off)
            && self.values["grpc"].1 == Origin::Default
        {
            self.values.insert("grpc", (off, Origin::Default));
        }
    }

    /// Reads the files that secrets are in. Of a secret and its file the one in the later layer counts, and the other is
    /// switched off; both in one layer is an error.
    pub fn read_secret_files(&mut self) -> Result<(), ConfigError> {
        for key in KEYS.iter().filter(|key| matches!(key.kind, Kind::Secret)) {
            // A test of the table sees to it that there is one.
            let Some(file) = KEYS.iter().find(|file| file.name.strip_suffix("_file") == Some(key.name)) else {
                continue;
            };
            let (path, path_origin) = self.values[file.name].clone();
            let (given, origin) = self.values[key.name].clone();
            let path = match path {
                Value::String(path) if path != OFF => PathBuf::from(path),
                _ => continue,
            };
            if origin.layer() > path_origin.layer() {
                self.values.insert(file.name, (off(), origin));
            } else if origin.layer() == path_origin.layer() && given != off() {
                return Err(ConfigError::SecretTwice { origin: path_origin.of(key), key: key.name });
            } else {
                let secret = read_secret(&path).map_err(|source| ConfigError::SecretFile {
                    origin: path_origin.of(file),
                    key: key.name,
                    path,
                    source,
                })?;
                // The value itself is off: where it came from says the row of the file.
                self.values.insert(key.name, (off(), Origin::Default));
                self.secrets.insert(key.name, secret);
            }
        }
        Ok(())
    }

    /// Puts the addresses that are names into numbers. A command looks up none but those that it has a flag for; the others are off.
    pub fn resolve_addresses(&mut self, command: u8) -> Result<(), ConfigError> {
        for key in KEYS.iter().filter(|key| matches!(key.kind, Kind::AddressOrOff)) {
            let (value, origin) = self.values[key.name].clone();
            let Some(text) = value.as_str().filter(|text| *text != OFF) else { continue };
            let resolved = if key.is_flag_of(command) {
                let failed = |source| {
                    let (origin, found) = (origin.of(key), text.to_owned());
                    ConfigError::Address { origin, key: key.name, found, source }
                };
                Value::String(address::resolve(text).map_err(failed)?.to_string())
            } else {
                off()
            };
            self.values.insert(key.name, (resolved, origin));
        }
        Ok(())
    }

    pub fn settings(&self) -> Settings {
        let mut table: toml::Table =
            self.values.iter().map(|(name, (value, _))| ((*name).to_owned(), value.clone())).collect();
        for (name, secret) in &self.secrets {
            table.insert((*name).to_owned(), Value::String(secret.reveal().to_owned()));
        }
        // Every value has been checked against its row; what remains is a row that disagrees with its field.
        table.try_into().expect("the table of settings and the fields of Settings agree")
    }
}

fn off() -> Value {
    Value::String(OFF.into())
}

/// Where the parser stopped, and why; without the line itself, which it would quote.
fn syntax_error(path: &Path, text: &str, error: &toml::de::Error) -> ConfigError {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    ConfigError::Syntax { path: path.to_owned(), line, column, message: error.message().to_owned() }
}

/// The content of a file without the line end behind it.
fn read_secret(path: &Path) -> io::Result<Secret> {
    let invalid = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why);
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(MAX_SECRET_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > MAX_SECRET_BYTES {
        return Err(invalid(&format!("it is longer than {MAX_SECRET_BYTES} bytes")));
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| invalid("it is not UTF-8"))?;
    let text = text.strip_suffix('\n').map_or(text, |text| text.strip_suffix('\r').unwrap_or(text));
    if text.is_empty() {
        return Err(invalid("it is empty"));
    }
    Ok(Secret::new(text))
}

/// `text` is what was found, where it was text, for a suggestion.
fn refuse(key: &Key, origin: &Origin, unfit: Unfit, text: &str, found: String) -> ConfigError {
    let nearest = key.kind.nearest(text);
    let found = key.shown(found);
    let (origin, key) = (origin.of(key), key.name);
    match unfit {
        Unfit::Not(expected) => ConfigError::BadValue { origin, key, expected, found, nearest },
        Unfit::Above { value, ceiling, ceiling_name } => {
            ConfigError::AboveCeiling { origin, key, value, ceiling, ceiling_name }
        }
    }
}

fn describe(value: &Value) -> String {
    match value {
        Value::String(text) => format!("'{text}'"),
        Value::Integer(number) => number.to_string(),
        Value::Float(number) => format!("the number {number}"),
        Value::Boolean(switch) => switch.to_string(),
        Value::Datetime(_) => "a date".into(),
        Value::Array(_) => "a list".into(),
        Value::Table(_) => "a table".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_its_field_and_every_field_its_row() {
        // `settings` panics otherwise.
        assert_eq!(Merged::defaults().settings().tp, 1);
    }
}
