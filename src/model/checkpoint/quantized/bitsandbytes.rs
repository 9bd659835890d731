//! bitsandbytes: 8-bit whole numbers with the largest value of each output (`SCB`), or 4-bit codes, of which
//! [`super::bitsandbytes4`] knows more.
//!
//! Source: `int8_vectorwise_dequant` in `bitsandbytes/_ops.py`: code times largest value, times 1/127 as it is written there.

use super::bitsandbytes4;
use super::method::{Matrix, Method};
use super::module::Module;
use super::options::Options;
use super::scaled::Scaled;
use crate::model::checkpoint::ElementType;
use crate::model::compute::dtype::Precision;
use crate::model::error::ModelError;

/// As configurations call it.
pub const NAME: &str = "bitsandbytes";

/// By what a code times the largest value is multiplied.
const FACTOR: f32 = 7.874_016e-3;

struct Int8;

/// Reads its options: which of the two it is.
pub fn read(options: &Options) -> Result<Box<dyn Method>, ModelError> {
    if options.flag("llm_int8_has_fp16_weight")? == Some(true) {
        return Err(options.unsupported("llm_int8_has_fp16_weight", "false"));
    }
    match (options.flag("load_in_8bit")?.unwrap_or(false), options.flag("load_in_4bit")?.unwrap_or(false)) {
        (true, false) => {
            // What would be read if it were the other one.
            for name in ["bnb_4bit_quant_type", "bnb_4bit_use_double_quant", "bnb_4bit_quant_storage"] {
                options.get(name);
            }
            Ok(Box::new(Int8))
        }
        (false, true) => bitsandbytes4::read(options),
        _ => Err(options.unsupported("load_in_4bit", "true, or load_in_8bit true, and not both")),
    }
}

impl Method for Int8 {
    fn marks(&self) -> &[&str] {
        &["SCB"]
    }

    fn open(&self, module: &Module) -> Result<Box<dyn Matrix>, ModelError> {
        let (element, shape) = module.matrix("weight", &[ElementType::I8])?;
        // 0 is row by row; the others were orders of a kernel for single GPUs.
        if module.find("weight_format").is_some() {
            let (_, format) = module.bytes("weight_format", &[ElementType::U8])?;
            if format != [0] {
                return Err(module.malformed("weight_format", format!("is {format:?}, expected [0]: row by row")));
            }
        }
        let scales = module.scales("SCB", [shape[0], 1], [1, shape[1]])?;
        let (codes, factor, rounding) = (module.part("weight"), Some(FACTOR), Precision::F32);
        Ok(Box::new(Scaled { codes, element, shape, scales, zeros: None, factor, rounding }))
    }
}
