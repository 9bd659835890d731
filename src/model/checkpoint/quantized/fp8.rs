//! 8-bit floats with a scale for each block, for each output, or for the whole matrix.
//!
//! Sources: `weight_dequant` in `inference/kernel.py` of DeepSeek-V3 for blocks that the matrix ends within, `Fp8Dequantize` in
//! `integrations/finegrained_fp8.py` of transformers for the arithmetic (float32 in a float32 model), `Fp8Config` of vLLM for
//! the names `weight_scale` and `input_scale`, `FbgemmFp8Linear` of transformers for one scale for each output.

use super::method::{Matrix, Method};
use super::module::Module;
use super::options::Options;
use super::scaled::Scaled;
use crate::model::checkpoint::ElementType;
use crate::model::compute::dtype::Precision;
use crate::model::error::ModelError;

/// As configurations call it.
pub const NAME: &str = "fp8";

/// With a scale for each output, as `fbgemm` has them.
pub const FBGEMM: &str = "fbgemm_fp8";

/// Tensors about activations that stand beside weights of 8-bit floats.
pub const PASSED_OVER: [&str; 5] = ["input_scale", "output_scale", "q_scale", "k_scale", "v_scale"];

struct Fp8 {
    /// Outputs and inputs of a block; `None` for the whole matrix.
    block: Option<[usize; 2]>,
    /// Whether each output has a scale.
    per_output: bool,
}

/// Reads its options.
pub fn read(options: &Options) -> Result<Box<dyn Method>, ModelError> {
    if options.text("fmt")?.is_some_and(|format| !matches!(format, "e4m3" | "float8_e4m3fn")) {
        return Err(options.unsupported("fmt", "\"e4m3\""));
    }
    Ok(Box::new(Fp8 { block: options.block("weight_block_size")?, per_output: false }))
}

/// Reads the options of `fbgemm_fp8`, none of which matters.
pub fn read_fbgemm(_: &Options) -> Result<Box<dyn Method>, ModelError> {
    Ok(Box::new(Fp8 { block: None, per_output: true }))
}

impl Method for Fp8 {
    fn marks(&self) -> &[&str] {
        &["weight_scale_inv", "weight_scale"]
    }

    fn passed_over(&self) -> &[&str] {
        &PASSED_OVER
    }

    fn open(&self, module: &Module) -> Result<Box<dyn Matrix>, ModelError> {
        let part = if module.find("weight_scale_inv").is_some() { "weight_scale_inv" } else { "weight_scale" };
        open(module, part, |shape| match self.block {
            Some(block) => block,
            None if self.per_output => [1, shape[1]],
            None => shape,
        })
    }
}

/// A weight of 8-bit floats whose scales are in `part`, for blocks that its shape decides. The product is one of float32.
pub fn open(
    module: &Module,
    part: &str,
    block: impl FnOnce([usize; 2]) -> [usize; 2],
) -> Result<Box<dyn Matrix>, ModelError> {
    let (element, shape) = module.matrix("weight", &[ElementType::F8E4M3])?;
    let block = block(shape);
    let grid = [shape[0].div_ceil(block[0]), shape[1].div_ceil(block[1])];
    let scales = module.scales(part, grid, block)?;
    let codes = module.part("weight");
    let rounding = Precision::F32;
    Ok(Box::new(Scaled { codes, element, shape, scales, zeros: None, factor: None, rounding }))
}
