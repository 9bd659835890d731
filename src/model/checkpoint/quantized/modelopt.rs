//! ModelOpt's 8-bit floats, as it exports them for Hugging Face's layout: options in `hf_quant_config.json`, or in `config.json`.
//!
//! Source: `FP8QTensor.dequantize` in `modelopt/torch/quantization/qtensor/fp8_tensor.py`, the names of algorithms in
//! `modelopt/torch/export/quant_utils.py`. The scales of blocks are a tensor of four dimensions, two of which are 1.

use super::fp8;
use super::method::{Matrix, Method};
use super::module::Module;
use super::options::Options;
use crate::model::error::ModelError;

/// As configurations call it.
pub const NAME: &str = "modelopt";

/// Outputs and inputs of a block where there are blocks.
const BLOCK: [usize; 2] = [128, 128];

/// What shares a scale.
enum Shared {
    Matrix,
    Output,
    Block,
}

/// Reads its options.
pub fn read(options: &Options) -> Result<Box<dyn Method>, ModelError> {
    // The groups say at length what the algorithm's name says.
    options.get("config_groups");
    match options.text("quant_algo")? {
        Some("FP8") => Ok(Box::new(Shared::Matrix)),
        Some("FP8_PER_CHANNEL_PER_TOKEN") => Ok(Box::new(Shared::Output)),
        Some("FP8_PB_WO") => Ok(Box::new(Shared::Block)),
        _ => Err(options.unsupported("quant_algo", "FP8, FP8_PER_CHANNEL_PER_TOKEN or FP8_PB_WO")),
    }
}

impl Method for Shared {
    fn marks(&self) -> &[&str] {
        &["weight_scale"]
    }

    fn passed_over(&self) -> &[&str] {
        &fp8::PASSED_OVER
    }

    fn open(&self, module: &Module) -> Result<Box<dyn Matrix>, ModelError> {
        fp8::open(module, "weight_scale", |shape| match self {
            Self::Matrix => shape,
            Self::Output => [1, shape[1]],
            Self::Block => BLOCK,
        })
    }
}
