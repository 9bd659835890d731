//! The table of settings: one row each. The file, the environment, the flags, their help and `--print-config` are all
//! made from it.

use std::net::SocketAddr;
use std::sync::LazyLock;

use toml::Value;

use crate::limits;
use crate::model::{DeviceChoice, Dtype};
use crate::sidecar::{self, OverLong};

/// Commands that take a setting as a flag, as a set of bits.
pub const SERVE: u8 = 1;
/// See [`SERVE`].
pub const SCORE: u8 = 2;
/// See [`SERVE`].
pub const INSPECT: u8 = 4;

/// What a switched-off optional setting says.
pub(super) const OFF: &str = "off";

/// The demo model keeps some 4,800 tokens in that: more than a micro-batch has.
const DEFAULT_PREFIX_CACHE_BYTES: usize = 128 << 20;

/// What begins every environment variable of ours.
pub(super) const ENVIRONMENT_PREFIX: &str = "REWARD_SIDECAR_";

/// One setting.
#[derive(Debug)]
pub(super) struct Key {
    /// Its name in the file; flag and environment variable are spelt after it.
    pub name: &'static str,
    pub kind: Kind,
    pub default: fn() -> Value,
    /// The commands that have a flag for it; a file or the environment may set it for any.
    pub commands: u8,
    /// Placeholder in the help.
    pub value_name: &'static str,
    /// One line, for the help and a printed configuration.
    pub about: &'static str,
}

/// What values a setting takes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    /// Any text that is not empty.
    Text,
    /// A path, or text beside [`OFF`] that is not empty.
    PathOrOff,
    /// `IP:PORT`, or [`OFF`].
    AddressOrOff,
    /// `http://HOST:PORT`, or [`OFF`].
    EndpointOrOff,
    /// Directives of `tracing`'s filter.
    LogFilter,
    /// A whole number.
    Count { min: u64, ceiling: u64, ceiling_name: &'static str },
    /// A power of two.
    PowerOfTwo { min: u64, ceiling: u64, ceiling_name: &'static str },
    /// `true` or `false`.
    Switch,
    /// One of a few words.
    OneOf(&'static [&'static str]),
    /// What to compute on.
    Device,
}

impl Key {
    /// `--max-batch-tokens` without the dashes in front.
    pub fn flag(&self) -> &'static str {
        // The command-line parser wants names that live as long as the process.
        static FLAGS: LazyLock<Vec<String>> =
            LazyLock::new(|| KEYS.iter().map(|key| key.name.replace('_', "-")).collect());
        let row = KEYS.iter().position(|key| key.name == self.name).expect("every key is a row of the table");
        &FLAGS[row]
    }

    /// `REWARD_SIDECAR_MAX_BATCH_TOKENS`.
    pub fn variable(&self) -> String {
        format!("{ENVIRONMENT_PREFIX}{}", self.name.to_uppercase())
    }

    /// Whether a command has a flag for it.
    pub fn is_flag_of(&self, command: u8) -> bool {
        self.commands & command != 0
    }
}

/// Why a value does not do.
#[derive(Debug, PartialEq)]
pub(super) enum Unfit {
    /// Not what the setting takes; says what it takes.
    Not(String),
    /// Above the named ceiling.
    Above { value: u64, ceiling: u64, ceiling_name: &'static str },
}

impl Kind {
    /// Reads a flag or an environment variable; [`Kind::check`] follows.
    pub fn parse(self, text: &str) -> Result<Value, Unfit> {
        match self {
            Kind::Count { .. } | Kind::PowerOfTwo { .. } => match text.parse::<i64>() {
                Ok(number) => Ok(Value::Integer(number)),
                Err(_) => Err(Unfit::Not(self.expected())),
            },
            Kind::Switch => match text {
                "true" => Ok(Value::Boolean(true)),
                "false" => Ok(Value::Boolean(false)),
                _ => Err(Unfit::Not(self.expected())),
            },
            _ => Ok(Value::String(text.to_owned())),
        }
    }

    /// Checks type and range.
    pub fn check(self, value: &Value) -> Result<(), Unfit> {
        let fits = match (self, value) {
            (Kind::Text | Kind::PathOrOff, Value::String(text)) => !text.is_empty(),
            (Kind::AddressOrOff, Value::String(text)) => text == OFF || text.parse::<SocketAddr>().is_ok(),
            (Kind::EndpointOrOff, Value::String(text)) => text == OFF || is_endpoint(text),
            (Kind::LogFilter, Value::String(text)) => {
                !text.is_empty() && tracing_subscriber::EnvFilter::builder().parse(text).is_ok()
            }
            (Kind::OneOf(words), Value::String(text)) => words.contains(&text.as_str()),
            (Kind::Device, Value::String(text)) => text.parse::<DeviceChoice>().is_ok(),
            (Kind::Switch, Value::Boolean(_)) => true,
            (
                Kind::Count { min, ceiling, ceiling_name } | Kind::PowerOfTwo { min, ceiling, ceiling_name },
                Value::Integer(number),
            ) => match u64::try_from(*number) {
                Ok(value) if value > ceiling => return Err(Unfit::Above { value, ceiling, ceiling_name }),
                Ok(value) => value >= min && (value.is_power_of_two() || !matches!(self, Kind::PowerOfTwo { .. })),
                Err(_) => false,
            },
            _ => false,
        };
        if fits { Ok(()) } else { Err(Unfit::Not(self.expected())) }
    }

