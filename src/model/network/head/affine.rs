//! `W x + b` for a few rows: what all heads are made of.

use crate::model::checkpoint::{Slice, WeightSource};
use crate::model::compute::kernels::{Addends, PackedMatrix, linear};
use crate::model::error::ModelError;

/// A matrix and its bias.
pub struct Affine {
    weight: PackedMatrix,
    bias: Option<Vec<f32>>,
}

/// Whether there is to be a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bias {
    /// It must be there.
    Required,
    /// It counts if it is there.
    IfThere,
}

impl Affine {
    /// `NAME.weight`, `[outputs, inputs]`, and `NAME.bias`.
    pub fn load(
        weights: &dyn WeightSource,
        name: &str,
        outputs: usize,
        inputs: usize,
        bias: Bias,
    ) -> Result<Self, ModelError> {
        let weight_name = format!("{name}.weight");
        let weight = weights.read_shape(&weight_name, &[outputs, inputs])?;
        if weight.is_empty() {
            return Err(ModelError::malformed(
                &weights.origin(&weight_name),
                format!("tensor {weight_name:?} is empty"),
            ));
        }
        let bias_name = format!("{name}.bias");
        let bias = match (bias, weights.info(&bias_name)) {
            (Bias::IfThere, None) => None,
            _ => Some(weights.read_shape(&bias_name, &[outputs])?),
        };
        Ok(Self { weight: PackedMatrix::pack(outputs, inputs, &weight), bias })
    }

    /// Some rows of `NAME.weight`, `[all, inputs]`, and of its bias if there is one. Nothing else of them is read.
    pub fn load_rows(
        weights: &dyn WeightSource,
        name: &str,
        all: usize,
        rows: &[usize],
        inputs: usize,
    ) -> Result<Self, ModelError> {
        let (weight_name, bias_name) = (format!("{name}.weight"), format!("{name}.bias"));
        weights.expect(&weight_name, &[all, inputs])?;
        if let Some(row) = rows.iter().find(|row| **row >= all) {
            let reason = format!("tensor {weight_name:?} has {all} rows, so there is no row {row}; the first is row 0");
            return Err(ModelError::malformed(&weights.origin(&weight_name), reason));
        }
        let read = |name: &str, columns: usize| -> Result<Vec<f32>, ModelError> {
            let mut values = Vec::with_capacity(rows.len() * columns);
            for &row in rows {
                values.extend(weights.read(name, &Slice { rows: row..row + 1, columns: 0..columns })?);
            }
            Ok(values)
        };
        let weight = PackedMatrix::pack(rows.len(), inputs, &read(&weight_name, inputs)?);
        let bias = match weights.info(&bias_name) {
            Some(_) => {
                weights.expect(&bias_name, &[all])?;
                Some(read(&bias_name, 1)?)
            }
            None => None,
        };
        Ok(Self { weight, bias })
    }

    /// Without a bias, from values: `[outputs, inputs]`.
    pub fn new(outputs: usize, inputs: usize, weight: &[f32]) -> Self {
        Self { weight: PackedMatrix::pack(outputs, inputs, weight), bias: None }
    }

    /// Outputs.
    pub fn outputs(&self) -> usize {
        self.weight.n()
    }

    /// Number of weights.
    pub fn parameters(&self) -> usize {
        self.weight.n() * self.weight.k() + self.bias.as_deref().map_or(0, <[f32]>::len)
    }

    /// Bytes of the weights in memory.
    pub fn bytes(&self) -> usize {
        self.weight.bytes() + self.bias.as_deref().map_or(0, size_of_val)
    }

    /// Each row of `x`, `[rows, inputs]`, as `[rows, outputs]`.
    pub fn forward(&self, x: &[f32]) -> Vec<f32> {
        let mut y = vec![0.0; x.len() / self.weight.k() * self.weight.n()];
        linear(x, &self.weight, Addends { bias: self.bias.as_deref(), residual: None }, &mut y);
        y
    }
}

/// The number of rows of `NAME.weight`; `None` if there is no such tensor.
pub fn rows_of(weights: &dyn WeightSource, name: &str) -> Option<usize> {
    weights.info(&format!("{name}.weight"))?.shape.first().copied()
}
