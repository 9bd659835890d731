//! What can be wrong with a configuration. Every message names the source, the key, and what would be right.

use std::path::PathBuf;

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The configuration file cannot be read.
    #[error("cannot read the configuration file {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The configuration file is not TOML. The line itself is not shown: it may hold a secret.
    #[error("the configuration file {} is not valid TOML at line {line}, column {column}: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// In characters, counted from 1.
        column: usize,
        /// The parser's account.
        message: String,
    },
    /// The file of a secret cannot be read, or holds none.
    #[error("{origin}: cannot take {key} from {}: {source}", path.display())]
    SecretFile {
        /// The source that names the file.
        origin: String,
        /// The setting that the file is for.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// The reason, without anything of the content.
        source: std::io::Error,
    },
    /// A secret and its file, both in one source.
    #[error("{origin}: {key} and {key}_file are both set; set one of them")]
    SecretTwice {
        /// The source.
        origin: String,
        /// The setting.
        key: &'static str,
    },
    /// A key that does not exist.
    #[error("{origin}: there is no setting '{key}'{}", hint(.nearest))]
    UnknownKey {
        /// The source.
        origin: String,
        /// What was written.
        key: String,
        /// The known key that looks most like it, as that source would spell it.
        nearest: Option<String>,
    },
    /// A value of the wrong type, or outside its range.
    #[error("{origin}: {key} must be {expected}, found {found}{}", hint(.nearest))]
    BadValue {
        /// The source.
        origin: String,
        /// The key.
        key: &'static str,
        /// What would be right.
        expected: String,
        /// What was there.
        found: String,
        /// What was probably meant.
        nearest: Option<String>,
    },
    /// The name in an address has no address.
    #[error("{origin}: {key}: cannot find the address of {found}: {source}; give one such as 127.0.0.1:50051")]
    Address {
        /// The source.
        origin: String,
        /// The key.
        key: &'static str,
        /// What was there.
        found: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A limit above its ceiling.
    #[error("{origin}: {key} = {value} is above its ceiling of {ceiling} ({ceiling_name})")]
    AboveCeiling {
        /// The source.
        origin: String,
        /// The key.
        key: &'static str,
        /// The configured limit.
        value: u64,
        /// The highest that is allowed.
        ceiling: u64,
        /// The ceiling's name in [`crate::limits`].
        ceiling_name: &'static str,
    },
    /// No model was named.
    #[error("no model was named; give --model REF, set REWARD_SIDECAR_MODEL, or write model = \"REF\" in the file")]
    NoModel,
    /// A server without an address.
    #[error("grpc, uds and shm are all off: there is nothing to listen on; set one of them")]
    NothingToListenOn,
    /// One address or path for two servers.
    #[error("{first} and {second} are both {value}; each needs its own")]
    SameTwice {
        /// A setting.
        first: &'static str,
        /// Another.
        second: &'static str,
        /// Their value.
        value: String,
    },
    /// Lanes on a system that has none.
    #[error("shm: lanes need Linux (sealed memory files); set uds instead")]
    NoLanes,
}

fn hint(nearest: &Option<String>) -> String {
    nearest.as_ref().map_or_else(String::new, |name| format!("; did you mean '{name}'?"))
}
