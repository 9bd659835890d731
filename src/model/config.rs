//! What to load and how.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::compute::device::DeviceChoice;
use super::compute::dtype::Dtype;
use super::compute::kernels::Isa;
use super::error::ModelError;
use super::memory;
use crate::limits::MAX_NAME_BYTES;

/// One of the models on the same base.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedAdapter {
    /// What requests call the model.
    pub name: String,
    /// Its adapter, a folder in PEFT's layout; `None` for the base as it is.
    pub folder: Option<PathBuf>,
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
    /// Adapters on the one model, each a model of its own; they are not merged, and stand in place of one that the model brings.
    /// Not together with `adapter` and `head`.
    pub adapters: Vec<NamedAdapter>,
    /// Whether outputs that were never trained are attributes too.
    pub untrained_attributes: bool,
    /// The day that chat templates are told where they ask for today's, as `YYYY-MM-DD`. Part of the model's version.
    pub template_date: Option<String>,
    /// Fields of the model's configuration that are left out of it. Part of the model's version.
    pub ignore_fields: Vec<String>,
    /// Tensor-parallel ranks.
    pub tp: usize,
    /// Where the first rank computes; the others follow.
    pub device: DeviceChoice,
    /// Type of its weights in memory.
    pub dtype: Dtype,
    /// CPU threads of the forward pass; 0 means all cores.
    pub threads: usize,
    /// The instructions that the kernels use; `None` for the fastest that the machine has. All give the same bits, which is
    /// what tests choose one for; no setting of a user does.
    pub isa: Option<Isa>,
    /// Room for the keys and values of prefixes that later micro-batches may begin with. On the CPU alone.
    pub prefix_cache: CacheSize,
    /// Where downloaded bases, digests and packed weights are kept.
    pub cache_dir: PathBuf,
    /// Room for packed weights there. On the CPU alone.
    pub packed_room: DiskRoom,
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
            ignore_fields: Vec::new(),
            tp: 1,
            device: DeviceChoice::Cpu,
            dtype: Dtype::Auto,
            threads: 0,
            isa: None,
            prefix_cache: CacheSize::Bytes(0),
            cache_dir: PathBuf::new(),
            packed_room: DiskRoom::Bytes(0),
        }
    }
}

impl Config {
    /// The configuration of one of its adapters.
    pub(super) fn alone(&self, adapter: &NamedAdapter) -> Self {
        let adapters = if adapter.folder.is_some() { Vec::new() } else { vec![adapter.clone()] };
        Self { adapter: adapter.folder.clone(), adapters, ..self.clone() }
    }

    /// Refuses names by which requests could not tell the models apart, and what would be for one of them alone.
    pub(super) fn check_adapters(&self) -> Result<(), ModelError> {
        let refused = |reason: String| Err(ModelError::Adapters { reason });
        if self.head.is_some() {
            return refused(
                "a head apart (--head) is for one model; put each head into its adapter's folder".to_owned(),
            );
        }
        if self.adapter.is_some() {
            return refused(
                "an adapter that is merged (--adapter DIR) is of one model; give it a name: NAME=DIR".to_owned(),
            );
        }
        let mut names = BTreeSet::new();
        for NamedAdapter { name, folder } in &self.adapters {
            let folder = folder.as_ref().map_or_else(|| "off".to_owned(), |folder| folder.display().to_string());
            if name.is_empty() || name.len() > MAX_NAME_BYTES {
                return refused(format!("{folder} needs a name of 1 to {MAX_NAME_BYTES} bytes: NAME={folder}"));
            }
            if !names.insert(name) {
                return refused(format!("two are called {name:?}; give each a name of its own: NAME={folder}"));
            }
        }
        Ok(())
    }
}

/// Room on a disk for the packed weights of all models.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskRoom {
    /// So many bytes; 0 keeps none, and reads none.
    Bytes(u64),
    /// A quarter of what the disk has free beside them.
    Auto,
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
    use crate::model::prefix_cache::KeyValues;
    use crate::model::shapes::HeadLayout;

    /// A quarter of what is free beside the weights of Llama 3's 8B (bf16) on a host with 64 GiB, and its 70B with 256 GiB.
    #[test]
    fn large_models_keep_more_than_a_context_of_chat() {
        let heads = HeadLayout { heads: 32, kv_heads: 8, head_dim: 128 };
        for (layers, weights, free, tokens) in [(32, 16 << 30, 64 << 30, 49_152), (80, 140 << 30, 256 << 30, 47_513)] {
            let bytes_per_token = KeyValues::bytes_per_token(layers, heads);
            assert_eq!(bytes_per_token, layers * 2 * 8 * 128 * 4);
            let auto = CacheSize::Auto { tokens: 16 * 4096 };
            assert_eq!(auto.tokens_of(bytes_per_token, weights, Some(free)), tokens);
        }
    }

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
