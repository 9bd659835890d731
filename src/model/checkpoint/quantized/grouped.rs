//! Matrices of packed codes of which a group of inputs shares a scale and a zero for each output.
//!
//! A value is `round((code - zero) * scale)` in the type of the scales. Which group an input belongs to follows from its
//! number, or from a list where inputs were ordered by how much they matter.

use std::ops::Range;

use super::method::Matrix;
use super::module::Module;
use super::packed::{Codes, Packed};
use super::scales::{Scales, Table, read_bytes};
use crate::model::checkpoint::{Slice, WeightSource};
use crate::model::compute::dtype::Precision;
use crate::model::error::ModelError;

/// Packed codes, zeros and scales.
pub struct Grouped {
    /// Outputs and inputs.
    pub shape: [usize; 2],
    /// The codes.
    pub codes: Packed,
    /// What is subtracted from them.
    pub zeros: Zeros,
    /// By what that is multiplied; a block is a group of one output.
    pub scales: Scales,
    /// The group of each input.
    pub groups: Groups,
}

/// What is subtracted from codes.
pub enum Zeros {
    /// The same number from all.
    Constant(i32),
    /// A number for each group of each output, and what is added to it.
    Packed(Packed, i32),
    /// A byte for each, and what is added to it.
    Bytes(String, i32),
}

/// The group of each input.
#[derive(Debug, PartialEq, Eq)]
pub enum Groups {
    /// Inputs side by side, so many in each.
    Of(usize),
    /// The group that each input names.
    Named(Vec<u32>),
}

impl Groups {
    /// Groups that a list names, of `count` that there are. One that says no more than that they lie side by side is not kept.
    pub fn named(module: &Module, part: &str, inputs: usize, count: usize, size: usize) -> Result<Self, ModelError> {
        let named = module.integers(part)?;
        if named.len() != inputs {
            return Err(module.malformed(part, format!("names groups of {} inputs, expected {inputs}", named.len())));
        }
        let group = |(input, &group): (usize, &i64)| match u32::try_from(group) {
            Ok(group) if (group as usize) < count => Ok(group),
            _ => Err(module.malformed(part, format!("puts input {input} into group {group} of {count}"))),
        };
        let named = named.iter().enumerate().map(group).collect::<Result<Vec<_>, _>>()?;
        let plain = named.iter().enumerate().all(|(input, &group)| input / size == group as usize);
        Ok(if plain { Self::Of(size) } else { Self::Named(named) })
    }

    fn of(&self, input: usize) -> usize {
        match self {
            Self::Of(size) => input / size,
            Self::Named(groups) => groups[input] as usize,
        }
    }

    /// From the first group that some inputs belong to, to the last.
    fn range(&self, inputs: &Range<usize>) -> Range<usize> {
        match self {
            Self::Of(size) => inputs.start / size..inputs.end.div_ceil(*size),
            Self::Named(groups) => {
                let groups = || groups[inputs.clone()].iter().map(|&group| group as usize);
                groups().min().unwrap_or(0)..groups().max().map_or(0, |group| group + 1)
            }
        }
    }
}

/// The zeros of some outputs and groups.
enum Read<'a> {
    Constant(i32),
    Packed(Codes<'a>, i32),
    Bytes(Table<i8>, i32),
}

impl Zeros {
    fn read(
        &self,
        files: &dyn WeightSource,
        outputs: Range<usize>,
        groups: Range<usize>,
    ) -> Result<Read<'_>, ModelError> {
        Ok(match self {
            Self::Constant(zero) => Read::Constant(*zero),
            Self::Packed(packed, plus) => Read::Packed(packed.read(files, outputs, groups)?, *plus),
            Self::Bytes(name, plus) => Read::Bytes(read_bytes(files, name, outputs, groups)?, *plus),
        })
    }
}

impl Read<'_> {
    fn at(&self, output: usize, group: usize) -> i32 {
        match self {
            Self::Constant(zero) => *zero,
            Self::Packed(codes, plus) => i32::from(codes.at(output, group)) + plus,
            Self::Bytes(table, plus) => i32::from(table.at(output, group)) + plus,
        }
    }
}

impl Matrix for Grouped {
    fn shape(&self) -> [usize; 2] {
        self.shape
    }

    fn precision(&self) -> Precision {
        self.scales.precision
    }

    fn read(&self, files: &dyn WeightSource, slice: &Slice) -> Result<Vec<f32>, ModelError> {
        let (outputs, inputs) = (slice.rows.clone(), slice.columns.clone());
        if slice.len() == 0 {
            return Ok(Vec::new());
        }
        let groups = self.groups.range(&inputs);
        let codes = self.codes.read(files, outputs.clone(), inputs.clone())?;
        let zeros = self.zeros.read(files, outputs.clone(), groups.clone())?;
        let [height, _] = self.scales.block;
        let scale_rows = outputs.start / height..outputs.end.div_ceil(height);
        let scales = self.scales.read_grid(files, scale_rows, groups.clone())?;
        let mut values = Vec::with_capacity(slice.len());
        let mut of_output = vec![(0, 0.0); groups.len()];
        for output in outputs {
            for (group, place) in groups.clone().zip(&mut of_output) {
                *place = (zeros.at(output, group), scales.at(output / height, group));
            }
            for input in inputs.clone() {
                let (zero, scale) = of_output[self.groups.of(input) - groups.start];
                // Both are whole numbers below 2^9, which every type holds exactly.
                let code = (i32::from(codes.at(output, input)) - zero) as f32;
                values.push(self.scales.precision.round(code * scale));
            }
        }
        Ok(values)
    }
}
