//! GPTQ: `qweight` has the codes of inputs side by side in the words of a column, `qzeros` those of outputs in the words of a
//! row, `scales` one number for each group of inputs and output, `g_idx` the group of each input.
//!
//! Source: `QuantLinear` in `auto_gptq/nn_modules/qlinear/qlinear_cuda.py` of AutoGPTQ. What is stored of a zero is one less
//! than it, but in the checkpoint format `gptq_v2` of GPTQModel, where it is itself.

use super::grouped::{Grouped, Groups, Zeros};
use super::method::{Matrix, Method};
use super::module::Module;
use super::options::Options;
use super::packed::{Axis, Packed};
use crate::model::checkpoint::ElementType;
use crate::model::error::ModelError;

/// As configurations call it.
pub const NAME: &str = "gptq";

struct Gptq {
    bits: usize,
    /// Inputs of a group; `None` for all.
    group_size: Option<usize>,
    /// What is added to a zero that is read.
    plus: i32,
}

/// Reads its options.
pub fn read(options: &Options) -> Result<Box<dyn Method>, ModelError> {
    let bits = options.size("bits")?.filter(|bits| [2, 3, 4, 8].contains(bits));
    let bits = bits.ok_or_else(|| options.unsupported("bits", "2, 3, 4 or 8"))?;
    let mut plus = 1;
    for field in ["checkpoint_format", "format"] {
        match options.text(field)? {
            None | Some("gptq") => {}
            Some("gptq_v2") => plus = 0,
            Some(_) => return Err(options.unsupported(field, "\"gptq\" or \"gptq_v2\"")),
        }
    }
    for field in ["is_marlin_format", "rotation"] {
        if options.get(field).is_some_and(|value| *value != false) {
            return Err(options.unsupported(field, "false or null"));
        }
    }
    if options.text("pack_dtype")?.is_some_and(|kind| kind != "int32") {
        return Err(options.unsupported("pack_dtype", "\"int32\""));
    }
    // Modules that are left alone begin with a minus; the others have options of their own.
    if options.get("dynamic").is_some() {
        let own = options.object("dynamic")?;
        if own.names().iter().any(|name| !name.starts_with('-')) {
            return Err(options.unsupported("dynamic", "no options for single modules"));
        }
    }
    Ok(Box::new(Gptq { bits, group_size: options.group_size()?, plus }))
}

impl Method for Gptq {
    fn marks(&self) -> &[&str] {
        &["qweight"]
    }

    fn open(&self, module: &Module) -> Result<Box<dyn Matrix>, ModelError> {
        let bits = self.bits;
        let (_, [words, outputs]) = module.matrix("qweight", &[ElementType::I32])?;
        if !(words * 32).is_multiple_of(bits) {
            return Err(
                module.malformed("qweight", format!("has {words} rows of words, no whole number of {bits} bits"))
            );
        }
        let inputs = words * 32 / bits;
        let size = self.group_size.unwrap_or(inputs);
        let groups = inputs.div_ceil(size);
        let packed = |part: &str, along| Packed { name: module.part(part), bits, along, transposed: true, order: None };
        let zeros = packed("qzeros", Axis::Outputs);
        module.shaped("qzeros", &[ElementType::I32], zeros.shape([outputs, groups]))?;
        let mut scales = module.scales("scales", [groups, outputs], [1, size])?;
        scales.transposed = true;
        let groups = match module.find("g_idx") {
            Some(_) => Groups::named(module, "g_idx", inputs, groups, size)?,
            None => Groups::Of(size),
        };
        Ok(Box::new(Grouped {
            shape: [outputs, inputs],
            codes: packed("qweight", Axis::Inputs),
            zeros: Zeros::Packed(zeros, self.plus),
            scales,
            groups,
        }))
    }
}
