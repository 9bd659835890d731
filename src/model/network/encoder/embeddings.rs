//! What an encoder's tokens begin as: the sum of a row for the token, one for its position and one for its type, normed.

use candle_core::{Result, Tensor};

use super::spec::{EncoderSpec, POSITIONS, PositionTable, TYPES};
use crate::batch::MicroBatch;
use crate::model::collective::Collective;
use crate::model::error::ModelError;
use crate::model::network::backbone::RankContext;
use crate::model::network::layers::{Embedding, Norm};

/// See the module.
pub(super) struct Embeddings {
    words: Embedding,
    positions: Option<(PositionTable, Embedding)>,
    types: Option<Embedding>,
    separator: Option<u32>,
    norm: Norm,
}

impl Embeddings {
    pub(super) fn load(spec: &EncoderSpec, context: &RankContext) -> std::result::Result<Self, ModelError> {
        let table = |name: &str, rows: usize| {
            Embedding::load(context, &format!("{}.weight", spec.name(name)), rows, spec.hidden, None)
        };
        let positions = spec.positions.map(|of| Ok::<_, ModelError>((of, table(POSITIONS, of.rows)?)));
        let norm = spec.name(spec.names.embedding_norm);
        Ok(Self {
            words: table(spec.names.embedding, spec.vocabulary)?,
            positions: positions.transpose()?,
            types: spec.types.map(|rows| table(TYPES, rows)).transpose()?,
            // Where there is one type, both texts are of it.
            separator: spec.separator.filter(|_| spec.types.is_some_and(|rows| rows > 1)),
            norm: Norm::load(context, spec.norm, &norm, spec.hidden, spec.eps)?,
        })
    }

    /// `[tokens, hidden]` of sequences that share nothing.
    pub(super) fn forward(&self, batch: &MicroBatch, ranks: &dyn Collective) -> Result<Tensor> {
        let mut x = self.words.forward(&batch.tokens, ranks)?;
        if let Some(types) = &self.types {
            x = (x + types.forward(&of_sequences(batch, |tokens| types_of(tokens, self.separator)), ranks)?)?;
        }
        if let Some((table, positions)) = &self.positions {
            let rows = of_sequences(batch, |tokens| positions_of(tokens, table.padding));
            x = (x + positions.forward(&rows, ranks)?)?;
        }
        self.norm.forward(&x)
    }

    /// Bytes of its weights in memory.
    pub(super) fn bytes(&self) -> usize {
        let tables = self.positions.iter().map(|(_, table)| table).chain(&self.types).chain([&self.words]);
        tables.map(Embedding::bytes).sum::<usize>() + self.norm.bytes()
    }
}

fn of_sequences(batch: &MicroBatch, rows: impl Fn(&[u32]) -> Vec<u32>) -> Vec<u32> {
    let sequences = batch.segments.iter().map(|segment| segment.tokens.start as usize..segment.tokens.end as usize);
    sequences.flat_map(|tokens| rows(&batch.tokens[tokens])).collect()
}

/// 0 up to the first separator, and 1 behind it.
fn types_of(tokens: &[u32], separator: Option<u32>) -> Vec<u32> {
    let first = tokens.iter().position(|token| Some(*token) == separator).unwrap_or(tokens.len());
    (0..tokens.len()).map(|at| u32::from(at > first)).collect()
}

/// Counted from 0; with padding as `create_position_ids_from_input_ids` of transformers' RoBERTa has it.
fn positions_of(tokens: &[u32], padding: Option<u32>) -> Vec<u32> {
    let Some(padding) = padding else { return (0..tokens.len() as u32).collect() };
    let mut count = 0;
    let position = |token: &u32| {
        if *token == padding {
            padding
        } else {
            count += 1;
            padding + count
        }
    };
    tokens.iter().map(position).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_change_behind_the_first_separator() {
        assert_eq!(types_of(&[5, 6, 9, 7, 9], Some(9)), [0, 0, 0, 1, 1]);
        assert_eq!(types_of(&[5, 6, 9], Some(9)), [0, 0, 0]);
        assert_eq!(types_of(&[5, 9, 6], None), [0, 0, 0]);
    }

    #[test]
    fn padding_has_a_position_of_its_own() {
        assert_eq!(positions_of(&[4, 4, 4], None), [0, 1, 2]);
        assert_eq!(positions_of(&[0, 4, 1, 4], Some(1)), [2, 3, 1, 4]);
    }
}
