//! Input tensors, in JSON or in binary: little-endian numbers, and texts each behind its length in four bytes (Triton's binary tensor
//! data extension).
//!
//! Invariant: a tensor has exactly the elements that its shape says, and no byte of a body is left over.

use axum::body::Bytes;
use serde::Deserialize;
use serde_json::Value;

use crate::reward::{Code, Rejection};
use crate::sidecar::transport::http::reply::Refusal;

/// As a request has it.
#[derive(Deserialize)]
pub(super) struct InputTensor {
    pub name: String,
    pub shape: Vec<usize>,
    datatype: String,
    data: Option<Value>,
    #[serde(default)]
    parameters: Parameters,
}

#[derive(Default, Deserialize)]
struct Parameters {
    binary_data_size: Option<usize>,
}

/// The binary part of a body, of which each tensor takes its share in turn.
pub(super) struct Wire(Bytes);

/// A text, or why it is none.
pub(super) type Text = Result<String, Rejection>;

impl Wire {
    pub fn new(bytes: Bytes) -> Self {
        Self(bytes)
    }

    /// All of it has been taken.
    pub fn end(self) -> Result<(), Refusal> {
        let left = self.0.len();
        if left == 0 { Ok(()) } else { Err(Refusal::malformed(format!("{left} bytes behind the last tensor"))) }
    }

    fn take(&mut self, tensor: &InputTensor, size: usize) -> Result<Bytes, Refusal> {
        if size > self.0.len() {
            return Err(bad(tensor, &format!("binary_data_size: {size}, and {} bytes are left", self.0.len())));
        }
        Ok(self.0.split_to(size))
    }

    /// Whole numbers.
    pub fn integers(&mut self, tensor: InputTensor) -> Result<Vec<i64>, Refusal> {
        let count = count(&tensor)?;
        let values = match tensor.parameters.binary_data_size {
            Some(size) => {
                let (width, signed) = width(&tensor.datatype).ok_or_else(|| no_integers(&tensor))?;
                let bytes = self.take(&tensor, size)?;
                if size != count.saturating_mul(width) {
                    return Err(bad(&tensor, &format!("{size} bytes for {count} numbers of {width}")));
                }
                bytes.chunks_exact(width).map(|bytes| integer(bytes, signed)).collect()
            }
            None => {
                width(&tensor.datatype).ok_or_else(|| no_integers(&tensor))?;
                let mut values = Vec::new();
                flatten(tensor.data.as_ref(), &mut |value| value.as_i64().map(|value| values.push(value)))
                    .ok_or_else(|| bad(&tensor, "data: not whole numbers"))?;
                values
            }
        };
        if values.len() == count {
            Ok(values)
        } else {
            Err(bad(&tensor, &format!("{} numbers for {count}", values.len())))
        }
    }

    /// Texts.
    pub fn texts(&mut self, tensor: InputTensor) -> Result<Vec<Text>, Refusal> {
        let count = count(&tensor)?;
        if tensor.datatype != "BYTES" {
            return Err(bad(&tensor, "datatype: BYTES is wanted"));
        }
        let mut texts = Vec::new();
        match tensor.parameters.binary_data_size {
            Some(size) => {
                let mut bytes = self.take(&tensor, size)?;
                while let Some(length) = bytes.first_chunk::<4>().map(|length| u32::from_le_bytes(*length) as usize) {
                    drop(bytes.split_to(4));
                    if length > bytes.len() {
                        return Err(bad(&tensor, "a text that is longer than the tensor"));
                    }
                    texts.push(text(&bytes.split_to(length)));
                }
                if !bytes.is_empty() {
                    return Err(bad(&tensor, "bytes behind the last text"));
                }
            }
            None => {
                flatten(tensor.data.as_ref(), &mut |value| value.as_str().map(|text| texts.push(Ok(text.to_owned()))))
                    .ok_or_else(|| bad(&tensor, "data: not texts"))?;
            }
        }
        if texts.len() == count { Ok(texts) } else { Err(bad(&tensor, &format!("{} texts for {count}", texts.len()))) }
    }
}

fn text(bytes: &[u8]) -> Text {
    let not_utf8 = |e: std::str::Utf8Error| {
        Rejection::new(Code::Malformed, format!("not valid UTF-8 at byte {}", e.valid_up_to() + 1))
    };
    std::str::from_utf8(bytes).map(str::to_owned).map_err(not_utf8)
}

fn bad(tensor: &InputTensor, why: &str) -> Refusal {
    Refusal::malformed(format!("{}: {why}", tensor.name))
}

