//! An array wherever it is kept: in chunks of its own, as a tensor of one file that PyTorch has written, or in items of its
//! distributed checkpoints.

use std::ops::Range;

use super::chunked::ChunkedArray;
use super::store::Store;
use super::torch_dist::TorchDist;
use super::zarr::ZarrArray;
use crate::model::checkpoint::{PytorchFile, Slice, WeightSource};
use crate::model::compute::dtype::Precision;
use crate::model::error::ModelError;

/// Where arrays are kept.
#[derive(Debug)]
pub enum Weights {
    /// One folder of chunks for each.
    Zarr,
    /// All in one file.
    File(PytorchFile),
    /// In items of files of several ranks.
    Distributed(TorchDist),
}

/// A stack of matrices, or a vector or matrix that is not stacked.
#[derive(Debug)]
pub enum Array {
    /// In chunks.
    Zarr(ZarrArray),
    /// In items.
    Distributed(ChunkedArray),
    /// A tensor: its name, shape, whether it is stacked, and its type.
    Tensor { name: String, shape: Vec<usize>, stacked: bool, precision: Precision },
}

/// Where NeMo keeps its arrays.
pub const WEIGHTS: &str = "model_weights";

impl Weights {
    /// The folder that arrays are in.
    pub fn folder(&self) -> &str {
        match self {
            Self::Distributed(items) => &items.folder,
            Self::Zarr | Self::File(_) => WEIGHTS,
        }
    }

    /// Opens an array. A stacked one's first dimension is the layer.
    pub fn open(&self, store: &Store, name: &str, stacked: bool) -> Result<Array, ModelError> {
        let file = match self {
            Self::Zarr => return ZarrArray::open(store, format!("{WEIGHTS}/{name}"), stacked).map(Array::Zarr),
            Self::Distributed(items) => return items.array(store, name, stacked).map(Array::Distributed),
            Self::File(file) => file,
        };
        let info = file.info(name).ok_or_else(|| file.missing(name))?;
        let dimensions = if stacked { 2..=3 } else { 1..=2 };
        if !dimensions.contains(&info.shape.len()) {
            let reason = format!("tensor {name:?} has shape {:?}, expected {dimensions:?} dimensions", info.shape);
            return Err(ModelError::malformed(&file.origin(name), reason));
        }
        Ok(Array::Tensor { name: name.to_owned(), shape: info.shape, stacked, precision: info.precision })
    }

    /// Bytes of weights that were read so far, other than out of the store.
    pub fn bytes_read(&self) -> u64 {
        match self {
            Self::Zarr | Self::Distributed(_) => 0,
            Self::File(file) => file.bytes_read(),
        }
    }
}

impl Array {
    /// Matrices in the stack.
    pub fn matrices(&self) -> usize {
        match self {
            Self::Zarr(array) => array.matrices(),
            Self::Distributed(array) => array.matrices(),
            Self::Tensor { shape, stacked, .. } => {
                if *stacked {
                    shape[0]
                } else {
                    1
                }
            }
        }
    }

    /// Shape of one matrix, or of the vector that it is.
    pub fn matrix_shape(&self) -> &[usize] {
        match self {
            Self::Zarr(array) => array.matrix_shape(),
            Self::Distributed(array) => array.matrix_shape(),
            Self::Tensor { shape, stacked, .. } => &shape[usize::from(*stacked)..],
        }
    }

    /// The type of the values.
    pub fn precision(&self) -> Precision {
        match self {
            Self::Zarr(array) => array.precision(),
            Self::Distributed(array) => array.precision(),
            Self::Tensor { precision, .. } => *precision,
        }
    }

    /// Its chunks' folder in the store, if it has chunks.
    pub fn folder(&self) -> Option<&str> {
        match self {
            Self::Zarr(array) => Some(array.name()),
            Self::Distributed(_) | Self::Tensor { .. } => None,
        }
    }

    /// The files that its items are in, if it has items.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        let items = match self {
            Self::Distributed(array) => Some(array.files()),
            Self::Zarr(_) | Self::Tensor { .. } => None,
        };
        items.into_iter().flatten()
    }

    /// Appends a rectangle of one matrix, row after row. It lies within the array.
    pub fn read(
        &self,
        (store, weights): (&Store, &Weights),
        matrix: usize,
        rows: Range<usize>,
        columns: Range<usize>,
        values: &mut Vec<f32>,
    ) -> Result<(), ModelError> {
        let (array, file) = match (self, weights) {
            (Self::Zarr(array), _) => return array.read(store, matrix, rows, columns, values),
            (Self::Distributed(array), _) => return array.read(store, matrix, &Slice { rows, columns }, values),
            (Self::Tensor { name, stacked, .. }, Weights::File(file)) => ((name, *stacked), file),
            (Self::Tensor { name, .. }, _) => unreachable!("{name} was opened in a file"),
        };
        let (name, stacked) = array;
        if !stacked {
            values.extend(file.read(name, &Slice { rows, columns })?);
            return Ok(());
        }
        // The layers' matrices are the rows of a matrix, each from its first value to its last.
        let width = self.matrix_shape().get(1).copied().unwrap_or(1);
        // Whole rows lie side by side.
        let step = if columns == (0..width) { rows.len().max(1) } else { 1 };
        for row in rows.step_by(step) {
            let columns = row * width + columns.start..(row + step - 1) * width + columns.end;
            values.extend(file.read(name, &Slice { rows: matrix..matrix + 1, columns })?);
        }
        Ok(())
    }
}
