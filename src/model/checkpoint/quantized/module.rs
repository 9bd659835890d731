//! The tensors of one quantised module, by the last part of their names. Whoever asks for one that is not as it must be gets
//! an error that names it.

use std::cell::RefCell;
use std::collections::BTreeSet;

use super::scales::Scales;
use crate::model::checkpoint::{ElementType, RawInfo, Slice, WeightSource};
use crate::model::error::ModelError;

/// Bytes of a tensor that is read whole when a model is opened at most: indices of an input's groups, a few words of JSON.
const MAX_BYTES: usize = 1 << 26;

/// A module's tensors.
pub struct Module<'a> {
    /// Where they are.
    pub files: &'a dyn WeightSource,
    /// Their names up to the last part, without the dot.
    pub name: &'a str,
    /// The parts that somebody has asked for: they make the weight.
    used: RefCell<BTreeSet<String>>,
}

impl<'a> Module<'a> {
    /// The tensors whose names begin with `name` and a dot.
    pub fn new(files: &'a dyn WeightSource, name: &'a str) -> Self {
        Self { files, name, used: RefCell::default() }
    }

    /// The tensors that were asked for.
    pub fn used(&self) -> Vec<String> {
        self.used.borrow().iter().cloned().collect()
    }

    /// A tensor's name.
    pub fn part(&self, part: &str) -> String {
        format!("{}.{part}", self.name)
    }

    /// An error about a tensor; the reason ends a sentence about it.
    pub fn malformed(&self, part: &str, reason: impl std::fmt::Display) -> ModelError {
        let name = self.part(part);
        ModelError::malformed(&self.files.origin(&name), format!("tensor {name:?} {reason}"))
    }

    /// A tensor, if it is there.
    pub fn find(&self, part: &str) -> Option<RawInfo> {
        let name = self.part(part);
        let info = self.files.raw_info(&name)?;
        self.used.borrow_mut().insert(name);
        Some(info)
    }

    /// A tensor of one of these types.
    pub fn need(&self, part: &str, types: &[ElementType]) -> Result<RawInfo, ModelError> {
        let Some(info) = self.find(part) else {
            let name = self.part(part);
            return Err(match self.files.info(&name) {
                None => self.files.missing(&name),
                Some(_) => self.malformed(
                    part,
                    format!("is no {types:?} of a safetensors file, which are the codes that are read"),
                ),
            });
        };
        if types.contains(&info.element) {
            Ok(info)
        } else {
            Err(self.malformed(part, format!("has type {:?}, expected one of {types:?}", info.element)))
        }
    }

    /// A matrix with rows and columns, of one of these types.
    pub fn matrix(&self, part: &str, types: &[ElementType]) -> Result<(ElementType, [usize; 2]), ModelError> {
        let RawInfo { shape, element } = self.need(part, types)?;
        match shape[..] {
            [rows, columns] if rows > 0 && columns > 0 => Ok((element, [rows, columns])),
            _ => Err(self.malformed(part, format!("has shape {shape:?}, expected rows and columns"))),
        }
    }

    /// A matrix of which the shape is known.
    pub fn shaped(&self, part: &str, types: &[ElementType], shape: [usize; 2]) -> Result<ElementType, ModelError> {
        let (element, found) = self.matrix(part, types)?;
        if found == shape {
            Ok(element)
        } else {
            Err(self.malformed(part, format!("has shape {found:?}, expected {shape:?}")))
        }
    }

    /// Scales of which there are as many as a grid has places; see [`Scales`].
    pub fn scales(&self, part: &str, grid: [usize; 2], block: [usize; 2]) -> Result<Scales, ModelError> {
        let info = self.need(part, &[ElementType::F32, ElementType::F16, ElementType::Bf16])?;
        let rows = info.shape.first().copied().unwrap_or(1);
        let found = [rows, info.shape.iter().skip(1).product()];
        let precision = info.element.precision().filter(|_| found == grid).ok_or_else(|| {
            self.malformed(part, format!("has shape {:?}, expected {} by {} scales", info.shape, grid[0], grid[1]))
        })?;
        Ok(Scales { name: self.part(part), block, transposed: false, precision })
    }

    /// All bytes of a small tensor.
    pub fn bytes(&self, part: &str, types: &[ElementType]) -> Result<(ElementType, Vec<u8>), ModelError> {
        let RawInfo { shape, element } = self.need(part, types)?;
        let (rows, columns) = (shape.first().copied().unwrap_or(1), shape.iter().skip(1).product::<usize>());
        let length = rows.saturating_mul(columns).saturating_mul(element.bytes());
        if length > MAX_BYTES {
            return Err(self.malformed(part, format!("has {length} bytes, expected at most {MAX_BYTES}")));
        }
        let bytes = self.files.read_raw(&self.part(part), &Slice { rows: 0..rows, columns: 0..columns })?;
        Ok((element, bytes))
    }

    /// All values of a small tensor of whole numbers.
    pub fn integers(&self, part: &str) -> Result<Vec<i64>, ModelError> {
        let (element, bytes) = self.bytes(part, &[ElementType::I32, ElementType::I64])?;
        Ok(match element {
            ElementType::I32 => bytes.as_chunks().0.iter().map(|b| i32::from_le_bytes(*b).into()).collect(),
            _ => bytes.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect(),
        })
    }
}
