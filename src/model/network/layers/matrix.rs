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

/// The wanted parts of matrices over the same inputs, one under the other.
pub(super) struct Stack<'a> {
    context: &'a RankContext<'a>,
    /// The tensor, its rows, and its columns, for each part.
    parts: Vec<(String, Slice)>,
}

impl<'a> Stack<'a> {
    /// Checks that the matrices are there and have their shape.
    pub(super) fn open(context: &'a RankContext, matrices: &[Matrix]) -> Loaded<Self> {
        let mut parts = Vec::new();
        for matrix in matrices {
            let name = format!("{}.weight", matrix.name);
            context.weights.expect(&name, &[matrix.outputs, matrix.inputs])?;
            let slice = |rows: &Range<usize>| Slice { rows: rows.clone(), columns: matrix.columns.clone() };
            parts.extend(matrix.rows.iter().map(|rows| (name.clone(), slice(rows))));
        }
        Ok(Self { context, parts })
    }

    /// Which parts of which tensors they are, and in which order.
    pub(super) fn name(&self) -> String {
        let part = |(name, Slice { rows, columns }): &(String, Slice)| format!("{name}[{rows:?}, {columns:?}]");
        self.parts.iter().map(part).collect::<Vec<_>>().join(" ")
    }

    /// Rows of all parts.
    pub(super) fn outputs(&self) -> usize {
        self.parts.iter().map(|(_, slice)| slice.rows.len()).sum()
    }

    /// Columns of each.
    pub(super) fn inputs(&self) -> usize {
        self.parts.first().map_or(0, |(_, slice)| slice.columns.len())
    }

    /// Reads some of the rows, counted over all parts.
    pub(super) fn read(&self, wanted: Range<usize>) -> Loaded<Vec<f32>> {
        let mut values = Vec::with_capacity(wanted.len() * self.inputs());
        let mut first = 0;
        for (name, Slice { rows, columns }) in &self.parts {
            let begin = wanted.start.clamp(first, first + rows.len()) - first;
            let end = wanted.end.clamp(first, first + rows.len()) - first;
            if begin < end {
                let rows = rows.start + begin..rows.start + end;
                values.append(&mut self.context.weights.read(name, &Slice { rows, columns: columns.clone() })?);
            }
            first += rows.len();
        }
        Ok(values)
    }
}

/// The biases of matrices that stand side by side, if they have any.
pub(super) fn read_biases(context: &RankContext, matrices: &[Matrix], bias: bool) -> Loaded<Option<Vec<f32>>> {
    let read = || matrices.iter().map(|matrix| matrix.read_bias(context)).collect::<Loaded<Vec<_>>>();
    bias.then(read).transpose().map(|parts| parts.map(|parts| parts.concat()))
}
