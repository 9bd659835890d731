//! The arithmetic of the forward pass in candle's tensor operations: what [`super::kernels`] compute, to rounding, on any
//! device.
//!
//! Invariant: activations have one type, and so have the results. Products of activations and weights are left to the
//! device's library in that type; everything else is computed in float32 and rounded once. A row that is not finite
//! stays so, and touches no other row but those of the same rollouts.

mod activation;
mod attention;
#[cfg(feature = "flash-attn")]
mod flash_attention;
mod norm;
mod paths;
mod rotary;
#[cfg(test)]
mod testing;

pub use activation::{activate, gate};
pub use attention::{PortablePlan, portable_attention};
#[cfg(feature = "flash-attn")]
pub use flash_attention::{FlashPlan, fits, flash_attention};
pub use norm::{layer_norm, rms_norm, rms_norm_heads};
pub use rotary::rotary;
