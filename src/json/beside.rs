//! The fields of a row that stand beside a conversation: tools, documents, which template with which variables, and an answer
//! that the completion is compared with.
//!
//! Invariant: they hold for every conversation of the row, and for nothing else.

use std::sync::Arc;

use serde_json::value::RawValue;

use super::extra::{ExtraColumns, ExtraField};
use super::fields::Fields;
use crate::reward::{Code, Rejection};
use crate::rollout::Extras;

/// Gives a conversation what stands beside it.
pub(super) fn give(fields: &Fields, extras: &mut Option<Box<Extras>>) -> Result<(), Rejection> {
    let Fields { tools, documents, chat_template_kwargs, chat_template, reference, .. } = fields;
    let json = [tools, documents, chat_template_kwargs, chat_template, reference];
    if json.into_iter().all(Option::is_none) {
        return Ok(());
    }
    let extras = extras.get_or_insert_default();
    // Tables that have no type for them keep tools as a text of JSON, which trl reads as well.
    let of_text = |raw: &RawValue| text(raw).map_or_else(|| raw.get().into(), Arc::from);
    extras.tools = tools.as_deref().map(of_text);
    extras.documents = documents.as_deref().map(of_text);
    extras.template_variables = chat_template_kwargs.as_deref().map(of_text);
    // Here a text is the answer itself.
    extras.reference = reference.as_deref().map(|raw| raw.get().into());
    if let Some(name) = chat_template {
        let name = text(name).ok_or_else(|| {
            Rejection::new(Code::Malformed, "chat_template: no text; it is the name of one of the model's templates")
        })?;
        extras.template = name.into();
    }
    Ok(())
}

/// Passes the fields on as ones that are not a rollout's, or refuses them: there is no conversation in the row.
pub(super) fn refuse(fields: &mut Fields, extra_columns: ExtraColumns) -> Result<(), Rejection> {
    let slots = [
        ("tools", &mut fields.tools),
        ("documents", &mut fields.documents),
        ("chat_template_kwargs", &mut fields.chat_template_kwargs),
        ("chat_template", &mut fields.chat_template),
        ("reference", &mut fields.reference),
    ];
    for (name, slot) in slots {
        let Some(value) = slot.take() else { continue };
        match extra_columns {
            ExtraColumns::Refuse => {
                let what =
                    format!("{name}: only conversations go through a template; leave it out beside text and token ids");
                return Err(Rejection::new(Code::Malformed, what));
            }
            ExtraColumns::Ignore => {}
            ExtraColumns::Keep => fields.extra.push(ExtraField { name: name.into(), value }),
        }
    }
    Ok(())
}

/// The text that JSON is, if it is one.
fn text(raw: &RawValue) -> Option<String> {
    if raw.get().starts_with('"') { serde_json::from_str(raw.get()).ok() } else { None }
}
