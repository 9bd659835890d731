//! The number of the arithmetic: what the bits of a reward depend on beside the model's own files.
//!
//! Invariant: two programs of one revision give the same bits for the same model, type of weights and rollout.
//! `tests/golden_bits.rs` holds the bits of fixtures, and [`constants`], against what is stored for this number.

use super::activation::GELU_ROOT;
use super::attention::{BLOCK, SLACK};
use super::bf16_rounding::LEAST;
use super::delta::L2_EPS;
use super::erf;
use super::exp;
use super::integer::IntegerWeight;
use super::lanes::LANES;

/// Part of every model version. Whoever changes the arithmetic so that bits move counts it up: the kernels' constants and
/// order of operations, the heads, the rotary tables, the rounding of weights, how an adapter is merged, and how GGUF's blocks
/// become float32, which candle does.
pub const REVISION: u32 = 2;

/// The constants that decide bits, by name; numbers as their bits.
pub fn constants() -> Vec<(&'static str, Vec<u32>)> {
    let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect();
    let integers = |limit: i32, activation_limit: i32, group: usize| {
        vec![limit.unsigned_abs(), activation_limit.unsigned_abs(), group as u32]
    };
    vec![
        ("attention block", vec![BLOCK as u32]),
        ("attention slack", bits(&[SLACK])),
        ("lanes", vec![LANES as u32]),
        ("exp", bits(&exp::EXP)),
        ("exp range", bits(&[exp::LEAST, exp::GREATEST, exp::ROUND, exp::LN_2_HIGH, exp::LN_2_LOW])),
        ("tanh", bits(&exp::TANH)),
        ("gelu", bits(&[GELU_ROOT])),
        ("erf range", bits(&[erf::SPLIT, erf::ONE])),
        ("erf near", bits(&erf::NEAR)),
        ("erf far", bits(&erf::FAR)),
        ("bf16 activations", bits(&[LEAST])),
        ("delta", bits(&[L2_EPS])),
        ("int8", integers(i8::LIMIT, i8::ACTIVATION_LIMIT, i8::GROUP)),
        ("int16", integers(i16::LIMIT, i16::ACTIVATION_LIMIT, i16::GROUP)),
    ]
}