fn no_integers(tensor: &InputTensor) -> Refusal {
    bad(tensor, &format!("datatype: {}; whole numbers are wanted", tensor.datatype))
}

fn count(tensor: &InputTensor) -> Result<usize, Refusal> {
    let count = tensor.shape.iter().try_fold(1_usize, |count, &n| count.checked_mul(n));
    count.ok_or_else(|| bad(tensor, "shape: too large"))
}

/// Bytes of a number, and whether it may be negative.
fn width(datatype: &str) -> Option<(usize, bool)> {
    Some(match datatype {
        "INT8" => (1, true),
        "INT16" => (2, true),
        "INT32" => (4, true),
        "INT64" => (8, true),
        "UINT8" => (1, false),
        "UINT16" => (2, false),
        "UINT32" => (4, false),
        "UINT64" => (8, false),
        _ => return None,
    })
}

fn integer(bytes: &[u8], signed: bool) -> i64 {
    let negative = signed && bytes.last().is_some_and(|byte| byte & 0x80 != 0);
    let mut all = if negative { [0xff; 8] } else { [0; 8] };
    all[..bytes.len()].copy_from_slice(bytes);
    // An unsigned number that does not fit is negative here, which is no token id either.
    i64::from_le_bytes(all)
}

/// Every element of lists within lists, in order; `None` where one is not what `take` wants.
fn flatten(data: Option<&Value>, take: &mut impl FnMut(&Value) -> Option<()>) -> Option<()> {
    match data? {
        Value::Array(elements) => elements.iter().try_for_each(|element| flatten(Some(element), take)),
        element => take(element),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(datatype: &str, shape: &[usize], size: Option<usize>, data: Option<Value>) -> InputTensor {
        let parameters = Parameters { binary_data_size: size };
        InputTensor { name: "x".into(), shape: shape.into(), datatype: datatype.into(), data, parameters }
    }

    #[test]
    fn numbers_of_all_widths() {
        for (datatype, bytes, values) in [
            ("INT64", [5_i64, -2].iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>(), [5, -2]),
            ("INT32", [5_i32, -2].iter().flat_map(|n| n.to_le_bytes()).collect(), [5, -2]),
            ("UINT32", [5_u32, u32::MAX].iter().flat_map(|n| n.to_le_bytes()).collect(), [5, i64::from(u32::MAX)]),
            ("UINT8", vec![5, 255], [5, 255]),
        ] {
            let mut wire = Wire::new(bytes.clone().into());
            let read = wire.integers(tensor(datatype, &[2, 1], Some(bytes.len()), None)).unwrap();
            assert_eq!(read, values, "{datatype}");
            wire.end().unwrap();
        }
        let json = tensor("INT64", &[2, 2], None, Some(serde_json::json!([[1, 2], [3, 4]])));
        assert_eq!(Wire::new(Bytes::new()).integers(json).unwrap(), [1, 2, 3, 4]);
    }

    #[test]
    fn texts_behind_their_lengths() {
        let bytes = b"\x02\0\0\0ab\0\0\0\0\x01\0\0\0\xff";
        let mut wire = Wire::new(Bytes::from_static(bytes));
        let texts = wire.texts(tensor("BYTES", &[3], Some(bytes.len()), None)).unwrap();
        assert_eq!((texts[0].as_deref(), texts[1].as_deref()), (Ok("ab"), Ok("")));
        assert_eq!(texts[2].as_ref().unwrap_err().code, Code::Malformed);
    }

    #[test]
    fn what_does_not_add_up_is_refused() {
        let wire = || Wire::new(Bytes::from_static(&[1, 0, 0, 0, 9, 9]));
        for tensor in [
            tensor("INT32", &[2], Some(8), None),
            tensor("INT32", &[2], Some(4), None),
            tensor("INT32", &[usize::MAX, 2], Some(4), None),
            tensor("FP32", &[1], Some(4), None),
            tensor("INT32", &[2], None, Some(serde_json::json!([1]))),
            tensor("INT32", &[1], None, Some(serde_json::json!(["a"]))),
            tensor("INT32", &[1], None, None),
        ] {
            assert!(wire().integers(tensor).is_err());
        }
        assert!(wire().texts(tensor("BYTES", &[1], Some(6), None)).is_err());
        assert!(wire().texts(tensor("BYTES", &[1], None, Some(serde_json::json!([5])))).is_err());
        assert!(wire().end().is_err());
    }
}
