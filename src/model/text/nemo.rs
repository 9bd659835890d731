//! Text assets of a NeMo checkpoint: its SentencePiece model. Nothing is put in front of a text: NeMo adds no
//! beginning-of-sequence token. Its checkpoints bring no chat template.

use super::sentencepiece::{self, Extra};
use crate::engine::TextAssets;
use crate::model::checkpoint::NemoCheckpoint;
use crate::model::error::ModelError;

/// Reads the text assets.
pub fn read(checkpoint: &NemoCheckpoint) -> Result<TextAssets, ModelError> {
    match checkpoint.tokenizer_model()? {
        Some((path, bytes)) => {
            sentencepiece::read(bytes, &Extra::default()).map_err(|e| ModelError::malformed(&path, e))
        }
        None => Ok(TextAssets::default()),
    }
}
