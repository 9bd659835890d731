//! Matrices of one-byte codes, 8-bit floats or whole numbers, of which a block of values shares a scale.
//!
//! A value is `round((code - zero) * scale)` in the type of the scales, or as the format says.

use super::method::Matrix;
use super::scales::{Scales, Table, read_bytes};
use crate::model::checkpoint::{ElementType, Slice, WeightSource};
use crate::model::compute::dtype::Precision;
use crate::model::error::ModelError;

/// Codes and scales.
#[derive(Debug)]
pub struct Scaled {
    /// The tensor of the codes.
    pub codes: String,
    /// Their type: `F8E4M3` or `I8`.
    pub element: ElementType,
    /// Outputs and inputs.
    pub shape: [usize; 2],
    /// One scale for each block.
    pub scales: Scales,
    /// What is subtracted from the codes of a block, as whole numbers of one byte in the grid of the scales.
    pub zeros: Option<String>,
    /// By what every value is multiplied once more.
    pub factor: Option<f32>,
    /// The type that values are rounded to.
    pub rounding: Precision,
}

impl Matrix for Scaled {
    fn shape(&self) -> [usize; 2] {
        self.shape
    }

    fn precision(&self) -> Precision {
        self.rounding
    }

    fn read(&self, files: &dyn WeightSource, slice: &Slice) -> Result<Vec<f32>, ModelError> {
        let [height, width] = self.scales.block;
        let decoded: [f32; 256] = std::array::from_fn(|code| decode(self.element, code as u8));
        let scales = self.scales.read(files, slice)?;
        let zeros = self.zeros(files, slice)?;
        let codes = files.read_raw(&self.codes, slice)?;
        let mut values = Vec::with_capacity(slice.len());
        for (row, codes) in slice.rows.clone().zip(codes.chunks_exact(slice.columns.len().max(1))) {
            let mut column = slice.columns.start;
            while column < slice.columns.end {
                let end = ((column / width + 1) * width).min(slice.columns.end);
                let place = (row / height, column / width);
                let scale = scales.at(place.0, place.1);
                let zero = zeros.as_ref().map_or(0.0, |zeros| f32::from(zeros.at(place.0, place.1)));
                let codes = &codes[column - slice.columns.start..end - slice.columns.start];
                let value = |code: &u8| {
                    let scaled = (decoded[usize::from(*code)] - zero) * scale;
                    self.rounding.round(self.factor.map_or(scaled, |factor| scaled * factor))
                };
                values.extend(codes.iter().map(value));
                column = end;
            }
        }
        Ok(values)
    }
}

impl Scaled {
    fn zeros(&self, files: &dyn WeightSource, slice: &Slice) -> Result<Option<Table<i8>>, ModelError> {
        let Some(name) = &self.zeros else { return Ok(None) };
        let [height, width] = self.scales.block;
        let rows = slice.rows.start / height..slice.rows.end.div_ceil(height);
        let columns = slice.columns.start / width..slice.columns.end.div_ceil(width);
        read_bytes(files, name, rows, columns).map(Some)
    }
}

/// The number that a code stands for.
fn decode(element: ElementType, code: u8) -> f32 {
    if element == ElementType::I8 { f32::from(code as i8) } else { e4m3(code) }
}

/// `torch.float8_e4m3fn`: a sign, four bits of exponent with a bias of 7, three of mantissa; no infinities, and one NaN of
/// either sign. Source: OCP 8-bit Floating Point Specification (OFP8), table 1.
fn e4m3(code: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(code >> 3 & 0xf), f32::from(code & 7));
    let magnitude = match (exponent, code & 7) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa * 2f32.powi(-9),
        _ => (8.0 + mantissa) * 2f32.powi(exponent - 10),
    };
    if code & 0x80 == 0 { magnitude } else { -magnitude }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The extremes that the specification prints.
    #[test]
    fn eight_bit_floats_are_those_of_the_specification() {
        for (code, value) in [
            (0b0111_1110, 448.0),
            (0b0000_1000, 2f32.powi(-6)),
            (0b0000_0111, 0.875 * 2f32.powi(-6)),
            (0b0000_0001, 2f32.powi(-9)),
            (0b1011_1000, -1.0),
            (0b0011_1100, 1.5),
        ] {
            assert_eq!(e4m3(code), value);
        }
        assert!(e4m3(0x7f).is_nan() && e4m3(0xff).is_nan());
        assert_eq!(e4m3(0x80).to_bits(), (-0.0f32).to_bits());
    }
}
