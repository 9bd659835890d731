//! A safetensors file, memory-mapped; float32, float16 and bfloat16.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensorError, SafeTensors};

use super::dense::Rows;
use super::{Dense, ElementType, MappedFile, RawInfo, Slice, TensorInfo, WeightSource};
use crate::model::compute::dtype::Precision;
use crate::model::error::ModelError;

/// The tensors of one file.
#[derive(Debug)]
pub struct SafetensorsFile {
    file: MappedFile,
    tensors: BTreeMap<String, Entry>,
}

/// Where a tensor stands. Ranges and shapes were checked against the file's length.
#[derive(Debug)]
struct Entry {
    shape: Vec<usize>,
    dtype: Dtype,
    bytes: Range<usize>,
}

impl SafetensorsFile {
    /// Opens a file and reads its header.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        Self::read(MappedFile::open(path)?)
    }

    /// A file that is built into the program; `name` is for messages.
    pub fn embedded(name: PathBuf, bytes: &'static [u8]) -> Result<Self, ModelError> {
        Self::read(MappedFile::embedded(name, bytes))
    }

    /// Reads the header of a file that is open.
    pub fn read(file: MappedFile) -> Result<Self, ModelError> {
        let tensors = entries(file.bytes()).map_err(|reason| ModelError::malformed(file.path(), reason))?;
        Ok(Self { file, tensors })
    }
}

fn entries(bytes: &[u8]) -> Result<BTreeMap<String, Entry>, String> {
    let malformed = |e: SafeTensorError| match e {
        SafeTensorError::MetadataIncompleteBuffer | SafeTensorError::InvalidHeaderLength => format!(
            "not a readable safetensors file: it has {} bytes, and its header says another number; a download that broke off? Fetch \
             it again",
            bytes.len()
        ),
        e => format!("not a readable safetensors file: {e}"),
    };
    let (header, metadata) = SafeTensors::read_metadata(bytes).map_err(malformed)?;
    let data = header + 8;
    let mut entries = BTreeMap::new();
    for (name, info) in metadata.tensors() {
        let (start, end) = info.data_offsets;
        let range = data + start..data + end;
        if range.end > bytes.len() {
            return Err(format!("tensor {name:?} reaches past the end of the file"));
        }
        // The parser has compared the shape with the bytes, but a zero in it hides what the others say.
        TensorInfo::elements(&info.shape).ok_or_else(|| format!("tensor {name:?} has shape {:?}", info.shape))?;
        entries.insert(name, Entry { shape: info.shape.clone(), dtype: info.dtype, bytes: range });
    }
    Ok(entries)
}

impl WeightSource for SafetensorsFile {
    fn info(&self, name: &str) -> Option<TensorInfo> {
        let entry = self.tensors.get(name)?;
        // Types without a precision are refused when read, where the message can name them.
        let precision = precision(entry.dtype).unwrap_or(Precision::F32);
        Some(TensorInfo { shape: entry.shape.clone(), precision })
    }

    fn read_within(&self, name: &str, slice: &Slice) -> Result<Vec<f32>, ModelError> {
        let entry = self.tensors.get(name).ok_or_else(|| self.missing(name))?;
        let precision = precision(entry.dtype).ok_or_else(|| ModelError::Dtype {
            path: self.origin(name),
            tensor: name.to_owned(),
            expected: "F32, F16 or BF16",
            found: format!("{:?}", entry.dtype),
        })?;
        let columns = entry.shape.iter().skip(1).product();
        Ok(Dense { precision, columns, bytes: entry.bytes.clone() }.read(&self.file, slice))
    }

    fn raw_info(&self, name: &str) -> Option<RawInfo> {
        let entry = self.tensors.get(name)?;
        Some(RawInfo { shape: entry.shape.clone(), element: element(entry.dtype)? })
    }

    fn read_raw(&self, name: &str, slice: &Slice) -> Result<Vec<u8>, ModelError> {
        let entry = self.tensors.get(name).ok_or_else(|| self.missing(name))?;
        let size = element(entry.dtype).ok_or_else(|| self.missing(name))?.bytes();
        let rows = Rows { size, columns: entry.shape.iter().skip(1).product(), bytes: entry.bytes.clone() };
        let mut bytes = Vec::with_capacity(slice.len() * size);
        rows.visit(&self.file, slice, |piece| bytes.extend_from_slice(piece));
        Ok(bytes)
    }

    fn bytes_read(&self) -> u64 {
        self.file.bytes_read()
    }

    fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    fn origin(&self, _name: &str) -> PathBuf {
        self.file.path().to_path_buf()
    }
}

fn precision(dtype: Dtype) -> Option<Precision> {
    element(dtype)?.precision()
}

fn element(dtype: Dtype) -> Option<ElementType> {
    match dtype {
        Dtype::F32 => Some(ElementType::F32),
        Dtype::F16 => Some(ElementType::F16),
        Dtype::BF16 => Some(ElementType::Bf16),
        Dtype::F8_E4M3 => Some(ElementType::F8E4M3),
        Dtype::I8 => Some(ElementType::I8),
        Dtype::U8 => Some(ElementType::U8),
        Dtype::I32 => Some(ElementType::I32),
        Dtype::I64 => Some(ElementType::I64),
        _ => None,
    }
}
