//! The header of a GGUF file: where each value of the metadata stands, and what tensors there are. Values stay in the file
//! until somebody asks for them, so that no count or length in it can ask for memory.
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>, versions 2 and 3.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use candle_core::quantized::GgmlDType;

use crate::model::checkpoint::TensorInfo;

/// Dimensions of a tensor at most.
const MAX_DIMENSIONS: u32 = 4;
/// Lists in lists at most; one is what files have.
const MAX_DEPTH: usize = 4;

/// A header.
#[derive(Debug)]
pub struct Header {
    /// The metadata.
    pub metadata: BTreeMap<String, Value>,
    /// The tensors.
    pub tensors: BTreeMap<String, Tensor>,
    /// Where the tensors' data begins.
    pub data: usize,
}

/// A value's type, and its place in the file. It was checked to lie within the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Value {
    /// Its type.
    pub kind: Kind,
    at: usize,
}

/// A value's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    String,
    Array,
    U64,
    I64,
    F64,
}

/// A tensor, of which nothing was checked but that its size is one.
#[derive(Debug)]
pub struct Tensor {
    /// The type of its blocks.
    pub dtype: GgmlDType,
    /// Outermost dimension first.
    pub shape: Vec<usize>,
    /// From the beginning of the tensors' data.
    pub offset: u64,
}

impl Header {
    /// Reads a header; the error is a sentence without the file's name.
    pub fn read(bytes: &[u8]) -> Result<Self, String> {
        let mut at = Cursor { bytes, at: 0 };
        at.header().map_err(|reason| format!("not a readable GGUF file: {reason}"))
    }
}

