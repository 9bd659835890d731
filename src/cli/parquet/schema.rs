//! Which columns a Parquet file may have, and of which types.

use arrow_schema::{DataType, Schema};

use super::to_json;
use crate::json::row::ExtraColumns;
use crate::json::{FIELDS, REWARDS_FIELDS, unknown};

/// Where the answers go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// Kept columns become JSON.
    JsonLines,
    /// Kept columns stay what they are.
    Parquet,
}

/// Which kinds of rows a file has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Layout {
    /// Rollouts, one on each row.
    pub one: bool,
    /// Preference pairs.
    pub pair: bool,
}

/// What is read of a file: indices of its columns.
#[derive(Debug, PartialEq)]
pub struct Columns {
    /// A rollout's.
    pub own: Vec<usize>,
    /// Others that are kept.
    pub kept: Vec<usize>,
    /// What the rows are.
    pub layout: Layout,
}

/// Sorts the columns of a file, or says which one cannot be, and why.
pub fn columns(schema: &Schema, extra_columns: ExtraColumns, to: Destination) -> Result<Columns, String> {
    let has = |name: &str| schema.fields().iter().any(|field| field.name() == name);
    let pair = has("chosen") || has("rejected");
    let mut columns = Columns { own: Vec::new(), kept: Vec::new(), layout: Layout { one: false, pair } };
    for (index, field) in schema.fields().iter().enumerate() {
        let (name, data_type) = (field.name().as_str(), field.data_type());
        if schema.fields()[..index].iter().any(|earlier| earlier.name() == name) {
            return Err(format!("column {name}: given twice"));
        }
        // Beside a pair, `messages` is one of both conversations once more.
        let beside_pair = name == "messages" && pair && extra_columns != ExtraColumns::Refuse;
        if FIELDS.contains(&name) && !beside_pair {
            if let Some(expected) = misfit(name, data_type) {
                return Err(format!("column {name}: of the type {data_type}; it must be {expected}"));
            }
            let forms = ["completion", "messages", "text", "input_ids", "prompt_ids", "completion_ids"];
            columns.layout.one |= forms.contains(&name);
            columns.own.push(index);
            continue;
        }
        match extra_columns {
            ExtraColumns::Refuse => return Err(format!("column {}", unknown(name))),
            ExtraColumns::Ignore => {}
            ExtraColumns::Keep => {
                let first = name.split('.').next().unwrap_or(name);
                // A field with a dot names a column of an object in the rewards.
                if REWARDS_FIELDS.contains(&first) || name != first && FIELDS.contains(&first) {
                    return Err(format!(
                        "column {name}: the rewards file has a column of this name; rename this one, or drop the columns \
                         that are not a rollout's with --extra-columns ignore"
                    ));
                }
                if to == Destination::JsonLines && !to_json::has_form(data_type) {
                    return Err(format!(
                        "column {name}: the type {data_type} has no form in JSON; write to a .parquet file, or drop the \
                         columns that are not a rollout's with --extra-columns ignore"
                    ));
                }
                columns.kept.push(index);
            }
        }
    }
    columns.layout.one |= !pair;
    Ok(columns)
}

/// What the column of this field must be, where it is something else.
fn misfit(name: &str, data_type: &DataType) -> Option<&'static str> {
    let data_type = plain(data_type);
    let text = is_text(data_type);
    // A column without any value.
    if *data_type == DataType::Null {
        return None;
    }
    let messages = element(data_type).is_some_and(is_message);
    let (fits, expected) = match name {
        "id" | "group" => (text || data_type.is_integer(), "text or whole numbers"),
        "prompt" | "completion" | "chosen" | "rejected" | "reference" => {
            (text || messages, "text, or a list of messages (structs with a role that is text)")
        }
        "messages" => (messages, "a list of messages (structs with a role that is text)"),
        // Tables without a type for them keep JSON in texts.
        "tools" | "documents" => {
            let listed = element(data_type).is_some_and(|item| is_text(item) || is_object(item));
            (text || listed, "a list of structs, or text with such a list as JSON")
        }
        "chat_template_kwargs" => (text || is_object(data_type), "a struct or a map, or text with an object as JSON"),
        "input_ids" | "prompt_ids" | "completion_ids" => {
            (element(data_type).is_some_and(DataType::is_integer), "a list of whole numbers")
        }
        "deadline_ms" | "priority" => (data_type.is_integer(), "whole numbers"),
        "weights" => {
            let fits = match data_type {
                DataType::Struct(fields) => fields.iter().all(|field| is_number(field.data_type())),
                DataType::Map(entries, _) => match entries.data_type() {
                    DataType::Struct(fields) => is_text(fields[0].data_type()) && is_number(fields[1].data_type()),
                    _ => false,
                },
                _ => false,
            };
            (fits, "a struct or a map of numbers")
        }
        "aggregation" => (matches!(data_type, DataType::Struct(_)) && to_json::has_form(data_type), "a struct"),
        "finish_reason" => (to_json::has_form(data_type), "text or a struct"),
        "answer_only" => (
            matches!(data_type, DataType::Boolean | DataType::Null | DataType::Struct(_)),
            "true or false, or a struct of open and close",
        ),
        "require_completion" => (matches!(data_type, DataType::Boolean | DataType::Null), "true or false"),
        // text, weighting, chat_template, model_version
        _ => (text, "text"),
    };
    (!fits).then_some(expected)
}

fn plain(data_type: &DataType) -> &DataType {
    match data_type {
        DataType::Dictionary(_, values) => values,
        other => other,
    }
}

fn is_text(data_type: &DataType) -> bool {
    matches!(plain(data_type), DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

fn is_number(data_type: &DataType) -> bool {
    data_type.is_integer() || data_type.is_floating() || *data_type == DataType::Null
}

fn element(data_type: &DataType) -> Option<&DataType> {
    match data_type {
        DataType::List(field) | DataType::LargeList(field) | DataType::FixedSizeList(field, _) => {
            Some(field.data_type())
        }
        _ => None,
    }
}

fn is_object(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Struct(_) | DataType::Map(..)) && to_json::has_form(data_type)
}

fn is_message(data_type: &DataType) -> bool {
    let DataType::Struct(fields) = data_type else { return false };
    to_json::has_form(data_type) && fields.iter().any(|field| field.name() == "role" && is_text(field.data_type()))
}
