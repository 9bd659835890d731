//! A row of a file: one rollout, or a pair of them of which one is preferred, with an id and perhaps with fields that are
//! not a rollout's. [`parse`] reads it.

use super::error::RolloutError;
pub use super::extra::{ExtraColumns, ExtraField};
use super::fields::Fields;
use super::form;
pub use super::form::Content;
use crate::limits::MAX_ID_BYTES;
use crate::reward::{Code, Rejection};

/// What was found in the JSON of one row.
#[derive(Debug)]
pub struct Row {
    /// The row's id, as far as there is one: an answer can name the row even where the rest of it is wrong.
    pub id: Option<String>,
    /// Whether it is one of a preference file, as far as it was read.
    pub is_pair: bool,
    /// What is to be scored, or what is wrong with it.
    pub content: Result<Content, RolloutError>,
    /// Fields that are not a rollout's, in their order, where they are kept.
    pub extra: Vec<ExtraField>,
}

/// Parses the JSON object of one row. `fallback_id` names a row that has no id of its own.
pub fn parse(json: &[u8], extra_columns: ExtraColumns, fallback_id: Option<&str>) -> Row {
    let text = match std::str::from_utf8(json) {
        Ok(text) => text,
        Err(e) => {
            let content = Err(RolloutError::NotUtf8 { byte: e.valid_up_to() + 1 });
            return Row { id: None, is_pair: false, content, extra: Vec::new() };
        }
    };
    let mut fields = Fields::new(extra_columns);
    let read = fields.parse(text);
    let mut id = fields.id.take().map(|id| id.0);
    let is_pair = fields.is_pair();
    let content = read.and_then(|()| {
        if id.is_none() {
            id = fallback_id.map(str::to_owned);
        }
        let checked = check_id(id.as_deref())?;
        form::content(&mut fields, checked, extra_columns).map_err(RolloutError::Rejected)
    });
    Row { id, is_pair, content, extra: fields.extra }
}

fn check_id(id: Option<&str>) -> Result<&str, RolloutError> {
    let message = match id {
        None => "id: missing; every rollout needs one".to_owned(),
        Some("") => "id: empty; every rollout needs one".to_owned(),
        Some(id) if id.len() > MAX_ID_BYTES => {
            format!("id: {} bytes long; at most {MAX_ID_BYTES} are allowed", id.len())
        }
        Some(id) => return Ok(id),
    };
    Err(RolloutError::Rejected(Rejection::new(Code::BadId, message)))
}

#[cfg(test)]
#[path = "row_tests.rs"]
mod tests;
