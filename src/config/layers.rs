//! Three layers over the defaults: file, environment, flags. Each value is checked as it is set, so that an error can
//! name the layer it stands in, and a bad value is an error even where a later layer overrides it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use toml::Value;

use super::keys::{ENVIRONMENT_PREFIX, KEYS, Key, OFF, Unfit};
use super::{ConfigError, Settings};

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

/// Our variables among the environment's.
#[derive(Debug, Default)]
pub(super) struct Environment {
    config: Option<PathBuf>,
    values: BTreeMap<&'static str, String>,
}

impl Environment {
    pub fn read(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Self, ConfigError> {
        let mut environment = Self::default();
        for (variable, value) in variables {
            // A name that is not UTF-8 is none of ours.
            let Some(name) = variable.to_str().and_then(|name| name.strip_prefix(ENVIRONMENT_PREFIX)) else { continue };
            if is_kubernetes_service_variable(name) {
                continue;
            }
            if name == "CONFIG" {
                environment.config = Some(value.into());
                continue;
            }
            let key = KEYS.iter().find(|key| key.name.to_uppercase() == name).ok_or_else(|| {
                let nearest = nearest(&name.to_lowercase()).map(Key::variable);
                ConfigError::UnknownKey {
                    origin: "environment".into(),
                    key: format!("{ENVIRONMENT_PREFIX}{name}"),
                    nearest,
                }
            })?;
            let value = value.into_string().map_err(|value| ConfigError::BadValue {
                origin: key.variable(),
                key: key.name,
                expected: "UTF-8".into(),
                found: format!("{value:?}"),
            })?;
            environment.values.insert(key.name, value);
        }
        Ok(environment)
    }

    pub fn config(&self) -> Option<&Path> {
        self.config.as_deref()
    }
}

/// Kubernetes gives every pod the addresses of the namespace's services; for a service called `reward-sidecar` those
/// variables begin like ours. No setting is called `service_*` or `port`.
fn is_kubernetes_service_variable(name: &str) -> bool {
    name.starts_with("SERVICE_HOST") || name.starts_with("SERVICE_PORT") || name == "PORT" || name.starts_with("PORT_")
}

/// The layers so far: every key has a value.
#[derive(Debug, Clone)]
pub(super) struct Merged(BTreeMap<&'static str, (Value, Origin)>);

impl Merged {
    pub fn defaults() -> Self {
        Self(KEYS.iter().map(|key| (key.name, ((key.default)(), Origin::Default))).collect())
    }

    pub fn get(&self, key: &Key) -> (&Value, &Origin) {
        let (value, origin) = &self.0[key.name];
        (value, origin)
    }

    pub fn set_file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| ConfigError::File { path: path.to_owned(), source })?;
        let table: toml::Table = text
            .parse()
            .map_err(|e: toml::de::Error| ConfigError::Syntax { path: path.to_owned(), message: e.to_string() })?;
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
        self.set_texts(&environment.values, &Origin::Environment)
    }

    pub fn set_flags(&mut self, values: &BTreeMap<&'static str, String>) -> Result<(), ConfigError> {
        self.set_texts(values, &Origin::Flag)
    }

    fn set_texts(&mut self, values: &BTreeMap<&'static str, String>, origin: &Origin) -> Result<(), ConfigError> {
        for key in KEYS {
            if let Some(text) = values.get(key.name) {
                let value = key.kind.parse(text).map_err(|unfit| refuse(key, origin, unfit, format!("'{text}'")))?;
                self.set(key, value, origin)?;
            }
        }
        Ok(())
    }

    fn set(&mut self, key: &Key, value: Value, origin: &Origin) -> Result<(), ConfigError> {
        key.kind.check(&value).map_err(|unfit| refuse(key, origin, unfit, describe(&value)))?;
        self.0.insert(key.name, (value, origin.clone()));
        Ok(())
    }

    /// Defaults that depend on other settings: a server that was given Unix sockets alone opens no port.
    pub fn settle(&mut self) {
        let off = Value::String(OFF.into());
        if (self.0["uds"].0 != off || self.0["shm"].0 != off) && self.0["grpc"].1 == Origin::Default {
            self.0.insert("grpc", (off, Origin::Default));
        }
    }

    pub fn settings(&self) -> Settings {
        let table: toml::Table = self.0.iter().map(|(name, (value, _))| ((*name).to_owned(), value.clone())).collect();
        // Every value has been checked against its row; what is left is a row that disagrees with its field.
        table.try_into().expect("the table of settings and the fields of Settings agree")
    }
}

fn refuse(key: &Key, origin: &Origin, unfit: Unfit, found: String) -> ConfigError {
    let (origin, key) = (origin.of(key), key.name);
    match unfit {
        Unfit::Not(expected) => ConfigError::BadValue { origin, key, expected, found },
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

/// The setting whose name looks most like `name`, if one looks like it at all.
fn nearest(name: &str) -> Option<&'static Key> {
    let name = name.replace('-', "_");
    let (distance, key) = KEYS.iter().map(|key| (edit_distance(&name, key.name), key)).min_by_key(|(d, _)| *d)?;
    (distance <= 1 + name.chars().count() / 4).then_some(key)
}

/// Levenshtein distance.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance() {
        assert_eq!(edit_distance("", "abc"), 3);
        assert_eq!(edit_distance("kitten", "sitting"), 3);
        assert_eq!(edit_distance("max_wait", "max_wait"), 0);
    }

    #[test]
    fn the_nearest_name_is_near() {
        assert_eq!(nearest("max-batch-token").map(|key| key.name), Some("max_batch_tokens"));
        assert_eq!(nearest("modle").map(|key| key.name), Some("model"));
        assert!(nearest("colour_of_the_sky").is_none());
    }

    #[test]
    fn every_row_has_its_field_and_every_field_its_row() {
        // `settings` panics otherwise.
        assert_eq!(Merged::defaults().settings().tp, 1);
    }
}
