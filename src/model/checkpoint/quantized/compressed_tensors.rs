//! compressed-tensors, which llm-compressor and others write: 8-bit floats, whole numbers of one byte, or packed codes of fewer
//! bits, each with a scale for the matrix, each output, each group of inputs or each block.
//!
//! Source: `dequantize` in `quantization/lifecycle/forward.py` of compressed-tensors (rounded in the type of the scales),
//! `compressors/pack_quantized` and `compressors/naive_quantized`. A whole number is packed with half of its range added, and
//! so is its zero. Which of several groups of options a module has is not asked of names: the one that its tensors fit.

use super::grouped::{Grouped, Groups, Zeros};
use super::method::{Matrix, Method};
use super::module::Module;
use super::options::Options;
use super::packed::{Axis, Packed};
use super::scaled::Scaled;
use crate::model::checkpoint::{ElementType, RawInfo};
use crate::model::error::ModelError;

/// As configurations call it.
pub const NAME: &str = "compressed-tensors";

/// Ways to store a module's tensors that are read.
const FORMATS: [&str; 5] = ["float-quantized", "int-quantized", "naive-quantized", "pack-quantized", "mixed-precision"];

/// The weights' options of a group of modules.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Scheme {
    bits: usize,
    is_float: bool,
    is_symmetric: bool,
    shared: Shared,
    /// Whether the group of each input is listed.
    is_ordered: bool,
}

/// What shares a scale.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Shared {
    Tensor,
    Channel,
    Group(usize),
    Block([usize; 2]),
}

struct CompressedTensors {
    schemes: Vec<Scheme>,
}

/// Reads its options.
pub fn read(options: &Options) -> Result<Box<dyn Method>, ModelError> {
    check_format(options)?;
    if let Some(sparsity) = options.get("sparsity_config").and_then(|sparsity| sparsity.get("format"))
        && sparsity != "dense"
    {
        return Err(options.unsupported("sparsity_config", "the format \"dense\""));
    }
    let groups = options.object("config_groups")?;
    let mut schemes: Vec<Scheme> = Vec::new();
    for name in groups.names() {
        let group = groups.object(name)?;
        check_format(&group)?;
        if group.get("weights").is_some() {
            let scheme = scheme(&group.object("weights")?)?;
            if !schemes.contains(&scheme) {
                schemes.push(scheme);
            }
        }
        group.refuse_unread()?;
    }
    if schemes.is_empty() {
        return Err(options.unsupported("config_groups", "a group with weights"));
    }
    Ok(Box::new(CompressedTensors { schemes }))
}

fn check_format(options: &Options) -> Result<(), ModelError> {
    if options.text("format")?.is_some_and(|format| !FORMATS.contains(&format)) {
        Err(options.unsupported("format", FORMATS.join(", ")))
    } else {
        Ok(())
    }
}

fn scheme(weights: &Options) -> Result<Scheme, ModelError> {
    let is_float = match weights.text("type")? {
        None | Some("int") => false,
        Some("float") => true,
        Some(_) => return Err(weights.unsupported("type", "\"int\" or \"float\"")),
    };
    let known: &[usize] = if is_float { &[8] } else { &[2, 4, 8] };
    let bits = weights.size("num_bits")?.unwrap_or(8);
    if !known.contains(&bits) {
        return Err(weights.unsupported("num_bits", format!("one of {known:?}")));
    }
    if weights.get("dynamic").is_some_and(|dynamic| *dynamic != false) {
        return Err(weights.unsupported("dynamic", "false"));
    }
    let size = weights.group_size()?;
    let block = weights.block("block_structure")?;
    let shared = match (weights.text("strategy")?, size, block) {
        (Some("tensor"), ..) | (None, None, None) => Shared::Tensor,
        (Some("channel"), ..) => Shared::Channel,
        (Some("group") | None, Some(size), _) => Shared::Group(size),
        (Some("block"), _, Some(block)) => Shared::Block(block),
        _ => {
            return Err(weights
                .unsupported("strategy", "tensor, channel, group with group_size, or block with block_structure"));
        }
    };
    let is_ordered = matches!(weights.text("actorder")?, Some("group" | "dynamic"));
    let is_symmetric = weights.flag("symmetric")?.unwrap_or(true);
    weights.refuse_unread()?;
    Ok(Scheme { bits, is_float, is_symmetric, shared, is_ordered })
}

impl Method for CompressedTensors {
    fn marks(&self) -> &[&str] {
        &["weight_packed", "weight_scale"]
    }

    fn passed_over(&self) -> &[&str] {
        &[
            "input_scale",
            "input_zero_point",
            "output_scale",
            "output_zero_point",
            "q_scale",
            "q_zero_point",
            "k_scale",
            "k_zero_point",
            "v_scale",
            "v_zero_point",
        ]
    }

    fn open(&self, module: &Module) -> Result<Box<dyn Matrix>, ModelError> {
        let (mut fitting, mut errors) = (Vec::new(), Vec::new());
        for scheme in &self.schemes {
            match scheme.open(module) {
                Ok(matrix) => fitting.push(matrix),
                Err(error) => errors.push(error),
            }
        }
        match (fitting.pop(), fitting.is_empty(), errors.len()) {
            (Some(matrix), true, _) => Ok(matrix),
            (None, _, 1) => Err(errors.remove(0)),
            (None, ..) => {
                let reasons: Vec<_> = errors.iter().map(ToString::to_string).collect();
                Err(module.malformed("weight_scale", format!("fits none of the config_groups: {}", reasons.join("; "))))
            }
            (Some(_), false, _) => {
                let reason = "fits several of the config_groups, which say different things of it";
                Err(module.malformed("weight_scale", reason))
            }
        }
    }
}

