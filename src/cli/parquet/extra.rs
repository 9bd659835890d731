//! Kept fields of JSON as columns.

use std::sync::Arc;

use arrow_array::{ArrayRef, BooleanArray, Float64Array, Int64Array, StringArray};
use serde::de::DeserializeOwned;

use crate::json::row::ExtraField;

/// Whole numbers up to here are exact as float64.
const EXACT: i64 = 1 << 53;

/// One column for each name, in the order in which the names first appear. It has the type that all of its values are of:
/// text, whole numbers, numbers, truth values. Otherwise it has their JSON as text.
pub fn columns(rows: &[Vec<ExtraField>]) -> Vec<(String, ArrayRef)> {
    let mut names: Vec<&str> = Vec::new();
    for field in rows.iter().flatten() {
        if !names.contains(&field.name.as_str()) {
            names.push(&field.name);
        }
    }
    let column = |name: &&str| {
        let values = rows.iter().map(|row| {
            let field = row.iter().find(|field| field.name == **name)?;
            Some(field.value.get()).filter(|json| *json != "null")
        });
        ((*name).to_owned(), column(&values.collect::<Vec<_>>()))
    };
    names.iter().map(column).collect()
}

fn column(values: &[Option<&str>]) -> ArrayRef {
    if let Some(texts) = all::<String>(values, |_| true) {
        return Arc::new(StringArray::from(texts));
    }
    if let Some(numbers) = all::<i64>(values, |_| true) {
        return Arc::new(Int64Array::from(numbers));
    }
    let exact = |json: &str| json.parse::<i64>().map_or(json.contains(['.', 'e', 'E']), |n| n.abs() <= EXACT);
    if let Some(numbers) = all::<f64>(values, exact) {
        return Arc::new(Float64Array::from(numbers));
    }
    match all::<bool>(values, |_| true) {
        Some(truths) => Arc::new(BooleanArray::from(truths)),
        None => Arc::new(StringArray::from(values.to_vec())),
    }
}

/// The values, if every one of them is of this type and suits.
fn all<T: DeserializeOwned>(values: &[Option<&str>], suits: impl Fn(&str) -> bool) -> Option<Vec<Option<T>>> {
    let read = |json: &str| if suits(json) { serde_json::from_str(json).ok() } else { None };
    values.iter().map(|value| value.map_or(Some(None), |json| read(json).map(Some))).collect()
}

#[cfg(test)]
mod tests {
    use arrow_schema::DataType;

    use super::*;

    #[test]
    fn columns_have_the_type_of_all_their_values() {
        for (values, expected) in [
            (vec![r#""a""#, r#""\u00e9""#], DataType::Utf8),
            (vec!["1", "-2"], DataType::Int64),
            (vec!["1", "-2.5"], DataType::Float64),
            (vec!["true", "false"], DataType::Boolean),
            // Mixed, or too large for a number to be exact: JSON.
            (vec!["1", r#""a""#], DataType::Utf8),
            (vec!["9007199254740993", "0.5"], DataType::Utf8),
            (vec!["123456789012345678901"], DataType::Utf8),
            (vec!["[1, 2]"], DataType::Utf8),
        ] {
            let mut optional: Vec<_> = values.iter().copied().map(Some).collect();
            optional.push(None);
            let column = column(&optional);
            assert_eq!((column.data_type(), column.null_count()), (&expected, 1), "{values:?}");
        }
    }
}
