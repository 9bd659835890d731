//! Types of numbers: what a checkpoint stores, and in what a model's weights are kept.

use std::fmt;
use std::str::FromStr;

use super::kernels::WeightType;

/// Types that hold a tensor's values exactly. Every one of them widens to float32 without loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// IEEE 754 binary32; also every quantised type, which is read as float32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// The upper half of binary32.
    Bf16,
}

impl Precision {
    /// As model versions write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Type of the weights in memory, as a user asks for it. Norms, softmax, sums and the head are float32 whatever it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Dtype {
    /// Float32 on the CPU, bfloat16 on a GPU.
    #[default]
    Auto,
    /// On the CPU the fastest that the model bears, as trying shows.
    Fast,
    /// This one; on a GPU bfloat16 alone.
    Weights(WeightType),
}

/// `auto`, `fast`, and each type of weights.
const NAMES: [&str; 2 + WeightType::ALL.len()] = {
    let mut names = ["auto"; 2 + WeightType::ALL.len()];
    names[1] = "fast";
    let mut i = 0;
    while i < WeightType::ALL.len() {
        names[2 + i] = WeightType::ALL[i].name();
        i += 1;
    }
    names
};

impl Dtype {
    /// All of them, as they are written.
    pub const NAMES: &[&str] = &NAMES;

    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => NAMES[0],
            Self::Fast => NAMES[1],
            Self::Weights(weights) => weights.name(),
        }
    }

    /// What the kernels on the CPU make of it, unless something is tried.
    pub(super) fn weight_type(self) -> WeightType {
        match self {
            Self::Auto | Self::Fast => WeightType::F32,
            Self::Weights(weights) => weights,
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The text names no type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no type of weights; expected one of {names}", names = Dtype::NAMES.join(", "))]
pub struct UnknownDtype(String);

impl FromStr for Dtype {
    type Err = UnknownDtype;

    fn from_str(text: &str) -> Result<Self, UnknownDtype> {
        match text {
            "auto" => Ok(Self::Auto),
            "fast" => Ok(Self::Fast),
            name => WeightType::named(name).map(Self::Weights).ok_or_else(|| UnknownDtype(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::model::compute::dtype::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for name in Dtype::NAMES {
            assert_eq!(name.parse::<Dtype>().unwrap().to_string(), *name);
        }
        assert!(
            "fp8"
                .parse::<Dtype>()
                .unwrap_err()
                .to_string()
                .contains("auto, fast, f32, int16, bf16, bf16-activations, int8")
        );
    }
}
