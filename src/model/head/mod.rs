//! Heads: attributes out of the hidden state at the reads. A new kind is one file here and one line in [`HEADS`].
//!
//! Float32 on the CPU, whatever the backbone's precision and device: a head sees few rows, and its numbers are the answer.
//! Invariant: a row of the result depends on its own rows of hidden state alone, bit for bit.

mod linear;

use super::ModelError;
use super::checkpoint::WeightSource;
use super::settings::Settings;
use crate::batch::MicroBatch;

/// A loaded head.
pub trait Head: Send + Sync {
    /// Number of attributes.
    fn outputs(&self) -> usize;

    /// Number of weights.
    fn parameters(&self) -> usize;

    /// Bytes of the weights in memory.
    fn bytes(&self) -> usize;

    /// Rows that it wants to see besides the reads: one for each read, or none at all.
    fn companions(&self, _batch: &MicroBatch) -> Option<Vec<u32>> {
        None
    }

    /// The attributes of each read, row after row.
    fn forward(&self, hidden: Hidden) -> Vec<f32>;
}

/// Final hidden states, normed, row after row.
#[derive(Debug, Clone, Copy)]
pub struct Hidden<'a> {
    /// At the reads, `[reads, hidden]`.
    pub reads: &'a [f32],
    /// At their companions, as many; empty if the head wants none.
    pub companions: &'a [f32],
}

/// A kind of head; a line in [`HEADS`].
pub trait HeadKind: Sync {
    /// Its name in manifests and presets.
    fn name(&self) -> &'static str;

    /// Loads such a head.
    fn load(&self, context: &HeadContext) -> Result<Box<dyn Head>, ModelError>;
}

/// What a head is loaded from.
pub struct HeadContext<'a> {
    /// The model's configuration.
    pub settings: &'a Settings,
    /// The model's weights.
    pub weights: &'a dyn WeightSource,
    /// Features of the hidden state.
    pub hidden: usize,
    /// How many attributes have names; `None` if as many as the head has outputs.
    pub names: Option<usize>,
    /// What the manifest or preset says of it.
    pub spec: &'a HeadSpec,
}

/// Which kind of head, and what that kind wants to know.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct HeadSpec {
    /// The name of a kind.
    pub kind: String,
    /// Its options.
    #[serde(flatten)]
    pub options: toml::Table,
}

impl Default for HeadSpec {
    /// What most reward models have.
    fn default() -> Self {
        Self { kind: HEADS[0].name().to_owned(), options: toml::Table::new() }
    }
}

/// Every kind of head; the first is the default.
pub const HEADS: &[&dyn HeadKind] = &[&linear::Linear];

/// Loads the head that a model's manifest or preset describes.
pub fn load(context: &HeadContext) -> Result<Box<dyn Head>, ModelError> {
    let kind = &context.spec.kind;
    match HEADS.iter().find(|known| known.name() == kind) {
        Some(known) => known.load(context),
        None => {
            let known: Vec<_> = HEADS.iter().map(|known| known.name()).collect();
            let reason = format!("head.kind is {kind:?}, expected one of {}", known.join(", "));
            Err(ModelError::malformed(context.settings.path(), reason))
        }
    }
}
