//! What to load and how.

use std::path::PathBuf;

use super::compute::device::DeviceChoice;
use super::compute::dtype::Dtype;
use super::memory;

/// An adapter that is a model of its own beside others on the same base.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedAdapter {
    /// What requests call the model.
    pub name: String,
    /// A folder in PEFT's layout.
    pub folder: PathBuf,
}

/// What to load and how.
#[derive(Debug, Clone)]
pub struct Config {
    /// A model reference; see [`FORMS`](super::FORMS).
    pub model: String,
    /// How it is to be used: a preset's name or file, `auto` for what the model itself says or gives away, or `none`.
    pub preset: String,
    /// A safetensors file that holds the head, where it is apart from the model.
    pub head: Option<PathBuf>,
    /// A LoRA adapter in PEFT's layout that is merged into the model.
    pub adapter: Option<PathBuf>,
    /// Adapters on the one model, each a model of its own; they are not merged. Not together with `adapter` and `head`.
    pub adapters: Vec<NamedAdapter>,
    /// Whether outputs that were never trained are attributes too.
    pub untrained_attributes: bool,
    /// The day that chat templates are told where they ask for today's, as `YYYY-MM-DD`. Part of the model's version.
    pub template_date: Option<String>,
    /// Tensor-parallel ranks.
    pub tp: usize,
    /// Where the first rank computes; the others follow.
    pub device: DeviceChoice,
    /// Type of its weights in memory.
    pub dtype: Dtype,
    /// CPU threads of the forward pass; 0 means all cores.
    pub threads: usize,
    /// Room for the keys and values of prefixes that later micro-batches may begin with. On the CPU alone.
    pub prefix_cache: CacheSize,
    /// Where downloaded bases are kept.
    pub cache_dir: PathBuf,
}

impl Default for Config {
    /// No model, on one rank and all cores, used as it says itself.
    fn default() -> Self {
        Self {
            model: String::new(),
            preset: "auto".into(),
            head: None,
            adapter: None,
            adapters: Vec::new(),
            untrained_attributes: false,
            template_date: None,
            tp: 1,
            device: DeviceChoice::Cpu,
            dtype: Dtype::Auto,
            threads: 0,
            prefix_cache: CacheSize::Bytes(0),
            cache_dir: PathBuf::new(),
        }
    }
}

/// Room of a prefix cache, all ranks together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheSize {
    /// So many bytes; 0 keeps none.
    Bytes(usize),
    /// As free memory allows when the model is loaded: a quarter of what its weights leave, and no more than so many tokens need.
    Auto {
        /// The most.
        tokens: usize,
    },
}

/// The share of free memory that a cache takes.
const SHARE: usize = 4;

/// What a cache takes where the system does not say how much memory is free.
const UNKNOWN_MEMORY: usize = 128 << 20;

impl CacheSize {
    /// Tokens of `bytes_per_token` each, for a model whose weights will take `weights` bytes.
    pub(super) fn tokens(self, bytes_per_token: usize, weights: usize) -> u32 {
        self.tokens_of(bytes_per_token, weights, memory::available())
    }

    fn tokens_of(self, bytes_per_token: usize, weights: usize, available: Option<usize>) -> u32 {
        let tokens = match self {
            Self::Bytes(bytes) => bytes / bytes_per_token,
            Self::Auto { tokens } => {
                let bytes = available.map_or(UNKNOWN_MEMORY, |free| free.saturating_sub(weights) / SHARE);
                tokens.min(bytes / bytes_per_token)
            }
        };
        u32::try_from(tokens).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_follows_free_memory_and_takes_no_more_than_it_can_use() {
        let auto = CacheSize::Auto { tokens: 1000 };
        assert_eq!(auto.tokens_of(100, 0, Some(1 << 30)), 1000);
        assert_eq!(auto.tokens_of(100, 200_000, Some(300_000)), 250);
        assert_eq!(auto.tokens_of(100, 400_000, Some(300_000)), 0, "there is no room");
        assert_eq!(auto.tokens_of(1 << 20, 0, None), 128);
        assert_eq!(CacheSize::Bytes(1050).tokens_of(100, 0, Some(0)), 10, "who names a number has it");
    }
}
