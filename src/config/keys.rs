//! The table of settings: one row each. The file, the environment, the flags, their help and `--print-config` are all
//! made from it. The rows of the model stand here, those of serving in `serving.rs`.

mod serving;

use toml::Value;

use super::key::{AUTO, DOCTOR, INSPECT, Key, Kind, OFF, SCORE, SERVE};
use crate::limits;
use crate::model::{DeviceChoice, Dtype};

fn text(value: impl Into<String>) -> Value {
    Value::String(value.into())
}

/// Defaults of limits are far below `i64::MAX`; see their ceilings.
fn count(value: usize) -> Value {
    Value::Integer(value as i64)
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
pub(super) const KEYS: &[Key] = &joined::<{ MODEL.len() + serving::KEYS.len() }>(MODEL, serving::KEYS);

const fn joined<const N: usize>(first: &[Key], second: &[Key]) -> [Key; N] {
    assert!(N == first.len() + second.len());
    let mut all = [first[0]; N];
    let mut i = 0;
    while i < N {
        all[i] = if i < first.len() { first[i] } else { second[i - first.len()] };
        i += 1;
    }
    all
}

/// What is loaded, and how it is computed.
const MODEL: &[Key] = &[
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
        kind: Kind::AdaptersOrOff,
        default: || text(OFF),
        commands: SERVE | SCORE | INSPECT,
        value_name: "[NAME=]DIR",
        about: "Adapter in PEFT's layout to merge into the model, or off; NAME=DIR, or several with commas between or by several \
                flags: each a model of its own on the one base, not merged, which requests name (NAME=off: the base alone)",
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
        name: "ignore_fields",
        kind: Kind::Text,
        default: || text(OFF),
        commands: SERVE | SCORE | INSPECT,
        value_name: "NAMES",
        about: "Fields of the model's configuration to leave out of it, by commas, or off",
    },
    Key {
        name: "template_date",
        kind: Kind::DayOrOff,
        default: || text(OFF),
        commands: SERVE | SCORE | INSPECT,
        value_name: "YYYY-MM-DD",
        about: "The day that a chat template is told where it asks for today's (strftime_now), or off; part of model_version",
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
        about: "Type of the weights in memory: auto (f32 on the CPU, bf16 on a GPU), fast (CPU: the fastest that differs from f32 by 0.02 at most on made-up rollouts), f32, bf16, or int16, bf16-activations and int8 (CPU); part of model_version",
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
        kind: Kind::CountOrAuto {
            ceiling: limits::MAX_PREFIX_CACHE_BYTES as u64,
            ceiling_name: "MAX_PREFIX_CACHE_BYTES",
        },
        default: || text(AUTO),
        commands: SERVE | SCORE,
        value_name: "N",
        about: "Memory for prefixes that later micro-batches may begin with, on the CPU; 0 keeps none, auto: a quarter of what is free, \
                at most 16 micro-batches' tokens. Never changes a reward",
    },
    Key {
        name: "cache_dir",
        kind: Kind::Text,
        default: cache_dir,
        commands: SERVE | SCORE | INSPECT | DOCTOR,
        value_name: "DIR",
        about: "Where downloaded bases, digests and packed weights are kept",
    },
    Key {
        name: "packed_cache_bytes",
        kind: Kind::CountOrAuto {
            ceiling: limits::MAX_PACKED_CACHE_BYTES as u64,
            ceiling_name: "MAX_PACKED_CACHE_BYTES",
        },
        default: || text(AUTO),
        commands: SERVE | SCORE | INSPECT,
        value_name: "N",
        about: "Disk room in cache_dir for packed weights, which a server writes once it is up, and the next start maps; 0 keeps none, \
                auto: a quarter of what is free. Never changes a reward",
    },
];

/// The setting whose name looks most like `name`, if one looks like it at all.
pub(super) fn nearest(name: &str) -> Option<&'static Key> {
    let name = name.replace('-', "_");
    let (distance, key) = KEYS.iter().map(|key| (strsim::levenshtein(&name, key.name), key)).min_by_key(|(d, _)| *d)?;
    (distance <= 1 + name.chars().count() / 4).then_some(key)
}

#[cfg(test)]
#[path = "keys_tests.rs"]
mod tests;
