//! GGUF: one memory-mapped file with weights, configuration and tokenizer in it. Quantised tensors are read as the
//! float32 values that they stand for.
//!
//! Everything that differs from Hugging Face's layout is undone here: tensor names, and the order of the query and
//! key rows (the `llama` architecture stores them for interleaved rotary pairs), and what was added to norms.
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

mod config;
mod family;
mod gemma;
mod header;
mod metadata;
mod phi3;
mod rope;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::Device;
use candle_core::quantized::GgmlDType;
use candle_core::quantized::ggml_file::qtensor_from_ggml;
use family::Family;
use header::{Header, Tensor};
use rayon::prelude::*;

use super::{MappedFile, Slice, TensorInfo, WeightSource};
use crate::model::compute::dtype::Precision;
use crate::model::error::ModelError;

/// Elements dequantised by one task; large enough to be worth one, small enough to spread an embedding table.
const CHUNK_ELEMENTS: usize = 1 << 20;

/// An open GGUF file.
pub struct GgufFile {
    file: MappedFile,
    header: Header,
    family: &'static Family,
    /// Hugging Face's name of each tensor, and the file's.
    names: BTreeMap<String, String>,
    heads: usize,
    kv_heads: usize,
}

impl GgufFile {
    /// Opens a file and reads its header.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        Self::read(MappedFile::open(path)?)
    }

    /// Reads the header of a file that is open.
    pub fn read(file: MappedFile) -> Result<Self, ModelError> {
        let header = Header::read(file.bytes()).map_err(|reason| ModelError::malformed(file.path(), reason))?;
        let (names, family) = (BTreeMap::new(), &family::FAMILIES[0]);
        let mut gguf = Self { file, header, family, names, heads: 0, kv_heads: 0 };
        let architecture = gguf.string("general.architecture")?.unwrap_or_default();
        gguf.family = family::find(architecture).ok_or_else(|| ModelError::UnknownArchitecture {
            path: gguf.path().to_path_buf(),
            found: architecture.to_owned(),
            known: format!("{} (in GGUF files)", family::names()),
        })?;
        gguf.heads = gguf.required(&gguf.key("attention.head_count"))?;
        gguf.kv_heads = gguf.integer(&gguf.key("attention.head_count_kv"))?.unwrap_or(gguf.heads);
        for name in gguf.header.tensors.keys() {
            // The frequencies of the rotary embedding are no tensor of the model; see `rope`.
            if name == rope::DIVISORS || gguf.family.lists.contains(&name.as_str()) {
                continue;
            }
            // A dense layer before the classifier, whose activation depends on the architecture.
            if name.starts_with("cls.") && !name.starts_with("cls.output.") {
                return Err(gguf.unsupported(
                    &format!("tensor {name:?}"),
                    "present",
                    "a classifier of one matrix, cls.output",
                ));
            }
            let Some(standard) = gguf.family.standard_name(name) else {
                let expected = format!("the tensors of a plain {}", gguf.family.name);
                return Err(gguf.unsupported(&format!("tensor {name:?}"), "present", &expected));
            };
            gguf.names.insert(standard, name.clone());
        }
        Ok(gguf)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.header.tensors.get(self.names.get(name)?)
    }

    fn read_tensor(&self, name: &str, tensor: &Tensor, slice: &Slice) -> Result<Vec<f32>, ModelError> {
        // A vector is one row here, and one column for whoever asks.
        let (rows, slice) = match &tensor.shape[..] {
            [_] => (1, &Slice { rows: 0..1, columns: slice.rows.clone() }),
            dims => (dims.iter().rev().skip(1).product(), slice),
        };
        let row_bytes = self.row_bytes(name, tensor)?;
        let past_the_end = || ModelError::malformed(self.path(), format!("tensor {name:?} reaches past the end"));
        let start = usize::try_from(tensor.offset).ok().and_then(|offset| self.header.data.checked_add(offset));
        let span = start
            .and_then(|start| Some(start..start.checked_add(row_bytes.checked_mul(rows)?)?))
            .filter(|span| span.end <= self.file.bytes().len())
            .ok_or_else(past_the_end)?;
        // Whole blocks of the quantised type that hold the columns.
        let (block, block_bytes) = (tensor.dtype.block_size(), tensor.dtype.type_size());
        let blocks = slice.columns.start / block..slice.columns.end.div_ceil(block);
        let cut = slice.columns.start - blocks.start * block..slice.columns.end - blocks.start * block;
        let raw = |row: usize| {
            let start = span.start + row * row_bytes;
            self.file.weights(start + blocks.start * block_bytes..start + blocks.end * block_bytes)
        };
        let head_dim = self.interleaved_head_dim(name, rows)?;
        let wanted: Vec<usize> =
            slice.rows.clone().map(|row| head_dim.map_or(row, |dim| interleaved(row, dim))).collect();
        let width = blocks.len() * block;
        if wanted.is_empty() || cut.is_empty() {
            return Ok(Vec::new());
        }
        let chunk_rows = (CHUNK_ELEMENTS / width).max(1);
        let mut values = vec![0.0; slice.len()];
        values.par_chunks_mut(chunk_rows * cut.len()).zip(wanted.par_chunks(chunk_rows)).try_for_each(
            |(out, rows)| -> Result<(), ModelError> {
                let mut bytes = Vec::with_capacity(rows.len() * blocks.len() * block_bytes);
                for &row in rows {
                    bytes.extend_from_slice(raw(row).ok_or_else(past_the_end)?);
                }
                let chunk = qtensor_from_ggml(tensor.dtype, &bytes, vec![rows.len(), width], &Device::Cpu)?
                    .dequantize(&Device::Cpu)?
                    .flatten_all()?
                    .to_vec1::<f32>()?;
                for (out, row) in out.chunks_exact_mut(cut.len()).zip(chunk.chunks_exact(width)) {
                    out.copy_from_slice(&row[cut.clone()]);
                }
                Ok(())
            },
        )?;
        self.file.release(span);
        Ok(values)
    }

    /// Bytes of one row in the file.
    fn row_bytes(&self, name: &str, tensor: &Tensor) -> Result<usize, ModelError> {
        let (block, bytes) = (tensor.dtype.block_size(), tensor.dtype.type_size());
        let columns = tensor.shape.last().copied().unwrap_or(0);
        if columns == 0 || !columns.is_multiple_of(block) {
            return Err(ModelError::malformed(
                self.path(),
                format!("tensor {name:?} has rows of {columns} values, expected a multiple of {block}"),
            ));
        }
        Ok(columns / block * bytes)
    }

    /// The dimension of the heads of a query or key matrix, of which the rows are interleaved in the file.
    fn interleaved_head_dim(&self, name: &str, rows: usize) -> Result<Option<usize>, ModelError> {
        let heads = match name.rsplit_once(".self_attn.") {
            Some((_, "q_proj.weight")) if self.family.interleaved => self.heads,
            Some((_, "k_proj.weight")) if self.family.interleaved => self.kv_heads,
            _ => return Ok(None),
        };
        if heads == 0 || !rows.is_multiple_of(2 * heads) {
            let reason = format!("tensor {name:?} has {rows} rows, expected an even number for each of {heads} heads");
            return Err(ModelError::malformed(self.path(), reason));
        }
        Ok(Some(rows / heads))
    }
}

