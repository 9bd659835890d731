//! Configuration: the only reader of file, environment and flags.
//!
//! A setting has one name everywhere: `max_batch_tokens` in the file, `REWARD_SIDECAR_MAX_BATCH_TOKENS` in the
//! environment, `--max-batch-tokens` as a flag. File < environment < flags. Nothing unknown is passed over in silence,
//! and every error names the source that it came from.
//!
//! A secret (`otlp_headers`) may also be in a file that `otlp_headers_file` names. It has no flag, and nothing prints it: no
//! error, no `Debug`, no printed configuration.
//!
//! To add a setting: a row in `keys.rs` or `keys/serving.rs` and a field in [`Settings`].

mod adapters;
mod address;
mod environment;
mod error;
mod flags;
mod key;
mod keys;
mod layers;
mod reference;

use std::ffi::OsString;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

use crate::secret::{REDACTED, Secret};
use crate::{model, sidecar};

pub use error::ConfigError;
pub use flags::Flags;
pub use key::{DOCTOR, HEALTH, INSPECT, SCORE, SERVE};
pub use layers::Origin;
pub use reference::reference;

use environment::Environment;
use layers::Merged;

/// Everything that may be configured, checked.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Which reward model; empty where none was named.
    pub model: String,
    /// How it is to be used: a preset's name or file, `auto` or `none`.
    pub preset: String,
    /// Where its head is, if apart.
    #[serde(deserialize_with = "unless_off")]
    pub head: Option<PathBuf>,
    /// An adapter, or several; see [`Self::model`].
    #[serde(deserialize_with = "unless_off")]
    pub adapter: Option<PathBuf>,
    /// Whether outputs that were never trained are attributes too.
    pub untrained_attributes: bool,
    /// The day that chat templates are told.
    #[serde(deserialize_with = "unless_off")]
    pub template_date: Option<String>,
    /// Fields of its configuration that are left out, by commas.
    #[serde(deserialize_with = "unless_off")]
    pub ignore_fields: Option<String>,
    /// Tensor-parallel ranks.
    pub tp: usize,
    /// What to compute on.
    #[serde(deserialize_with = "parsed")]
    pub device: model::DeviceChoice,
    /// Type of the weights in memory.
    #[serde(deserialize_with = "parsed")]
    pub dtype: model::Dtype,
    /// CPU threads of the forward pass; 0 means all cores.
    pub threads: usize,
    /// Bytes for prefixes that later micro-batches may begin with; 0 keeps none, `None`: as free memory allows.
    #[serde(deserialize_with = "unless_auto")]
    pub prefix_cache_bytes: Option<usize>,
    /// Where downloaded bases, digests and packed weights are kept.
    pub cache_dir: PathBuf,
    /// Bytes for packed weights there; 0 keeps none, `None`: a quarter of what the disk has free.
    #[serde(deserialize_with = "unless_auto")]
    pub packed_cache_bytes: Option<usize>,
    /// TCP address of the gRPC server.
    #[serde(deserialize_with = "unless_off")]
    pub grpc: Option<SocketAddr>,
    /// Unix socket of the gRPC server.
    #[serde(deserialize_with = "unless_off")]
    pub uds: Option<PathBuf>,
    /// Where HTTP is listened for.
    #[serde(deserialize_with = "unless_off")]
    pub http: Option<sidecar::HttpAddresses>,
    /// What NeMo-Gym's route says of a rollout that has no reward.
    pub gym_on_rejection: sidecar::GymOnRejection,
    /// Most HTTP connections that are open.
    pub http_connections: usize,
    /// Unix socket that hands out lanes.
    #[serde(deserialize_with = "unless_off")]
    pub shm: Option<PathBuf>,
    /// Lanes at a time.
    pub shm_lanes: usize,
    /// Bytes of a lane's rollout ring.
    pub shm_ring_bytes: usize,
    /// How long the lanes' thread watches for rollouts before it sleeps, in microseconds.
    pub shm_spin_us: u64,
    /// TCP address of `/metrics`, `/health` and `/ready`.
    #[serde(deserialize_with = "unless_off")]
    pub admin: Option<SocketAddr>,
    /// Unique tokens that one micro-batch computes.
    pub max_batch_tokens: usize,
    /// Rollouts in one micro-batch.
    pub max_batch_rollouts: usize,
    /// How long the first rollout of a micro-batch waits for company, in milliseconds.
    pub max_wait_ms: u64,
    /// How many micro-batches a rollout may be passed over.
    pub max_bypass: u32,
    /// Whether shared prefixes are computed once.
    pub share_prefixes: bool,
    /// Rollouts accepted and not yet handed to the engine.
    pub queue_rollouts: usize,
    /// Their tokens.
    pub queue_tokens: usize,
    /// Most gRPC connections that are open.
    pub grpc_connections: usize,
    /// Bytes of messages and texts that are held before the queue takes their rollouts.
    pub intake_bytes: usize,
    /// Unanswered rollouts of one stream.
    pub stream_in_flight: usize,
    /// Threads that turn text into tokens.
    pub tokenizer_threads: usize,
    /// What happens to a rollout longer than the context.
    pub over_long: sidecar::OverLong,
    /// How long accepted work may take after a request to stop, in milliseconds.
    pub drain_ms: u64,
    /// How long one pass may take, in milliseconds; 0: for ever.
    pub watchdog_ms: u64,
    /// How long the engine may be idle before its known answer is checked, in milliseconds; 0: never.
    pub known_answer_ms: u64,
    /// What is logged: a level, or `tracing` filter directives.
    pub log: String,
    /// Where spans go (OTLP over gRPC).
    #[serde(deserialize_with = "unless_off")]
    pub otlp_endpoint: Option<String>,
    /// Headers for that collector, as `name=value,name=value`.
    #[serde(deserialize_with = "unless_off")]
    pub otlp_headers: Option<Secret>,
    /// The file that [`Self::otlp_headers`] were read from.
    #[serde(deserialize_with = "unless_off")]
    pub otlp_headers_file: Option<PathBuf>,
}

