//! AWQ in the layout of its `gemm` kernel: `qweight` and `qzeros` have the 4-bit codes of eight outputs in a word, in an order
//! of their own, `scales` one number for each group of inputs and output.
//!
//! Source: `dequantize_gemm` and `AWQ_REVERSE_ORDER` in `awq/utils/packing_utils.py` of AutoAWQ.

use super::grouped::{Grouped, Groups, Zeros};
use super::method::{Matrix, Method};
use super::module::Module;
use super::options::Options;
use super::packed::{Axis, Packed};
use crate::model::checkpoint::ElementType;
use crate::model::error::ModelError;

/// As configurations call it.
pub const NAME: &str = "awq";

/// Bits of a code.
const BITS: usize = 4;

/// Where in its word each of eight outputs is.
const ORDER: [usize; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

struct Awq {
    /// Inputs of a group; `None` for all.
    group_size: Option<usize>,
}

/// Reads its options, under transformers' names or AutoAWQ's own.
pub fn read(options: &Options) -> Result<Box<dyn Method>, ModelError> {
    for field in ["bits", "w_bit"] {
        if options.size(field)?.is_some_and(|bits| bits != BITS) {
            return Err(options.unsupported(field, "4"));
        }
    }
    for field in ["version", "format"] {
        if options.text(field)?.is_some_and(|version| !version.eq_ignore_ascii_case("gemm")) {
            return Err(options.unsupported(field, "\"gemm\""));
        }
    }
    if options.flag("zero_point")? == Some(false) {
        return Err(options.unsupported("zero_point", "true"));
    }
    let group_size = match options.size("q_group_size")? {
        Some(size) => Some(size),
        None => options.group_size()?,
    };
    Ok(Box::new(Awq { group_size }))
}

impl Method for Awq {
    fn marks(&self) -> &[&str] {
        &["qweight"]
    }

    fn open(&self, module: &Module) -> Result<Box<dyn Matrix>, ModelError> {
        let (_, [inputs, words]) = module.matrix("qweight", &[ElementType::I32])?;
        let outputs = words * (32 / BITS);
        let size = self.group_size.unwrap_or(inputs);
        let groups = inputs.div_ceil(size);
        let packed = |part: &str| {
            let name = module.part(part);
            Packed { name, bits: BITS, along: Axis::Outputs, transposed: true, order: Some(&ORDER) }
        };
        module.shaped("qzeros", &[ElementType::I32], [groups, words])?;
        let mut scales = module.scales("scales", [groups, outputs], [1, size])?;
        scales.transposed = true;
        Ok(Box::new(Grouped {
            shape: [outputs, inputs],
            codes: packed("qweight"),
            zeros: Zeros::Packed(packed("qzeros"), 0),
            scales,
            groups: Groups::Of(size),
        }))
    }
}
