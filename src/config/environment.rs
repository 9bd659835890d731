//! Our variables among the environment's.
//!
//! A variable that looks like a misspelt setting is an error. Any other unknown one is somebody else's: a namespace has
//! names that begin like ours, and they never keep a server from starting.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::ConfigError;
use super::key::{ENVIRONMENT_PREFIX, Key};
use super::keys::{KEYS, nearest};

/// See the module. It may hold secrets: it has no `Debug`.
#[derive(Default)]
pub(super) struct Environment {
    config: Option<PathBuf>,
    values: BTreeMap<&'static str, String>,
    unknown: Vec<String>,
}

impl Environment {
    pub fn read(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Self, ConfigError> {
        let mut environment = Self::default();
        for (variable, value) in variables {
            // A name that is not UTF-8 is none of ours.
            let Some(name) = variable.to_str().and_then(|name| name.strip_prefix(ENVIRONMENT_PREFIX)) else { continue };
            if name == "CONFIG" {
                environment.config = Some(value.into());
            } else if let Some(key) = KEYS.iter().find(|key| key.name.to_uppercase() == name) {
                let value = value.into_string().map_err(|value| ConfigError::BadValue {
                    origin: key.variable(),
                    key: key.name,
                    expected: "UTF-8".into(),
                    found: key.shown(format!("{value:?}")),
                    nearest: None,
                })?;
                environment.values.insert(key.name, value);
            } else if !is_kubernetes_service_variable(name) {
                let key = format!("{ENVIRONMENT_PREFIX}{name}");
                if let Some(nearest) = nearest(&name.to_lowercase()).map(Key::variable) {
                    return Err(ConfigError::UnknownKey { origin: "environment".into(), key, nearest: Some(nearest) });
                }
                environment.unknown.push(key);
            }
        }
        environment.unknown.sort();
        Ok(environment)
    }

    /// The configuration file that the environment names.
    pub fn config(&self) -> Option<&Path> {
        self.config.as_deref()
    }

    /// The values, by setting.
    pub fn values(&self) -> &BTreeMap<&'static str, String> {
        &self.values
    }

    /// What begins like our variables and is no setting, nor looks like one.
    pub fn unknown(&self) -> &[String] {
        &self.unknown
    }
}

/// Kubernetes gives every pod the addresses of the namespace's services
/// (<https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables>): `..._SERVICE_HOST`,
/// `..._SERVICE_PORT`, `..._SERVICE_PORT_NAME`, `..._PORT`, `..._PORT_80_TCP`, and more of that kind. For a service whose
/// name begins with `reward-sidecar` they begin like ours. `name` is what stands behind our prefix.
fn is_kubernetes_service_variable(name: &str) -> bool {
    // The service may be called `reward-sidecar` alone: then nothing stands before the suffix.
    let name = format!("_{name}");
    let port = || {
        name.match_indices("_PORT").any(|(at, port)| matches!(name.as_bytes().get(at + port.len()), None | Some(b'_')))
    };
    name.ends_with("_SERVICE_HOST") || port()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_services() {
        for name in [
            "SERVICE_HOST",
            "SERVICE_PORT",
            "SERVICE_PORT_GRPC",
            "PORT",
            "PORT_50051_TCP_ADDR",
            "METRICS_SERVICE_HOST",
            "METRICS_SERVICE_PORT",
            "METRICS_SERVICE_PORT_HTTP_METRICS",
            "METRICS_PORT",
            "A_B_PORT_9464_TCP",
        ] {
            assert!(is_kubernetes_service_variable(name), "{name}");
        }
        for name in ["METRICS", "SERVICE_HOSTS", "PORTAL", "REPORT", "METRICS_PORTS", "IMAGE"] {
            assert!(!is_kubernetes_service_variable(name), "{name}");
        }
    }

    /// It would be passed over in silence.
    #[test]
    fn no_setting_is_called_like_a_service() {
        for key in KEYS {
            assert!(!is_kubernetes_service_variable(&key.name.to_uppercase()), "{}", key.name);
        }
    }
}
