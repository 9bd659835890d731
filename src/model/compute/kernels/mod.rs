//! The arithmetic of the forward pass on the CPU, in float32, on plain slices.
//!
//! Invariant: the bits of an output row depend on that row's inputs alone, never on the rows beside it, its place, the
//! number of threads, the shape of a tile or the instruction set. It holds because
//! - every dot product is one chain of fused multiply-adds in ascending order of its index, started at zero. SIMD goes
//!   across outputs, blocking carries the same accumulator on through memory, and `f32::mul_add` rounds alike on
//!   every instruction set;
//! - what must be summed across lanes (a norm's squares, a softmax's denominator) goes through `lanes`, whose order is
//!   fixed;
//! - attention cuts its keys at absolute positions, never at the borders of segments.
//!
//! All kernels run in whatever rayon pool is current. Matrices are row-major.

mod activation;
mod addends;
mod aligned;
mod attention;
#[cfg(any(test, target_arch = "x86_64"))]
mod bf16_in_order;
mod bf16_rounding;
mod bfloat16;
mod bfloat16_activations;
mod delta;
mod erf;
mod exp;
mod experts;
mod feed_forward;
mod float;
mod float32;
mod grid;
mod int16;
mod int8;
mod integer;
mod isa;
mod lanes;
mod linear;
mod low_rank;
mod matrix;
mod norm;
mod panel;
mod paths;
mod peak;
mod revision;
mod rotary;
mod simd;
mod stored;
mod sweep;
#[cfg(test)]
pub(in crate::model) mod testing;
mod tile;
mod weight_type;

pub use activation::{activate, gate};
pub use addends::Addends;
pub use attention::{AttentionPlan, Kept, Past, PastRun, Relative, RelativeShape, attention};
pub use delta::{DeltaWeights, gated_delta};
pub use exp::exp;
pub use experts::{Expert, Share, add_shares, experts};
pub use feed_forward::{FeedForwardWeights, feed_forward};
pub use isa::Isa;
pub use linear::{linear, linear_continue, linear_continue_within, linear_of_reads};
pub use low_rank::add_low_rank;
pub use matrix::{PART_ALIGNMENT, PackedMatrix};
pub use norm::{layer_norm, rms_norm, rms_norm_heads};
pub use panel::Rows;
pub use paths::Paths;
pub use peak::{Peak, peak};
pub use revision::{REVISION, constants};
pub use rotary::rotary;
pub use stored::SharedBytes;
pub use weight_type::WeightType;
