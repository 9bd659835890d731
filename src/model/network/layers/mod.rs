//! Layers: what architectures are built of. A candle [`Tensor`](candle_core::Tensor) goes in and comes out; how it is
//! computed is decided here and nowhere else: by the slice kernels of [`crate::model::compute::kernels`] or by the tensor operations of
//! [`crate::model::compute::tensors`].
//!
//! Activations are row-major, `[tokens, features]`, of the type that the [`Backend`](crate::model::compute::backend::Backend) names.

mod activation;
mod attention;
mod delta;
mod dense;
mod embedding;
mod experts;
mod feed_forward;
mod line_sum;
mod linear;
mod longrope;
mod low_rank;
mod matrix;
mod narrowed;
mod norm;
mod output_gate;
mod packed;
mod projection_norm;
mod rotary;
mod routing;

pub use activation::{activation_named, read_activation};
pub use attention::Attention;
pub use delta::{Delta, DeltaTensors};
pub use embedding::Embedding;
pub use experts::Experts;
pub use feed_forward::FeedForward;
pub use linear::Linear;
pub use longrope::LongRope;
pub use matrix::Matrix;
pub use norm::{HeadNorm, Norm, NormKind};
pub use output_gate::OutputGate;
pub use projection_norm::ProjectionNorm;
pub use rotary::{Rotary, RotaryTables, refuse_partial};
pub use routing::Routing;

use crate::model::error::ModelError;

/// What loading a layer gives.
type Loaded<T> = std::result::Result<T, ModelError>;
