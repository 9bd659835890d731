//! A value of a column as JSON.

use std::io;

use arrow_array::cast::AsArray as _;
use arrow_array::types::{
    ArrowPrimitiveType, Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type,
    UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef};
use arrow_schema::DataType;
use serde::Serialize;

/// Whether every value of this type, save numbers that are not finite, can be written as JSON.
pub fn has_form(data_type: &DataType) -> bool {
    match data_type {
        DataType::Null | DataType::Boolean | DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::List(field) | DataType::LargeList(field) | DataType::FixedSizeList(field, _) => {
            has_form(field.data_type())
        }
        DataType::Struct(fields) => fields.iter().all(|field| has_form(field.data_type())),
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(fields) => {
                matches!(fields[0].data_type(), DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
                    && has_form(fields[1].data_type())
            }
            _ => false,
        },
        DataType::Dictionary(_, values) => has_form(values),
        number => number.is_integer() || number.is_floating(),
    }
}

/// Writes the value in a row. Fields of an object that are null are left out.
///
/// # Errors
///
/// The value has no form in JSON: a number that is not finite, or a type for which [`has_form`] is false.
pub fn write(array: &dyn Array, row: usize, out: &mut Vec<u8>) -> io::Result<()> {
    if array.is_null(row) {
        out.extend_from_slice(b"null");
        return Ok(());
    }
    match array.data_type() {
        DataType::Null => out.extend_from_slice(b"null"),
        DataType::Boolean => json(&array.as_boolean().value(row), out)?,
        DataType::Utf8 => json(array.as_string::<i32>().value(row), out)?,
        DataType::LargeUtf8 => json(array.as_string::<i64>().value(row), out)?,
        DataType::Utf8View => json(array.as_string_view().value(row), out)?,
        DataType::Int8 => number::<Int8Type>(array, row, out)?,
        DataType::Int16 => number::<Int16Type>(array, row, out)?,
        DataType::Int32 => number::<Int32Type>(array, row, out)?,
        DataType::Int64 => number::<Int64Type>(array, row, out)?,
        DataType::UInt8 => number::<UInt8Type>(array, row, out)?,
        DataType::UInt16 => number::<UInt16Type>(array, row, out)?,
        DataType::UInt32 => number::<UInt32Type>(array, row, out)?,
        DataType::UInt64 => number::<UInt64Type>(array, row, out)?,
        DataType::Float16 => float(f32::from(array.as_primitive::<Float16Type>().value(row)), out)?,
        DataType::Float32 => float(array.as_primitive::<Float32Type>().value(row), out)?,
        DataType::Float64 => {
            let value = array.as_primitive::<Float64Type>().value(row);
            finite(value)?;
            json(&value, out)?;
        }
        DataType::List(_) => list(&array.as_list::<i32>().value(row), out)?,
        DataType::LargeList(_) => list(&array.as_list::<i64>().value(row), out)?,
        DataType::FixedSizeList(..) => list(&array.as_fixed_size_list().value(row), out)?,
        DataType::Struct(fields) => {
            let columns = array.as_struct().columns();
            let names = fields.iter().map(|field| field.name().as_str());
            object(names.zip(columns.iter().map(|column| (column.as_ref(), row))), out)?;
        }
        DataType::Map(..) => {
            let entries = array.as_map().value(row);
            let (keys, values) = (entries.column(0), entries.column(1));
            out.push(b'{');
            separated(entries.len(), out, |i, out| {
                write(keys, i, out)?;
                out.push(b':');
                write(values, i, out)
            })?;
            out.push(b'}');
        }
        DataType::Dictionary(..) => {
            let dictionary = array.as_any_dictionary();
            write(dictionary.values(), dictionary.normalized_keys()[row], out)?;
        }
        other => return Err(io::Error::other(format!("the type {other} has no form in JSON"))),
    }
    Ok(())
}

/// Writes an object of those values that are not null.
///
/// # Errors
///
/// As [`write`]'s, with the field's name in front.
pub fn object<'a>(
    values: impl Iterator<Item = (&'a str, (&'a dyn Array, usize))>,
    out: &mut Vec<u8>,
) -> io::Result<()> {
    out.push(b'{');
    let mut first = true;
    for (name, (array, row)) in values {
        if array.is_null(row) || *array.data_type() == DataType::Null {
            continue;
        }
        if !first {
            out.push(b',');
        }
        first = false;
        json(name, out)?;
        out.push(b':');
        write(array, row, out).map_err(|error| io::Error::other(format!("{name}: {error}")))?;
    }
    out.push(b'}');
    Ok(())
}

fn list(values: &ArrayRef, out: &mut Vec<u8>) -> io::Result<()> {
    out.push(b'[');
    separated(values.len(), out, |i, out| write(values, i, out))?;
    out.push(b']');
    Ok(())
}

/// Writes so many items with commas between them.
fn separated(
    items: usize,
    out: &mut Vec<u8>,
    mut item: impl FnMut(usize, &mut Vec<u8>) -> io::Result<()>,
) -> io::Result<()> {
    for i in 0..items {
        if i > 0 {
            out.push(b',');
        }
        item(i, out)?;
    }
    Ok(())
}

fn number<T: ArrowPrimitiveType<Native: Serialize>>(
    array: &dyn Array,
    row: usize,
    out: &mut Vec<u8>,
) -> io::Result<()> {
    json(&array.as_primitive::<T>().value(row), out)
}

/// With the fewest digits that read back to the same float32.
fn float(value: f32, out: &mut Vec<u8>) -> io::Result<()> {
    finite(value.into())?;
    json(&value, out)
}

fn finite(value: f64) -> io::Result<()> {
    if value.is_finite() { Ok(()) } else { Err(io::Error::other(format!("{value} is no number in JSON"))) }
}

fn json<T: Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) -> io::Result<()> {
    serde_json::to_writer(out, value).map_err(io::Error::from)
}