impl Value {
    /// A text.
    pub fn text<'a>(&self, bytes: &'a [u8]) -> Option<&'a str> {
        let mut at = Cursor { bytes, at: self.at };
        (self.kind == Kind::String).then(|| at.text().ok())?
    }

    /// A whole number of any width; negative ones are not.
    pub fn whole(&self, bytes: &[u8]) -> Option<usize> {
        let mut at = Cursor { bytes, at: self.at };
        match self.kind {
            Kind::U8 => Some(at.array::<1>().ok()?[0].into()),
            Kind::U16 => Some(u16::from_le_bytes(at.array().ok()?).into()),
            Kind::U32 => usize::try_from(u32::from_le_bytes(at.array().ok()?)).ok(),
            Kind::U64 => usize::try_from(u64::from_le_bytes(at.array().ok()?)).ok(),
            Kind::I8 => usize::try_from(i8::from_le_bytes(at.array().ok()?)).ok(),
            Kind::I16 => usize::try_from(i16::from_le_bytes(at.array().ok()?)).ok(),
            Kind::I32 => usize::try_from(i32::from_le_bytes(at.array().ok()?)).ok(),
            Kind::I64 => usize::try_from(i64::from_le_bytes(at.array().ok()?)).ok(),
            Kind::F32 | Kind::F64 | Kind::Bool | Kind::String | Kind::Array => None,
        }
    }

    /// A number with a fraction. Of a float32, the shortest decimal that reads back as the same is the number that was
    /// meant (1e-5, not 9.999999747e-6).
    pub fn float(&self, bytes: &[u8]) -> Option<f64> {
        let mut at = Cursor { bytes, at: self.at };
        match self.kind {
            Kind::F32 => f32::from_le_bytes(at.array().ok()?).to_string().parse().ok(),
            Kind::F64 => Some(f64::from_le_bytes(at.array().ok()?)),
            _ => None,
        }
    }

    /// True or false.
    pub fn boolean(&self, bytes: &[u8]) -> Option<bool> {
        match (self.kind, bytes.get(self.at)?) {
            (Kind::Bool, 0) => Some(false),
            (Kind::Bool, 1) => Some(true),
            _ => None,
        }
    }

    /// A list's items.
    pub fn items(&self, bytes: &[u8]) -> Option<Vec<Self>> {
        let mut at = Cursor { bytes, at: self.at };
        if self.kind != Kind::Array {
            return None;
        }
        let (kind, count) = (at.kind().ok()?, at.number().ok()?);
        (0..count)
            .map(|_| {
                let item = Self { kind, at: at.at };
                at.skip(kind, 1).ok().map(|()| item)
            })
            .collect()
    }
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn header(&mut self) -> Result<Header, String> {
        if self.take(4)? != b"GGUF" {
            return Err("it does not begin with GGUF".into());
        }
        let version = u32::from_le_bytes(self.array()?);
        if !matches!(version, 2 | 3) {
            return Err(format!("it has version {version}, expected 2 or 3 (little-endian)"));
        }
        let (tensors, values) = (self.number()?, self.number()?);
        let mut header = Header { metadata: BTreeMap::new(), tensors: BTreeMap::new(), data: 0 };
        for _ in 0..values {
            let key = self.text()?;
            let value = self.value().map_err(|reason| format!("metadata {key:?}: {reason}"))?;
            if header.metadata.insert(key.to_owned(), value).is_some() {
                return Err(format!("metadata {key:?} is there twice"));
            }
        }
        for _ in 0..tensors {
            let name = self.text()?;
            let tensor = self.tensor().map_err(|reason| format!("tensor {name:?}: {reason}"))?;
            match header.tensors.entry(name.to_owned()) {
                Entry::Vacant(entry) => drop(entry.insert(tensor)),
                Entry::Occupied(_) => return Err(format!("tensor {name:?} is there twice")),
            }
        }
        let alignment = match header.metadata.get("general.alignment") {
            Some(value) => {
                value.whole(self.bytes).filter(|&n| n > 0).ok_or("general.alignment is no number above 0")?
            }
            None => 32,
        };
        header.data = self.at.checked_next_multiple_of(alignment).ok_or("general.alignment is beyond memory")?;
        Ok(header)
    }

    fn value(&mut self) -> Result<Value, String> {
        let kind = self.kind()?;
        let value = Value { kind, at: self.at };
        self.skip(kind, 0)?;
        Ok(value)
    }

    fn tensor(&mut self) -> Result<Tensor, String> {
        let dimensions = u32::from_le_bytes(self.array()?);
        if dimensions > MAX_DIMENSIONS {
            return Err(format!("it has {dimensions} dimensions, at most {MAX_DIMENSIONS} are possible"));
        }
        let mut shape = (0..dimensions).map(|_| self.length()).collect::<Result<Vec<_>, _>>()?;
        shape.reverse();
        TensorInfo::elements(&shape).ok_or_else(|| format!("it has shape {shape:?}"))?;
        let dtype = dtype(u32::from_le_bytes(self.array()?))?;
        Ok(Tensor { dtype, shape, offset: self.number()? })
    }

    fn kind(&mut self) -> Result<Kind, String> {
        use Kind::{Array, Bool, F32, F64, I8, I16, I32, I64, String, U8, U16, U32, U64};
        const KINDS: [Kind; 13] = [U8, I8, U16, I16, U32, I32, F32, Bool, String, Array, U64, I64, F64];
        let number = u32::from_le_bytes(self.array()?);
        KINDS.get(number as usize).copied().ok_or_else(|| format!("there is no type {number}"))
    }

    /// Goes past a value.
    fn skip(&mut self, kind: Kind, depth: usize) -> Result<(), String> {
        if let Some(size) = kind.size() {
            return self.take(size).map(drop);
        }
        if kind == Kind::String {
            let length = self.length()?;
            return self.take(length).map(drop);
        }
        if depth == MAX_DEPTH {
            return Err("there are lists in lists in lists".into());
        }
        let (kind, count) = (self.kind()?, self.length()?);
        match kind.size() {
            Some(size) => {
                let length = size.checked_mul(count).ok_or("a length is beyond memory")?;
                self.take(length).map(drop)
            }
            // Every item takes at least eight bytes, so this ends with the file.
            None => (0..count).try_for_each(|_| self.skip(kind, depth + 1)),
        }
    }

    fn text(&mut self) -> Result<&'a str, String> {
        let length = self.length()?;
        str::from_utf8(self.take(length)?).map_err(|_| "a text is no UTF-8".into())
    }

    fn length(&mut self) -> Result<usize, String> {
        usize::try_from(self.number()?).map_err(|_| "a length is beyond memory".into())
    }

    fn number(&mut self) -> Result<u64, String> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        Ok(self.take(N)?.try_into().expect("take gives as many bytes as asked for"))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], String> {
        let taken = self.at.checked_add(length).and_then(|end| self.bytes.get(self.at..end));
        self.at = self.at.saturating_add(length);
        taken.ok_or_else(|| "it ends in the middle".into())
    }
}

impl Kind {
    /// Bytes of a value, where they are always the same.
    fn size(self) -> Option<usize> {
        match self {
            Self::U8 | Self::I8 | Self::Bool => Some(1),
            Self::U16 | Self::I16 => Some(2),
            Self::U32 | Self::I32 | Self::F32 => Some(4),
            Self::U64 | Self::I64 | Self::F64 => Some(8),
            Self::String | Self::Array => None,
        }
    }
}

/// The type of a tensor's blocks, by ggml's number for it.
fn dtype(number: u32) -> Result<GgmlDType, String> {
    Ok(match number {
        0 => GgmlDType::F32,
        1 => GgmlDType::F16,
        2 => GgmlDType::Q4_0,
        3 => GgmlDType::Q4_1,
        6 => GgmlDType::Q5_0,
        7 => GgmlDType::Q5_1,
        8 => GgmlDType::Q8_0,
        9 => GgmlDType::Q8_1,
        10 => GgmlDType::Q2K,
        11 => GgmlDType::Q3K,
        12 => GgmlDType::Q4K,
        13 => GgmlDType::Q5K,
        14 => GgmlDType::Q6K,
        15 => GgmlDType::Q8K,
        30 => GgmlDType::BF16,
        other => {
            return Err(format!(
                "ggml type {other} is not read; of the quantised ones Q4_0 to Q8_1 and Q2_K to Q8_K are"
            ));
        }
    })
}