/// Optional settings are switched off by the word `off`, so that a later layer can undo an earlier one.
fn unless_off<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    let text = String::deserialize(deserializer)?;
    if text == key::OFF { Ok(None) } else { text.parse().map(Some).map_err(D::Error::custom) }
}

/// A number, or the word `auto`.
fn unless_auto<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<usize>, D::Error> {
    match toml::Value::deserialize(deserializer)? {
        toml::Value::String(text) if text == key::AUTO => Ok(None),
        value => value.try_into().map(Some).map_err(D::Error::custom),
    }
}

/// What is written as text.
fn parsed<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
}

impl Settings {
    /// The sidecar's share.
    pub fn sidecar(&self) -> sidecar::Config {
        sidecar::Config {
            grpc: self.grpc,
            uds: self.uds.clone(),
            http: self.http.clone().unwrap_or_default().0,
            gym_on_rejection: self.gym_on_rejection,
            http_connections: self.http_connections,
            shm: self.shm.clone(),
            shm_lanes: self.shm_lanes,
            shm_ring_bytes: self.shm_ring_bytes,
            shm_spin_us: self.shm_spin_us,
            over_long: self.over_long,
            max_batch_tokens: self.max_batch_tokens,
            max_batch_rollouts: self.max_batch_rollouts,
            max_wait_ms: self.max_wait_ms,
            max_bypass: self.max_bypass,
            queue_rollouts: self.queue_rollouts,
            queue_tokens: self.queue_tokens,
            stream_in_flight: self.stream_in_flight,
            share_prefixes: self.share_prefixes,
            tokenizer_threads: self.tokenizer_threads,
            drain_ms: self.drain_ms,
            grpc_connections: self.grpc_connections,
            intake_bytes: self.intake_bytes,
            watchdog_ms: self.watchdog_ms,
            known_answer_ms: self.known_answer_ms,
        }
    }

    /// The sidecar's share for a command that reads files: nobody can ask it, and no known answer is asked for meanwhile.
    pub fn sidecar_unheard(&self) -> sidecar::Config {
        let http = Vec::new();
        sidecar::Config { grpc: None, uds: None, http, shm: None, known_answer_ms: 0, ..self.sidecar() }
    }

    /// The model's share.
    pub fn model(&self) -> Result<model::Config, ConfigError> {
        if self.model.is_empty() {
            return Err(ConfigError::NoModel);
        }
        let (adapter, adapters) = self.adapter.as_deref().map(adapters::read).unwrap_or_default();
        Ok(model::Config {
            model: self.model.clone(),
            preset: self.preset.clone(),
            head: self.head.clone(),
            adapter,
            adapters,
            untrained_attributes: self.untrained_attributes,
            template_date: self.template_date.clone(),
            ignore_fields: self
                .ignore_fields
                .iter()
                .flat_map(|all| all.split(','))
                .map(|it| it.trim().into())
                .collect(),
            tp: self.tp,
            device: self.device,
            dtype: self.dtype,
            threads: self.threads,
            isa: None,
            prefix_cache: self.prefix_cache(),
            cache_dir: self.cache_dir.clone(),
            packed_room: self
                .packed_cache_bytes
                .map_or(model::DiskRoom::Auto, |bytes| model::DiskRoom::Bytes(bytes as u64)),
        })
    }

