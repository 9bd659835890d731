//! bitsandbytes' 4-bit codes: numbers of a table, scaled by the largest value of each block of the flattened matrix. Those may
//! be codes of one byte themselves, in blocks of their own ("double quantisation").
//!
//! Source: `QuantState.from_dict`, `get_4bit_type` and `dequantize_4bit` in `bitsandbytes/functional.py`, and
//! `bitsandbytes/backends/default/ops.py`. Of the two codes in a byte the upper one comes first.

use std::ops::Range;

use super::method::{Matrix, Method};
use super::module::Module;
use super::options::Options;
use crate::model::checkpoint::{ElementType, RawInfo, Slice, TensorInfo, WeightSource};
use crate::model::compute::dtype::Precision;
use crate::model::error::ModelError;

/// Values of the codes of `nf4`.
const NF4: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// Values of the codes of `fp4` with a sign of plus, times 12.
const FP4: [f32; 8] = [0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0];

/// Types of the tensor that holds the codes, whose bytes alone matter.
const STORAGE: [ElementType; 4] = [ElementType::U8, ElementType::Bf16, ElementType::F16, ElementType::F32];

struct Bits4;

/// Reads its options, which the tensors say once more.
pub fn read(options: &Options) -> Result<Box<dyn Method>, ModelError> {
    let known = ["nf4", "fp4"];
    if options.text("bnb_4bit_quant_type")?.is_some_and(|kind| !known.contains(&kind)) {
        return Err(options.unsupported("bnb_4bit_quant_type", known.join(" or ")));
    }
    options.flag("bnb_4bit_use_double_quant")?;
    options.text("bnb_4bit_quant_storage")?;
    Ok(Box::new(Bits4))
}

/// What `weight.quant_state.bitsandbytes__nf4` or `..__fp4` says, as JSON.
#[derive(serde::Deserialize)]
struct State {
    quant_type: String,
    blocksize: usize,
    dtype: String,
    shape: Vec<usize>,
    nested_blocksize: Option<usize>,
    nested_offset: Option<f64>,
}

/// A matrix of 4-bit codes.
struct Codes {
    shape: [usize; 2],
    /// The tensor of the codes, and bytes of its elements.
    codes: (String, usize),
    table: [f32; 16],
    /// Values of a block.
    block: usize,
    /// The tensor of the blocks' largest values.
    largest: String,
    /// What they are codes of, if they are codes.
    nested: Option<Nested>,
    rounding: Precision,
}

/// How the largest values are scaled themselves.
struct Nested {
    /// The tensor of the blocks' scales.
    scales: String,
    table: Vec<f32>,
    /// Values of a block.
    block: usize,
    /// What is added to each.
    offset: f32,
}

impl Method for Bits4 {
    fn marks(&self) -> &[&str] {
        &["weight.absmax"]
    }

    fn open(&self, module: &Module) -> Result<Box<dyn Matrix>, ModelError> {
        let state_part = ["nf4", "fp4"]
            .map(|kind| format!("weight.quant_state.bitsandbytes__{kind}"))
            .into_iter()
            .find(|part| module.find(part).is_some())
            .unwrap_or_else(|| "weight.quant_state.bitsandbytes__nf4".into());
        let (_, bytes) = module.bytes(&state_part, &[ElementType::U8])?;
        let state: State =
            serde_json::from_slice(&bytes).map_err(|e| module.malformed(&state_part, format!("is {e}")))?;
        let malformed = |reason: String| module.malformed(&state_part, reason);
        if !state_part.ends_with(&state.quant_type) {
            return Err(malformed(format!("says quant_type {:?}", state.quant_type)));
        }
        let table = if state.quant_type == "nf4" { NF4 } else { fp4() };
        let rounding = match &*state.dtype {
            "float32" => Precision::F32,
            "float16" => Precision::F16,
            "bfloat16" => Precision::Bf16,
            other => return Err(malformed(format!("says dtype {other:?}, expected float32, float16 or bfloat16"))),
        };
        let shape = match state.shape[..] {
            [rows, columns] if TensorInfo::elements(&[rows, columns]).is_some_and(|n| n > 0) => [rows, columns],
            _ => return Err(malformed(format!("says shape {:?}, expected rows and columns", state.shape))),
        };
        let block = Some(state.blocksize).filter(|block| block.is_power_of_two() && (32..=4096).contains(block));
        let block = block.ok_or_else(|| malformed(format!("says blocksize {}", state.blocksize)))?;
        let RawInfo { shape: stored, element } = module.need("weight", &STORAGE)?;
        let elements = TensorInfo::elements(&stored).unwrap_or(0);
        let count = shape[0] * shape[1];
        if stored.get(1).is_some_and(|&columns| columns != 1) || elements != count.div_ceil(2).div_ceil(element.bytes())
        {
            let reason = format!("has shape {stored:?}, expected one column with the 4-bit codes of {shape:?}");
            return Err(module.malformed("weight", reason));
        }
        check_table(module, &table)?;
        let blocks = count.div_ceil(block);
        let nested = self.nested(module, &state, &state_part, blocks)?;
        let kind = if nested.is_some() { ElementType::U8 } else { ElementType::F32 };
        column(module, "weight.absmax", kind, blocks)?;
        let codes = (module.part("weight"), element.bytes());
        Ok(Box::new(Codes { shape, codes, table, block, largest: module.part("weight.absmax"), nested, rounding }))
    }
}