impl Scheme {
    fn open(&self, module: &Module) -> Result<Box<dyn Matrix>, ModelError> {
        if module.find("weight_packed").is_some() { self.packed(module) } else { self.bytes(module) }
    }

    /// Outputs and inputs of a block of a matrix.
    fn block(&self, shape: [usize; 2]) -> [usize; 2] {
        match self.shared {
            Shared::Tensor => shape,
            Shared::Channel => [1, shape[1]],
            Shared::Group(size) => [1, size],
            Shared::Block(block) => block,
        }
    }

    /// Codes of one byte.
    fn bytes(&self, module: &Module) -> Result<Box<dyn Matrix>, ModelError> {
        let kind = if self.is_float { ElementType::F8E4M3 } else { ElementType::I8 };
        if self.bits != 8 {
            return Err(module.malformed("weight", format!("is not packed, expected codes of {} bits", self.bits)));
        }
        let (element, shape) = module.matrix("weight", &[kind])?;
        let block = self.block(shape);
        let grid = [shape[0].div_ceil(block[0]), shape[1].div_ceil(block[1])];
        let scales = module.scales("weight_scale", grid, block)?;
        let zeros = if self.is_symmetric {
            None
        } else {
            let RawInfo { shape, .. } = module.need("weight_zero_point", &[ElementType::I8])?;
            if [shape.first().copied().unwrap_or(1), shape.iter().skip(1).product()] != grid {
                return Err(module.malformed("weight_zero_point", format!("has shape {shape:?}, expected {grid:?}")));
            }
            Some(module.part("weight_zero_point"))
        };
        let rounding = scales.precision;
        let codes = module.part("weight");
        Ok(Box::new(Scaled { codes, element, shape, scales, zeros, factor: None, rounding }))
    }

    /// Codes in the bits of words.
    fn packed(&self, module: &Module) -> Result<Box<dyn Matrix>, ModelError> {
        if self.is_float {
            return Err(module.malformed("weight_packed", "is of whole numbers, expected 8-bit floats"));
        }
        let bits = self.bits;
        let packed =
            |part: &str, along| Packed { name: module.part(part), bits, along, transposed: false, order: None };
        let sides = module.integers("weight_shape")?;
        let side = |side: &i64| usize::try_from(*side).ok().filter(|side| (1..=1 << 31).contains(side));
        let shape = match sides.iter().map(side).collect::<Option<Vec<_>>>().as_deref() {
            Some(&[outputs, inputs]) => [outputs, inputs],
            _ => return Err(module.malformed("weight_shape", format!("is {sides:?}, expected outputs and inputs"))),
        };
        let codes = packed("weight_packed", Axis::Inputs);
        module.shaped("weight_packed", &[ElementType::I32], codes.shape(shape))?;
        let block = self.block(shape);
        let size = block[1];
        if !matches!(self.shared, Shared::Tensor) && block[0] != 1 {
            return Err(module.malformed("weight_packed", "is packed, which blocks of outputs are not"));
        }
        let grid = [shape[0].div_ceil(block[0]), shape[1].div_ceil(size)];
        let scales = module.scales("weight_scale", grid, block)?;
        let half = 1 << (bits - 1);
        let zeros = if self.is_symmetric {
            Zeros::Constant(half)
        } else {
            self.zeros(module, packed("weight_zero_point", Axis::Outputs), grid, half)?
        };
        // A list that was never filled in has -1 in it, and says nothing.
        let listed = module.find("weight_g_idx").is_some() && !module.integers("weight_g_idx")?.contains(&-1);
        let groups = match (listed, self.is_ordered) {
            (true, _) => Groups::named(module, "weight_g_idx", shape[1], grid[1], size)?,
            (false, false) => Groups::Of(size),
            (false, true) => return Err(module.malformed("weight_g_idx", "is missing, though inputs are ordered")),
        };
        Ok(Box::new(Grouped { shape, codes, zeros, scales, groups }))
    }

    /// Zeros as they are packed, or one byte each, as old versions and those of a whole matrix have them.
    fn zeros(&self, module: &Module, packed: Packed, grid: [usize; 2], half: i32) -> Result<Zeros, ModelError> {
        let part = "weight_zero_point";
        if matches!(self.shared, Shared::Tensor) {
            let (_, zero) = module.bytes(part, &[ElementType::I8])?;
            return match zero[..] {
                [zero] => Ok(Zeros::Constant(i32::from(zero as i8) + half)),
                _ => Err(module.malformed(part, format!("has {} numbers, expected one", zero.len()))),
            };
        }
        match module.need(part, &[ElementType::I32, ElementType::I8])?.element {
            ElementType::I32 => {
                module.shaped(part, &[ElementType::I32], packed.shape(grid))?;
                Ok(Zeros::Packed(packed, 0))
            }
            _ => {
                module.shaped(part, &[ElementType::I8], grid)?;
                Ok(Zeros::Bytes(module.part(part), half))
            }
        }
    }
}
