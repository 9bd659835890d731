//! What to load and how.

use std::path::PathBuf;

use super::compute::device::DeviceChoice;
use super::compute::dtype::Dtype;

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
    /// Bytes for the keys and values of prefixes that later micro-batches may begin with, all ranks together; 0 keeps none.
    /// On the CPU alone.
    pub prefix_cache_bytes: usize,
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
            untrained_attributes: false,
            template_date: None,
            tp: 1,
            device: DeviceChoice::Cpu,
            dtype: Dtype::Auto,
            threads: 0,
            prefix_cache_bytes: 0,
            cache_dir: PathBuf::new(),
        }
    }
}