    /// By itself, a cache takes no more than it is likely to use: so many micro-batches.
    fn prefix_cache(&self) -> model::CacheSize {
        const MICRO_BATCHES: usize = 16;
        match self.prefix_cache_bytes {
            Some(bytes) => model::CacheSize::Bytes(bytes),
            None => model::CacheSize::Auto { tokens: MICRO_BATCHES.saturating_mul(self.max_batch_tokens) },
        }
    }

    /// What only a server needs: somewhere to listen, and a system that can.
    pub fn check_listens(&self) -> Result<(), ConfigError> {
        if self.shm.is_some() && !cfg!(target_os = "linux") {
            return Err(ConfigError::NoLanes);
        }
        if let (None, None, None, None) = (&self.grpc, &self.uds, &self.shm, &self.http) {
            return Err(ConfigError::NothingToListenOn);
        }
        let same = |first, second, value| Err(ConfigError::SameTwice { first, second, value });
        match (&self.grpc, &self.admin) {
            // Of port 0 the system makes two.
            (Some(grpc), Some(admin)) if grpc == admin && grpc.port() != 0 => same("grpc", "admin", grpc.to_string()),
            _ => match (&self.uds, &self.shm) {
                (Some(uds), Some(shm)) if uds == shm => same("uds", "shm", uds.display().to_string()),
                _ => Ok(()),
            },
        }
    }
}

/// [`Settings`], and where each value came from.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The settings in force.
    pub settings: Settings,
    /// Environment variables that begin like ours, are no setting, and do not look like a misspelt one.
    pub unknown_variables: Vec<String>,
    merged: Merged,
}

impl Loaded {
    /// The settings as a configuration file: every key, with a comment that says what it is and where the value came
    /// from. Reading it back gives the same [`Settings`], but for secrets, which are not printed: only the name of a
    /// secret's file is.
    pub fn to_toml(&self) -> String {
        let mut out = String::from("# Settings of reward-sidecar. File < environment < flags.\n");
        for key in keys::KEYS {
            let (value, origin) = self.merged.get(key);
            let (name, about, origin) = (key.name, key.about, origin.comment(key));
            // Writing to a String cannot fail.
            let _ = if value.as_str() == Some(REDACTED) && matches!(key.kind, key::Kind::Secret) {
                write!(out, "\n# {about}\n# {name} = {value} # {origin}; a secret is not printed\n")
            } else {
                write!(out, "\n# {about}\n{name} = {value} # {origin}\n")
            };
        }
        out
    }

    /// Where a setting came from.
    pub fn origin(&self, name: &str) -> Option<&Origin> {
        keys::KEYS.iter().find(|key| key.name == name).map(|key| self.merged.get(key).1)
    }
}

/// Reads the configuration: the file that `flags` or `environment` name, then the environment, then the flags.
pub fn load<const COMMAND: u8>(
    flags: &Flags<COMMAND>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Loaded, ConfigError> {
    let environment = Environment::read(environment)?;
    let mut merged = Merged::defaults();
    if let Some(path) = flags.config().or(environment.config()) {
        merged.set_file(path)?;
    }
    merged.set_environment(&environment)?;
    merged.set_flags(flags.values())?;
    merged.set_dependent_defaults();
    merged.read_secret_files()?;
    merged.resolve_addresses(COMMAND)?;
    let settings = merged.settings();
    Ok(Loaded { settings, unknown_variables: environment.unknown().to_vec(), merged })
}

/// [`load`] with this process's environment.
pub fn load_here<const COMMAND: u8>(flags: &Flags<COMMAND>) -> Result<Loaded, ConfigError> {
    #[allow(clippy::disallowed_methods, reason = "this is the one place that reads the environment")]
    load(flags, std::env::vars_os())
}

/// Where the service manager that started this process wants to be told of its state (systemd's `NOTIFY_SOCKET`).
pub fn notify_socket() -> Option<OsString> {
    #[allow(clippy::disallowed_methods, reason = "this is the one place that reads the environment")]
    std::env::var_os("NOTIFY_SOCKET")
}
