//! Small codes in the bits of 32-bit words: along one axis of a matrix, `bits` after `bits` from the lowest bit on, a code
//! may begin in one word and end in the next.

use std::ops::Range;

use crate::model::checkpoint::{Slice, WeightSource};
use crate::model::error::ModelError;

/// Bits of a word.
const WORD: usize = 32;

/// A tensor of codes, which as a matrix has outputs and inputs, or outputs and groups of inputs.
#[derive(Debug)]
pub struct Packed {
    /// The tensor, of 32-bit words.
    pub name: String,
    /// Bits of a code, at most 8.
    pub bits: usize,
    /// The axis along which codes share words.
    pub along: Axis,
    /// Whether the tensor's rows are inputs.
    pub transposed: bool,
    /// Where in its word each of its codes is, where that is not in their order.
    pub order: Option<&'static [usize; 8]>,
}

/// An axis of a linear layer's weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Axis {
    Outputs,
    Inputs,
}

/// Words that some codes need.
pub fn words(codes: usize, bits: usize) -> usize {
    (codes * bits).div_ceil(WORD)
}

/// The codes of some outputs and inputs.
pub struct Codes<'a> {
    packed: &'a Packed,
    bytes: Vec<u8>,
    /// The first output and input.
    first: [usize; 2],
    /// The first word of each lane, and lanes and words.
    word: usize,
    lanes: usize,
    words: usize,
}

impl Packed {
    /// The tensor's shape for a matrix of this many outputs and inputs.
    pub fn shape(&self, [outputs, inputs]: [usize; 2]) -> [usize; 2] {
        let [outputs, inputs] = match self.along {
            Axis::Outputs => [words(outputs, self.bits), inputs],
            Axis::Inputs => [outputs, words(inputs, self.bits)],
        };
        if self.transposed { [inputs, outputs] } else { [outputs, inputs] }
    }

    /// Reads the words that hold some codes.
    pub fn read(
        &self,
        files: &dyn WeightSource,
        outputs: Range<usize>,
        inputs: Range<usize>,
    ) -> Result<Codes<'_>, ModelError> {
        let covered = |range: &Range<usize>| range.start * self.bits / WORD..words(range.end, self.bits);
        let first = [outputs.start, inputs.start];
        let (rows, columns) = match self.along {
            Axis::Outputs => (covered(&outputs), inputs),
            Axis::Inputs => (outputs, covered(&inputs)),
        };
        let (word, lanes, words) = match self.along {
            Axis::Outputs => (rows.start, columns.len(), rows.len()),
            Axis::Inputs => (columns.start, rows.len(), columns.len()),
        };
        let slice = if self.transposed { Slice { rows: columns, columns: rows } } else { Slice { rows, columns } };
        Ok(Codes { packed: self, bytes: files.read_raw(&self.name, &slice)?, first, word, lanes, words })
    }

    /// Whether the words of one lane lie side by side.
    fn is_row_wise(&self) -> bool {
        (self.along == Axis::Inputs) != self.transposed
    }
}

impl Codes<'_> {
    /// The code of an output and an input.
    pub fn at(&self, output: usize, input: usize) -> u8 {
        let (index, lane) = match self.packed.along {
            Axis::Outputs => (output, input - self.first[1]),
            Axis::Inputs => (input, output - self.first[0]),
        };
        let index = self.packed.order.map_or(index, |order| index / 8 * 8 + order[index % 8]);
        let bit = index * self.packed.bits - self.word * WORD;
        let (word, shift) = (bit / WORD, bit % WORD);
        let mut window = u64::from(self.word_at(lane, word)) >> shift;
        if shift + self.packed.bits > WORD {
            window |= u64::from(self.word_at(lane, word + 1)) << (WORD - shift);
        }
        (window & ((1 << self.packed.bits) - 1)) as u8
    }

    fn word_at(&self, lane: usize, word: usize) -> u32 {
        let at = if self.packed.is_row_wise() { lane * self.words + word } else { word * self.lanes + lane };
        u32::from_le_bytes(self.bytes.as_chunks().0[at])
    }
}