impl Bits4 {
    fn nested(
        &self,
        module: &Module,
        state: &State,
        state_part: &str,
        blocks: usize,
    ) -> Result<Option<Nested>, ModelError> {
        if module.find("weight.nested_absmax").is_none() {
            return Ok(None);
        }
        let (Some(block @ 1..=65536), Some(offset)) = (state.nested_blocksize, state.nested_offset) else {
            return Err(module.malformed(state_part, "says no nested_blocksize and nested_offset"));
        };
        column(module, "weight.nested_absmax", ElementType::F32, blocks.div_ceil(block))?;
        column(module, "weight.nested_quant_map", ElementType::F32, 256)?;
        let table = module.files.read_all(&module.part("weight.nested_quant_map"))?;
        // As float32, which is what it was before it was printed.
        let offset = offset as f32;
        Ok(Some(Nested { scales: module.part("weight.nested_absmax"), table, block, offset }))
    }
}

/// The values of the codes of `fp4`: the largest one is 1. The zero with a sign is written as a plain one there.
fn fp4() -> [f32; 16] {
    std::array::from_fn(|code| {
        let magnitude = FP4[code % 8] / 12.0;
        if code <= 8 { magnitude } else { -magnitude }
    })
}

/// Looks whether the file's own table is the one of the codes: nothing reads it, and another one would be ignored.
fn check_table(module: &Module, table: &[f32; 16]) -> Result<(), ModelError> {
    let part = "weight.quant_map";
    column(module, part, ElementType::F32, table.len())?;
    let found = module.files.read_all(&module.part(part))?;
    // Older versions wrote the numbers with seven digits.
    let same = found.iter().zip(table).all(|(found, known)| (found - known).abs() <= 1e-6);
    if same { Ok(()) } else { Err(module.malformed(part, format!("is {found:?}, expected {table:?}"))) }
}

/// Looks whether a tensor is a column of so many elements.
fn column(module: &Module, part: &str, element: ElementType, length: usize) -> Result<(), ModelError> {
    let info = module.need(part, &[element])?;
    if info.shape == [length] {
        Ok(())
    } else {
        Err(module.malformed(part, format!("has shape {:?}, expected [{length}]", info.shape)))
    }
}

/// So many elements of a column.
fn rows(rows: Range<usize>) -> Slice {
    Slice { rows, columns: 0..1 }
}

impl Codes {
    /// Appends the values from one place of the flattened matrix to another.
    fn append(&self, files: &dyn WeightSource, run: Range<usize>, values: &mut Vec<f32>) -> Result<(), ModelError> {
        let (name, size) = &self.codes;
        let per_element = 2 * size;
        let elements = run.start / per_element..run.end.div_ceil(per_element);
        let first = elements.start * per_element;
        let bytes = files.read_raw(name, &rows(elements))?;
        let blocks = run.start / self.block..run.end.div_ceil(self.block);
        let largest = self.largest(files, blocks.clone())?;
        for place in run {
            let byte = bytes[(place - first) / 2];
            let code = if place % 2 == 0 { byte >> 4 } else { byte & 0xf };
            let value = self.table[usize::from(code)] * largest[place / self.block - blocks.start];
            values.push(self.rounding.round(value));
        }
        Ok(())
    }

    /// The largest values of some blocks.
    fn largest(&self, files: &dyn WeightSource, blocks: Range<usize>) -> Result<Vec<f32>, ModelError> {
        let Some(nested) = &self.nested else { return files.read(&self.largest, &rows(blocks)) };
        let codes = files.read_raw(&self.largest, &rows(blocks.clone()))?;
        let outer = blocks.start / nested.block..blocks.end.div_ceil(nested.block);
        let scales = files.read(&nested.scales, &rows(outer.clone()))?;
        let value = |(block, code): (usize, u8)| {
            nested.table[usize::from(code)] * scales[block / nested.block - outer.start] + nested.offset
        };
        Ok(blocks.zip(codes).map(value).collect())
    }
}

impl Matrix for Codes {
    fn shape(&self) -> [usize; 2] {
        self.shape
    }

    fn precision(&self) -> Precision {
        self.rounding
    }

    fn read(&self, files: &dyn WeightSource, slice: &Slice) -> Result<Vec<f32>, ModelError> {
        let width = self.shape[1];
        let mut values = Vec::with_capacity(slice.len());
        if slice.columns == (0..width) {
            self.append(files, slice.rows.start * width..slice.rows.end * width, &mut values)?;
            return Ok(values);
        }
        for row in slice.rows.clone() {
            self.append(files, row * width + slice.columns.start..row * width + slice.columns.end, &mut values)?;
        }
        Ok(values)
    }
}
