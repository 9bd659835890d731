//! Rows of the settings that say how rollouts are served: transports, limits, times, and what is told of them.

use toml::Value;

use super::super::key::{DOCTOR, HEALTH, INSPECT, Key, Kind, OFF, SCORE, SERVE};
use super::{count, limit, text};
use crate::limits;
use crate::sidecar::{self, OverLong};

fn sidecar() -> sidecar::Config {
    sidecar::Config::default()
}

/// In the order in which help and printed configuration show them.
pub(super) const KEYS: &[Key] = &[
    Key {
        name: "grpc",
        kind: Kind::AddressOrOff,
        default: || text("127.0.0.1:50051"),
        commands: SERVE | DOCTOR,
        value_name: "ADDR",
        about: "TCP address of the gRPC server, HOST:PORT or :PORT (all interfaces), or off (the default where uds, shm or http is given); \
                port 0 lets the system pick",
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
        name: "http",
        kind: Kind::HttpAddressesOrOff,
        default: || text(OFF),
        commands: SERVE,
        value_name: "ADDR,...",
        about: "Where HTTP is served, as trainers' own clients speak it: HOST:PORT or unix:PATH, several with commas between, or off",
    },
    Key {
        name: "gym_on_rejection",
        kind: Kind::OneOf(&["mask", "fail"]),
        default: || text("mask"),
        commands: SERVE,
        value_name: "mask|fail",
        about: "What NeMo-Gym's /verify is told of a rollout without a reward: a masked sample, or an error",
    },
    Key {
        name: "http_connections",
        kind: limit(limits::MAX_CONNECTIONS, "MAX_CONNECTIONS"),
        default: || count(sidecar().http_connections),
        commands: SERVE,
        value_name: "N",
        about: "Most HTTP connections that are open; under that pressure the longest idle one closes",
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
        commands: SERVE | HEALTH | DOCTOR,
        value_name: "ADDR",
        about: "TCP address of /metrics, /health and /ready, HOST:PORT or :PORT (all interfaces), or off; port 0 lets the system pick",
    },
    Key {
        name: "max_batch_tokens",
        kind: limit(limits::MAX_BATCH_TOKENS, "MAX_BATCH_TOKENS"),
        default: || count(sidecar().max_batch_tokens),
        commands: SERVE | SCORE,
        value_name: "N",
        about: "Most unique tokens that one micro-batch computes, fewer where that hardly costs more; a longer rollout goes alone",
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
        about: "Rollouts accepted and not yet handed to the engine; more wait until there is room",
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
        name: "grpc_connections",
        kind: limit(limits::MAX_CONNECTIONS, "MAX_CONNECTIONS"),
        default: || count(sidecar().grpc_connections),
        commands: SERVE,
        value_name: "N",
        about: "Most gRPC connections that are open; the next is accepted when one of them has closed",
    },
    Key {
        name: "intake_bytes",
        kind: limit(limits::MAX_INTAKE_BYTES, "MAX_INTAKE_BYTES"),
        default: || count(sidecar().intake_bytes),
        commands: SERVE,
        value_name: "BYTES",
        about: "Messages and texts that are held for callers before the queue takes their rollouts",
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
        about: "How long accepted work may take to finish, and its answers to be read, after SIGTERM, SIGINT or SIGHUP",
    },
    Key {
        name: "watchdog_ms",
        kind: Kind::Count { min: 0, ceiling: limits::MAX_DEADLINE_MS, ceiling_name: "MAX_DEADLINE_MS" },
        default: || count(sidecar().watchdog_ms as usize),
        commands: SERVE,
        value_name: "MS",
        about: "How long one pass may take before the server counts as failed and ends with exit 3; 0: for ever",
    },
    Key {
        name: "known_answer_ms",
        kind: Kind::Count { min: 0, ceiling: limits::MAX_DEADLINE_MS, ceiling_name: "MAX_DEADLINE_MS" },
        default: || count(sidecar().known_answer_ms as usize),
        commands: SERVE,
        value_name: "MS",
        about: "How long the engine may be idle before a rollout whose answer is known is scored again; 0: never, not even before the first",
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
    Key {
        name: "otlp_headers",
        kind: Kind::Secret,
        default: || text(OFF),
        // No command has a flag for a secret: everybody on the machine can read the command line of a process.
        commands: 0,
        value_name: "NAME=VALUE,...",
        about: "Headers for the collector, such as authorization=Bearer TOKEN, or off; they are sent without TLS",
    },
    Key {
        name: "otlp_headers_file",
        kind: Kind::PathOrOff,
        default: || text(OFF),
        commands: SERVE,
        value_name: "FILE",
        about: "File that otlp_headers is read from at the start, or off",
    },
];
