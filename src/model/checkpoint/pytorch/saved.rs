//! One tensor that `torch.save` wrote by itself, anywhere in a file: an item of a distributed checkpoint.

use std::ops::Range;

use super::archive::Archive;
use super::pickle::{Pickle, TensorView};
use super::strided::Strided;
use crate::model::checkpoint::{MappedFile, Slice};
use crate::model::compute::dtype::Precision;

/// A tensor of three dimensions, of which the first ones may be 1.
#[derive(Debug)]
pub struct SavedTensor {
    values: Strided,
}

impl SavedTensor {
    /// The tensor at a place in a file. Its shape is `shape`, with or without its dimensions of 1. The error is a sentence
    /// without the file's name.
    pub fn open(file: &MappedFile, place: Range<usize>, shape: [usize; 3]) -> Result<Self, String> {
        let bytes = file.bytes().get(place.clone()).ok_or("ends before an item that it is to hold")?;
        let archive = Archive::read(bytes)?;
        let pickle = Pickle::run(archive.pickle(bytes))?;
        let view = pickle.tensor(pickle.root()).ok_or("has an item that is no tensor")?;
        // Dimensions of 1 are there or not, and are never stepped along.
        let mut steps = view.shape.iter().zip(view.strides).filter(|(length, _)| **length != 1);
        let stride = |&length: &usize| match length {
            1 => Some(0),
            _ => steps.next().filter(|(found, _)| **found == length).map(|(_, stride)| *stride),
        };
        let strides = shape.iter().map(stride).collect::<Option<Vec<_>>>().filter(|_| steps.next().is_none());
        let strides = strides.ok_or_else(|| format!("has a tensor of shape {:?}, expected {shape:?}", view.shape))?;
        let precision = super::precision(view.kind)
            .ok_or_else(|| format!("has a tensor of type {}, expected float32, float16 or bfloat16", view.kind))?;
        let storage = archive.storage(view.key).ok_or_else(|| format!("has an item without its data/{}", view.key))?;
        let storage = place.start + storage.start..place.start + storage.end;
        let view = TensorView { shape: &shape, strides: &strides, ..view };
        Strided::new(&view, precision, storage)
            .map(|values| Self { values })
            .map_err(|reason| format!("has a tensor that {reason}"))
    }

    /// The type of its values.
    pub fn precision(&self) -> Precision {
        self.values.precision()
    }

    /// Values of the tensor seen as a matrix: its first dimension by the other two.
    pub fn read(&self, file: &MappedFile, slice: &Slice) -> Vec<f32> {
        self.values.read(file, slice)
    }
}
