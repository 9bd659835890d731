//! The keys and values that one rank keeps.

use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use candle_core::{Result, Storage, Tensor, bail};

use super::Keep;
use crate::model::compute::kernels::Kept;
use crate::model::compute::storage::values;
use crate::model::shapes::HeadLayout;

/// For each layer `[kv_heads, slots, 2, head_dim]`, as [`Kept`] has them. Pages that were never written take no memory.
pub struct KeyValues {
    layout: HeadLayout,
    slots: usize,
    layers: Vec<RwLock<Vec<f32>>>,
}

/// What is kept of one layer, as long as it is looked at.
pub struct LayerGuard<'a>(RwLockReadGuard<'a, Vec<f32>>);

impl LayerGuard<'_> {
    /// The values.
    pub fn kept(&self) -> Kept<'_> {
        Kept(&self.0)
    }
}

impl KeyValues {
    /// Room for so many tokens.
    pub fn new(layers: usize, slots: u32, layout: HeadLayout) -> Self {
        let layer = || RwLock::new(vec![0.0; slots as usize * layout.kept()]);
        Self { layout, slots: slots as usize, layers: std::iter::repeat_with(layer).take(layers).collect() }
    }

    /// Bytes of one token's keys and values in all layers.
    pub fn bytes_per_token(layers: usize, layout: HeadLayout) -> usize {
        layers * layout.kept() * size_of::<f32>()
    }

    /// Keeps rows of a layer's `qkv: [tokens, layout.row()]`, which are rotated already.
    pub fn keep(&self, layer: usize, qkv: &Tensor, keep: &[Keep]) -> Result<()> {
        if keep.is_empty() {
            return Ok(());
        }
        let (storage, layout) = qkv.storage_and_layout();
        let Storage::Cpu(storage) = &*storage else { bail!("expected activations on the CPU") };
        let qkv = values(storage, layout)?;
        let HeadLayout { heads, kv_heads, head_dim } = self.layout;
        // Who panicked here has left a pass unfinished, whose slots nobody reads.
        let mut values = self.layers[layer].write().unwrap_or_else(PoisonError::into_inner);
        for keep in keep {
            let row = &qkv[keep.row as usize * self.layout.row()..][..self.layout.row()];
            for kv_head in 0..kv_heads {
                let start = Kept::start(self.layout, self.slots, kv_head, keep.slot as usize);
                let (key, value) = values[start..start + 2 * head_dim].split_at_mut(head_dim);
                key.copy_from_slice(&row[(heads + kv_head) * head_dim..][..head_dim]);
                value.copy_from_slice(&row[(heads + kv_heads + kv_head) * head_dim..][..head_dim]);
            }
        }
        Ok(())
    }

    /// What is kept of a layer.
    pub fn layer(&self, layer: usize) -> LayerGuard<'_> {
        LayerGuard(self.layers[layer].read().unwrap_or_else(PoisonError::into_inner))
    }
}