    fn expected(self) -> String {
        match self {
            Kind::Text => "text that is not empty".into(),
            Kind::PathOrOff => "a path, or off".into(),
            Kind::AddressOrOff => "an address such as 127.0.0.1:50051 or [::1]:50051, or off".into(),
            Kind::EndpointOrOff => "an endpoint such as http://127.0.0.1:4317 (plain HTTP/2, no TLS), or off".into(),
            Kind::LogFilter => "a level (error, warn, info, debug, trace) or directives such as info,h2=warn".into(),
            Kind::Count { min, ceiling, .. } => format!("a whole number from {min} to {ceiling}"),
            Kind::PowerOfTwo { min, ceiling, .. } => format!("a power of two from {min} to {ceiling}"),
            Kind::Switch => "true or false".into(),
            Kind::OneOf(words) => format!("one of {}", words.join(", ")),
            Kind::Device => "cpu, cuda, or cuda:N with N counted from 0".into(),
        }
    }
}

/// TLS is not built in: an `https` endpoint would fail at the first span, long after the start.
fn is_endpoint(text: &str) -> bool {
    text.parse::<tonic::codegen::http::Uri>()
        .is_ok_and(|uri| uri.scheme_str() == Some("http") && uri.host().is_some_and(|host| !host.is_empty()))
}

fn text(value: impl Into<String>) -> Value {
    Value::String(value.into())
}

/// Defaults of limits are far below `i64::MAX`; see their ceilings.
fn count(value: usize) -> Value {
    Value::Integer(value as i64)
}

fn sidecar() -> sidecar::Config {
    sidecar::Config::default()
}

fn cache_dir() -> Value {
    // No home folder at all: better a folder here than none.
    let base = dirs::cache_dir().unwrap_or_else(|| ".cache".into());
    text(base.join("reward-sidecar").to_string_lossy())
}

const fn limit(ceiling: usize, ceiling_name: &'static str) -> Kind {
    Kind::Count { min: 1, ceiling: ceiling as u64, ceiling_name }
}

/// Every setting, in the order in which help and printed configuration show them.
pub(super) const KEYS: &[Key] = &[
    Key {
        name: "model",
        kind: Kind::Text,
        default: || text(""),
        commands: SERVE | SCORE | INSPECT,
        value_name: "REF",
        about: "Reward model: demo, a folder (Hugging Face, NeMo, or a PEFT adapter), a .nemo or .gguf file, or a reward-model.toml; \
                to serve, also echo: no model, rewards mean nothing",
    },
    Key {
        name: "preset",
        kind: Kind::Text,
        default: || text("auto"),
        commands: SERVE | SCORE | INSPECT,
        value_name: "NAME|FILE",
        about: "How a published model is to be used; auto: as the model says or gives away, none: as its files stand",
    },
    Key {
        name: "head",
        kind: Kind::PathOrOff,
        default: || text(OFF),
        commands: SERVE | SCORE | INSPECT,
        value_name: "FILE",
        about: "Safetensors file with the head, where it is apart from the model, or off",
    },
    Key {
        name: "adapter",
        kind: Kind::PathOrOff,
        default: || text(OFF),
        commands: SERVE | SCORE | INSPECT,
        value_name: "DIR",
        about: "LoRA adapter in PEFT's layout to merge into the model, or off",
    },
    Key {
        name: "untrained_attributes",
        kind: Kind::Switch,
        default: || Value::Boolean(false),
        commands: SERVE | SCORE | INSPECT,
        value_name: "true|false",
        about: "Offer the outputs that a preset knows were never trained, too",
    },
    Key {
        name: "tp",
        kind: limit(limits::MAX_THREADS, "MAX_THREADS"),
        default: || count(1),
        commands: SERVE | SCORE | INSPECT,
        value_name: "N",
        about: "Tensor-parallel ranks, which share the model by its heads",
    },
    Key {
        name: "device",
        kind: Kind::Device,
        default: || text(DeviceChoice::default().to_string()),
        commands: SERVE | SCORE | INSPECT,
        value_name: "DEVICE",
        about: "What to compute on: cpu, or cuda or cuda:N (GPU N for the first rank, the next for the next)",
    },
    Key {
        name: "dtype",
        kind: Kind::OneOf(Dtype::NAMES),
        default: || text(Dtype::default().to_string()),
        commands: SERVE | SCORE | INSPECT,
        value_name: "TYPE",
        about: "Type of the weights in memory: auto (f32 on the CPU, bf16 on a GPU), f32, bf16, int8 (CPU); part of model_version",
    },
    Key {
        name: "threads",
        kind: Kind::Count { min: 0, ceiling: limits::MAX_THREADS as u64, ceiling_name: "MAX_THREADS" },
        default: || count(0),
        commands: SERVE | SCORE | INSPECT,
        value_name: "N",
        about: "CPU threads of the forward pass; 0 means all cores. Never changes a reward",
    },
    Key {
        name: "prefix_cache_bytes",
        kind: Kind::Count {
            min: 0,
            ceiling: limits::MAX_PREFIX_CACHE_BYTES as u64,
            ceiling_name: "MAX_PREFIX_CACHE_BYTES",
        },
        default: || count(DEFAULT_PREFIX_CACHE_BYTES),
        commands: SERVE | SCORE,
        value_name: "N",
        about: "Memory for prefixes that later micro-batches may begin with, on the CPU; 0 keeps none. Never changes a reward",
    },
    Key {
        name: "cache_dir",
        kind: Kind::Text,
        default: cache_dir,
        commands: SERVE | SCORE | INSPECT,
        value_name: "DIR",
        about: "Where downloaded bases are kept",
    },
    Key {
        name: "grpc",
        kind: Kind::AddressOrOff,
        default: || text("127.0.0.1:50051"),
        commands: SERVE,
        value_name: "ADDR",
        about: "TCP address of the gRPC server, or off (the default where uds or shm is given); port 0 lets the system pick",
    },
    Key {
        name: "uds",
        kind: Kind::PathOrOff,
        default: || text(OFF),
        commands: SERVE,
        value_name: "PATH",
        about: "Unix socket of the gRPC server, or off",
    },
    Key {
        name: "shm",
        kind: Kind::PathOrOff,
        default: || text(OFF),
        commands: SERVE,
        value_name: "PATH",
        about: "Unix socket that hands out lanes (shared memory, Linux), or off; its clients' address is shm://PATH",
    },
    Key {
        name: "shm_lanes",
        kind: limit(limits::MAX_LANES, "MAX_LANES"),
        default: || count(sidecar().shm_lanes),
        commands: SERVE,
        value_name: "N",
        about: "Lanes at a time; each client has one per process",
    },
    Key {
        name: "shm_ring_bytes",
        kind: Kind::PowerOfTwo {
            min: limits::MIN_LANE_RING_BYTES as u64,
            ceiling: limits::MAX_LANE_RING_BYTES as u64,
            ceiling_name: "MAX_LANE_RING_BYTES",
        },
        default: || count(sidecar().shm_ring_bytes),
        commands: SERVE,
        value_name: "N",
        about: "Bytes of rollouts that a lane holds unread, a power of two; a larger rollout cannot take it",
    },
    Key {
        name: "shm_spin_us",
        kind: Kind::Count { min: 0, ceiling: limits::MAX_SPIN_US, ceiling_name: "MAX_SPIN_US" },
        default: || count(sidecar().shm_spin_us as usize),
        commands: SERVE,
        value_name: "US",
        about: "How long the lanes' thread watches for rollouts before it sleeps; above 0 it wants a core of its own",
    },
    Key {
        name: "admin",
        kind: Kind::AddressOrOff,
        default: || text("127.0.0.1:9464"),
        commands: SERVE,
        value_name: "ADDR",
        about: "TCP address of /metrics, /health and /ready, or off; port 0 lets the system pick",
    },
    Key {
        name: "max_batch_tokens",
        kind: limit(limits::MAX_BATCH_TOKENS, "MAX_BATCH_TOKENS"),
        default: || count(sidecar().max_batch_tokens),
        commands: SERVE | SCORE,
        value_name: "N",
        about: "Most unique tokens in one micro-batch, fewer where that hardly costs more; a longer rollout goes alone",
    },
    Key {
        name: "max_batch_rollouts",
        kind: limit(limits::MAX_BATCH_ROLLOUTS, "MAX_BATCH_ROLLOUTS"),
        default: || count(sidecar().max_batch_rollouts),
        commands: SERVE | SCORE,
        value_name: "N",
        about: "Rollouts in one micro-batch",
    },
    Key {
        name: "max_wait_ms",
        kind: Kind::Count { min: 0, ceiling: limits::MAX_DEADLINE_MS, ceiling_name: "MAX_DEADLINE_MS" },
        default: || count(sidecar().max_wait_ms as usize),
        commands: SERVE | SCORE,
        value_name: "MS",
        about: "How long the first rollout of a micro-batch waits for company while the engine is idle",
    },
    Key {
        name: "max_bypass",
        kind: Kind::Count { min: 0, ceiling: u32::MAX as u64, ceiling_name: "u32::MAX" },
        default: || count(sidecar().max_bypass as usize),
        commands: SERVE,
        value_name: "N",
        about: "How many micro-batches a rollout may be passed over by later ones before it goes first",
    },
    Key {
        name: "share_prefixes",
        kind: Kind::Switch,
        default: || Value::Boolean(sidecar().share_prefixes),
        commands: SERVE | SCORE,
        value_name: "true|false",
        about: "Compute a prefix shared by rollouts of a micro-batch once. Never changes a reward",
    },
    Key {
        name: "queue_rollouts",
        kind: limit(limits::MAX_QUEUE_ROLLOUTS, "MAX_QUEUE_ROLLOUTS"),
        default: || count(sidecar().queue_rollouts),
        commands: SERVE | SCORE,
        value_name: "N",
        about: "Rollouts accepted and not yet handed to the engine; more wait at the door",
    },
    Key {
        name: "queue_tokens",
        kind: limit(limits::MAX_QUEUE_TOKENS, "MAX_QUEUE_TOKENS"),
        default: || count(sidecar().queue_tokens),
        commands: SERVE | SCORE,
        value_name: "N",
        about: "Their tokens",
    },
    Key {
        name: "stream_in_flight",
        kind: limit(limits::MAX_STREAM_IN_FLIGHT, "MAX_STREAM_IN_FLIGHT"),
        default: || count(sidecar().stream_in_flight),
        commands: SERVE,
        value_name: "N",
        about: "Unanswered rollouts of one stream; the stream is not read while there are so many",
    },
    Key {
        name: "tokenizer_threads",
        kind: limit(limits::MAX_THREADS, "MAX_THREADS"),
        default: || count(sidecar().tokenizer_threads),
        commands: SERVE | SCORE,
        value_name: "N",
        about: "Threads that turn text into tokens",
    },
    Key {
        name: "over_long",
        kind: Kind::OneOf(&["reject", "truncate-left"]),
        default: || {
            text(match sidecar().over_long {
                OverLong::Reject => "reject",
                OverLong::TruncateLeft => "truncate-left",
            })
        },
        commands: SERVE | SCORE,
        value_name: "POLICY",
        about: "A rollout longer than the context: reject, or truncate-left (cut the prompt's oldest tokens, say so)",
    },
    Key {
        name: "drain_ms",
        kind: Kind::Count { min: 0, ceiling: limits::MAX_DEADLINE_MS, ceiling_name: "MAX_DEADLINE_MS" },
        default: || count(sidecar().drain_ms as usize),
        commands: SERVE,
        value_name: "MS",
        about: "How long accepted work may take to finish after SIGTERM or SIGINT",
    },
    Key {
        name: "log",
        kind: Kind::LogFilter,
        default: || text("info"),
        commands: SERVE | SCORE | INSPECT,
        value_name: "FILTER",
        about: "What is logged on stderr: error, warn, info, debug, trace, or directives such as info,h2=warn",
    },
    Key {
        name: "otlp_endpoint",
        kind: Kind::EndpointOrOff,
        default: || text(OFF),
        commands: SERVE,
        value_name: "URL",
        about: "OTLP/gRPC collector that spans are sent to, such as http://127.0.0.1:4317, or off",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_fit_their_own_kind() {
        for key in KEYS.iter().filter(|key| key.name != "model") {
            assert_eq!(key.kind.check(&(key.default)()), Ok(()), "{}", key.name);
        }
    }

    #[test]
    fn names_are_distinct_and_flat() {
        let names: std::collections::BTreeSet<_> = KEYS.iter().map(|key| key.name).collect();
        assert_eq!(names.len(), KEYS.len());
        for key in KEYS {
            assert!(key.name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{}", key.name);
            assert!(!key.about.is_empty() && !key.about.ends_with('.') && !key.about.contains('\n'), "{}", key.name);
        }
    }

    #[test]
    fn endpoints_are_plain_http_with_a_host() {
        let check = |text: &str| Kind::EndpointOrOff.check(&Value::String(text.into())).is_ok();
        assert!(check("http://127.0.0.1:4317") && check("http://collector:4317/") && check("off"));
        assert!(!check("https://collector:4317") && !check("collector:4317") && !check("http://") && !check(""));
    }
}
