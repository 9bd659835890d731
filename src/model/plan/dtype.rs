//! Types that weights can be stored in on a GPU, and what a number of weights takes in each. Types that the engine does not
//! load are here as what a plan knows of GPUs alone.

use std::fmt;
use std::str::FromStr;

use crate::model::compute::dtype::Precision;

/// A type of weights. Quantised ones are meant as checkpoints have them: the layers' matrices are quantised, while the
/// embedding, norms and biases stay in bf16.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// float32.
    F32,
    /// bfloat16.
    Bf16,
    /// float16.
    F16,
    /// 8-bit floating point, a scale for each tensor.
    Fp8,
    /// 8-bit integers, a scale for each tensor or row.
    Int8,
    /// 4-bit integers, a bf16 scale for every 128 weights.
    Int4,
}

impl Dtype {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::F32, Self::Bf16, Self::F16, Self::Fp8, Self::Int8, Self::Int4];

    /// Those that the engine computes in, the first by default on CPUs and the second on GPUs; the others are arithmetic.
    pub const COMPUTED: &[Self] = &[Self::F32, Self::Bf16];

    /// What `--dtype` calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => Precision::F32.name(),
            Self::Bf16 => Precision::Bf16.name(),
            Self::F16 => Precision::F16.name(),
            Self::Fp8 => "fp8",
            Self::Int8 => "int8",
            Self::Int4 => "int4",
        }
    }

    /// Bytes of `count` weights of matrices. Scales of whole tensors and rows are too few to count.
    pub fn matrix_bytes(self, count: u64) -> u64 {
        match self {
            Self::F32 => 4 * count,
            Self::Bf16 | Self::F16 => 2 * count,
            Self::Fp8 | Self::Int8 => count,
            // 128 weights take 64 bytes, and a scale of 2.
            Self::Int4 => (count * 33).div_ceil(64),
        }
    }

    /// Bytes of one activation, and of one weight that is not quantised.
    pub fn activation_bytes(self) -> u64 {
        match self {
            Self::F32 => 4,
            _ => 2,
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A name that is no type's.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("no type {found:?} is known; there are {}", Dtype::ALL.map(Dtype::name).join(", "))]
pub struct UnknownDtype {
    found: String,
}

impl FromStr for Dtype {
    type Err = UnknownDtype;

    fn from_str(name: &str) -> Result<Self, UnknownDtype> {
        let found = Self::ALL.into_iter().find(|dtype| dtype.name().eq_ignore_ascii_case(name));
        found.ok_or_else(|| UnknownDtype { found: name.to_owned() })
    }
}
