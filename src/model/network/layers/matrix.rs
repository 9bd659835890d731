//! Matrices of the checkpoint, and which part of them a rank wants.

use std::ops::Range;

use super::Loaded;
use crate::model::checkpoint::Slice;
use crate::model::network::backbone::RankContext;

/// A matrix of the checkpoint, `[outputs, inputs]`, and the part of it that is wanted.
#[derive(Debug, Clone)]
pub struct Matrix {
    /// Its name without `.weight`; a bias is `.bias` under the same name.
    pub name: String,
    /// All of its outputs.
    pub outputs: usize,
    /// All of its inputs.
    pub inputs: usize,
    /// The outputs wanted, one range after the other.
    pub rows: Vec<Range<usize>>,
    /// The inputs wanted.
    pub columns: Range<usize>,
}

impl Matrix {
    /// Its weights, part by part.
    pub(super) fn read(&self, context: &RankContext) -> Loaded<impl Iterator<Item = Loaded<Vec<f32>>>> {
        let name = format!("{}.weight", self.name);
        context.weights.expect(&name, &[self.outputs, self.inputs])?;
        Ok(self.rows.iter().map(move |rows| {
            let slice = Slice { rows: rows.clone(), columns: self.columns.clone() };
            context.weights.read(&name, &slice)
        }))
    }

    /// Its bias.
    pub(super) fn read_bias(&self, context: &RankContext) -> Loaded<Vec<f32>> {
        let name = format!("{}.bias", self.name);
        context.weights.expect(&name, &[self.outputs])?;
        let read = |rows: &Range<usize>| context.weights.read(&name, &Slice { rows: rows.clone(), columns: 0..1 });
        Ok(self.rows.iter().map(read).collect::<Loaded<Vec<_>>>()?.concat())
    }
}

/// The biases of matrices that stand side by side, if they have any.
pub(super) fn read_biases(context: &RankContext, matrices: &[Matrix], bias: bool) -> Loaded<Option<Vec<f32>>> {
    let read = || matrices.iter().map(|matrix| matrix.read_bias(context)).collect::<Loaded<Vec<_>>>();
    bias.then(read).transpose().map(|parts| parts.map(|parts| parts.concat()))
}