/// The file's row of row `row` of a query or key matrix: within a head the file has its rows as (frequency, half), the
/// rotary embedding that works on halves wants (half, frequency).
fn interleaved(row: usize, head_dim: usize) -> usize {
    let (head, row) = (row / head_dim, row % head_dim);
    let (half, frequency) = (row / (head_dim / 2), row % (head_dim / 2));
    head * head_dim + frequency * 2 + half
}

impl WeightSource for GgufFile {
    fn info(&self, name: &str) -> Option<TensorInfo> {
        let tensor = self.tensor(name)?;
        let precision = match tensor.dtype {
            GgmlDType::F16 => Precision::F16,
            GgmlDType::BF16 => Precision::Bf16,
            _ => Precision::F32,
        };
        Some(TensorInfo { shape: tensor.shape.clone(), precision })
    }

    fn read_within(&self, name: &str, slice: &Slice) -> Result<Vec<f32>, ModelError> {
        let tensor = self.tensor(name).ok_or_else(|| self.missing(name))?;
        let mut values = self.read_tensor(name, tensor, slice)?;
        if self.family.norms_with_one && name.ends_with("norm.weight") {
            values.iter_mut().for_each(|value| *value -= 1.0);
        }
        Ok(values)
    }

    fn bytes_read(&self) -> u64 {
        self.file.bytes_read()
    }

    fn names(&self) -> Vec<String> {
        self.names.keys().cloned().collect()
    }

    fn origin(&self, _name: &str) -> PathBuf {
        self.path().to_path_buf()
    }
}
