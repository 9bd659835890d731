//! What a format of quantised weights is to the rest: by which tensors a quantised module is known, and which matrix its
//! tensors are.

use super::module::Module;
use crate::model::checkpoint::{Slice, WeightSource};
use crate::model::compute::dtype::Precision;
use crate::model::error::ModelError;

/// A weight that several tensors of a file make. Everything about them was checked when it was made.
pub trait Matrix: Send + Sync {
    /// Outputs and inputs, as a linear layer's weight has them.
    fn shape(&self) -> [usize; 2];

    /// The narrowest type that holds its values exactly.
    fn precision(&self) -> Precision;

    /// The values of a slice, row after row. It lies within the matrix.
    fn read(&self, files: &dyn WeightSource, slice: &Slice) -> Result<Vec<f32>, ModelError>;
}

/// A format, with the options that a configuration gives it.
pub trait Method {
    /// What stands behind a module's name in the names of tensors that only quantised modules have.
    fn marks(&self) -> &[&str];

    /// Endings of tensors that say how activations are rounded, which nothing here does.
    fn passed_over(&self) -> &[&str] {
        &[]
    }

    /// The weight of a module that has such a tensor.
    fn open(&self, module: &Module) -> Result<Box<dyn Matrix>, ModelError>;
}
