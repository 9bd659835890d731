//! GGUF: one memory-mapped file with weights, configuration and tokenizer in it. Quantised tensors are read as the
//! float32 values that they stand for.
//!
//! Everything that differs from Hugging Face's layout is undone here: tensor names, and the order of the query and
//! key rows (the `llama` architecture stores them for interleaved rotary pairs).
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use candle_core::Device;
use candle_core::quantized::GgmlDType;
use candle_core::quantized::ggml_file::qtensor_from_ggml;
use candle_core::quantized::gguf_file::{Content, TensorInfo as GgufTensor, Value};
use rayon::prelude::*;
use serde_json::json;

use super::{MappedFile, Precision, Slice, TensorInfo, WeightSource};
use crate::model::ModelError;

/// Elements dequantised by one task; large enough to be worth one, small enough to spread an embedding table.
const CHUNK_ELEMENTS: usize = 1 << 20;

/// An open GGUF file.
pub struct GgufFile {
    file: MappedFile,
    content: Content,
    /// Hugging Face's name of each tensor, and the file's.
    names: BTreeMap<String, String>,
    heads: usize,
    kv_heads: usize,
}

impl GgufFile {
    /// Opens a file and reads its header.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let file = MappedFile::open(path)?;
        let content = Content::read(&mut Cursor::new(file.bytes()))
            .map_err(|e| ModelError::malformed(path, format!("not a readable GGUF file: {e}")))?;
        let mut gguf = Self { file, content, names: BTreeMap::new(), heads: 0, kv_heads: 0 };
        let architecture = gguf.string("general.architecture")?.unwrap_or_default();
        if architecture != "llama" {
            return Err(ModelError::UnknownArchitecture {
                path: path.to_path_buf(),
                found: architecture.to_owned(),
                known: "llama (in GGUF files)".into(),
            });
        }
        gguf.heads = gguf.required("llama.attention.head_count")?;
        gguf.kv_heads = gguf.integer("llama.attention.head_count_kv")?.unwrap_or(gguf.heads);
        for name in gguf.content.tensor_infos.keys() {
            if let Some(standard) = standard_name(name) {
                gguf.names.insert(standard, name.clone());
            } else {
                return Err(gguf.unsupported(&format!("tensor {name:?}"), "present", "the tensors of a plain Llama"));
            }
        }
        Ok(gguf)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// The configuration as `config.json` would say it.
    pub fn config(&self) -> Result<serde_json::Value, ModelError> {
        let hidden: usize = self.required("llama.embedding_length")?;
        let head_dim = self.integer("llama.attention.key_length")?.unwrap_or(hidden / self.heads.max(1));
        for (key, expected) in [
            ("llama.attention.value_length", head_dim),
            ("llama.rope.dimension_count", head_dim),
            ("llama.expert_count", 0),
        ] {
            if let Some(found) = self.integer(key)?.filter(|&found| found != expected) {
                return Err(self.unsupported(key, &found.to_string(), &expected.to_string()));
            }
        }
        if let Some(scaling) = self.string("llama.rope.scaling.type")?.filter(|s| *s != "none") {
            return Err(self.unsupported("llama.rope.scaling.type", scaling, "none"));
        }
        let vocabulary = match self.integer("llama.vocab_size")? {
            Some(size) => size,
            None => self.strings("tokenizer.ggml.tokens")?.unwrap_or_default().len(),
        };
        Ok(json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_act": "silu",
            "hidden_size": hidden,
            "intermediate_size": self.required("llama.feed_forward_length")?,
            "num_hidden_layers": self.required("llama.block_count")?,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": head_dim,
            "max_position_embeddings": self.required("llama.context_length")?,
            "rms_norm_eps": self.float("llama.attention.layer_norm_rms_epsilon")?,
            "rope_theta": self.float("llama.rope.freq_base")?.unwrap_or(10_000.0),
            "vocab_size": vocabulary,
        }))
    }

    /// A text value.
    pub fn string(&self, key: &str) -> Result<Option<&str>, ModelError> {
        self.value(key, "text", |v| v.to_string().ok().map(String::as_str))
    }

    /// A list of texts.
    pub fn strings(&self, key: &str) -> Result<Option<Vec<&str>>, ModelError> {
        self.value(key, "a list of texts", |v| {
            v.to_vec().ok()?.iter().map(|item| item.to_string().ok().map(String::as_str)).collect()
        })
    }

    /// A list of whole numbers.
    pub fn integers(&self, key: &str) -> Result<Option<Vec<usize>>, ModelError> {
        self.value(key, "a list of whole numbers", |v| v.to_vec().ok()?.iter().map(whole).collect())
    }

    /// A whole number.
    pub fn integer(&self, key: &str) -> Result<Option<usize>, ModelError> {
        self.value(key, "a whole number", whole)
    }

    /// A yes or no.
    pub fn boolean(&self, key: &str) -> Result<Option<bool>, ModelError> {
        self.value(key, "true or false", |v| v.to_bool().ok())
    }

    fn float(&self, key: &str) -> Result<Option<f64>, ModelError> {
        // The shortest decimal that reads back as the same float32 is the number that was meant (1e-5, not
        // 9.999999747e-6).
        self.value(key, "a number", |v| match v {
            Value::F32(x) => x.to_string().parse().ok(),
            Value::F64(x) => Some(*x),
            _ => None,
        })
    }

    fn required(&self, key: &str) -> Result<usize, ModelError> {
        self.integer(key)?.ok_or_else(|| ModelError::malformed(self.path(), format!("no metadata {key:?}")))
    }

    fn value<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, ModelError> {
        let Some(value) = self.content.metadata.get(key) else { return Ok(None) };
        match read(value) {
            Some(value) => Ok(Some(value)),
            None => Err(ModelError::malformed(
                self.path(),
                format!("metadata {key:?} has type {:?}, expected {expected}", value.value_type()),
            )),
        }
    }

    fn unsupported(&self, field: &str, found: &str, expected: &str) -> ModelError {
        ModelError::Unsupported {
            path: self.path().to_path_buf(),
            field: field.to_owned(),
            found: found.to_owned(),
            expected: expected.to_owned(),
        }
    }

    fn tensor(&self, name: &str) -> Option<&GgufTensor> {
        self.content.tensor_infos.get(self.names.get(name)?)
    }

    /// Bytes of one row in the file.
    fn row_bytes(&self, name: &str, tensor: &GgufTensor) -> Result<usize, ModelError> {
        let (block, bytes) = (tensor.ggml_dtype.block_size(), tensor.ggml_dtype.type_size());
        let columns = tensor.shape.dims().last().copied().unwrap_or(0);
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
            Some((_, "q_proj.weight")) => self.heads,
            Some((_, "k_proj.weight")) => self.kv_heads,
            _ => return Ok(None),
        };
        if heads == 0 || !rows.is_multiple_of(2 * heads) {
            let reason = format!("tensor {name:?} has {rows} rows, expected an even number for each of {heads} heads");
            return Err(ModelError::malformed(self.path(), reason));
        }
        Ok(Some(rows / heads))
    }
}

/// A whole number of any width; negative ones are not.
fn whole(value: &Value) -> Option<usize> {
    match value {
        Value::I8(x) => usize::try_from(*x).ok(),
        Value::I16(x) => usize::try_from(*x).ok(),
        Value::I32(x) => usize::try_from(*x).ok(),
        Value::I64(x) => usize::try_from(*x).ok(),
        Value::Bool(_) => None,
        other => usize::try_from(other.to_u64().ok()?).ok(),
    }
}

/// Hugging Face's name of a tensor of the `llama` architecture.
fn standard_name(name: &str) -> Option<String> {
    match name {
        "token_embd.weight" => return Some("model.embed_tokens.weight".into()),
        "output_norm.weight" => return Some("model.norm.weight".into()),
        "output.weight" => return Some("lm_head.weight".into()),
        _ => {}
    }
    let (layer, part) = name.strip_prefix("blk.")?.split_once('.')?;
    let part = match part {
        "attn_norm.weight" => "input_layernorm.weight",
        "attn_q.weight" => "self_attn.q_proj.weight",
        "attn_k.weight" => "self_attn.k_proj.weight",
        "attn_v.weight" => "self_attn.v_proj.weight",
        "attn_output.weight" => "self_attn.o_proj.weight",
        "ffn_norm.weight" => "post_attention_layernorm.weight",
        "ffn_gate.weight" => "mlp.gate_proj.weight",
        "ffn_up.weight" => "mlp.up_proj.weight",
        "ffn_down.weight" => "mlp.down_proj.weight",
        _ => return None,
    };
    layer.parse::<usize>().ok().map(|layer| format!("model.layers.{layer}.{part}"))
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
        let precision = match tensor.ggml_dtype {
            GgmlDType::F16 => Precision::F16,
            GgmlDType::BF16 => Precision::Bf16,
            _ => Precision::F32,
        };
        Some(TensorInfo { shape: tensor.shape.dims().to_vec(), precision })
    }

    fn read_within(&self, name: &str, slice: &Slice) -> Result<Vec<f32>, ModelError> {
        let tensor = self.tensor(name).ok_or_else(|| self.missing(name))?;
        // A vector is one row here, and one column for whoever asks.
        let (rows, slice) = match tensor.shape.dims() {
            [_] => (1, &Slice { rows: 0..1, columns: slice.rows.clone() }),
            dims => (dims.iter().rev().skip(1).product(), slice),
        };
        let row_bytes = self.row_bytes(name, tensor)?;
        let past_the_end = || ModelError::malformed(self.path(), format!("tensor {name:?} reaches past the end"));
        let start = self.content.tensor_data_offset.checked_add(tensor.offset).and_then(|s| usize::try_from(s).ok());
        let span = start
            .and_then(|start| Some(start..start.checked_add(row_bytes.checked_mul(rows)?)?))
            .filter(|span| span.end <= self.file.bytes().len())
            .ok_or_else(past_the_end)?;
        // Whole blocks of the quantised type that hold the columns.
        let (block, block_bytes) = (tensor.ggml_dtype.block_size(), tensor.ggml_dtype.type_size());
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
                let chunk = qtensor_from_ggml(tensor.ggml_dtype, &bytes, vec![rows.len(), width], &Device::Cpu)?
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

#[cfg(test)]
pub(crate) mod tests {
    use candle_core::Tensor;
    use candle_core::quantized::{QTensor, gguf_file};

    use super::*;

    /// Writes a file with a small Llama's settings, changed by `extra`, and these tensors of ones.
    pub(crate) fn write(path: &Path, extra: &[(&str, Value)], tensors: &[(&str, &[usize])]) {
        let mut metadata = BTreeMap::from([
            ("general.architecture", Value::String("llama".into())),
            ("llama.attention.head_count", Value::U32(2)),
            ("llama.embedding_length", Value::U32(8)),
            ("llama.feed_forward_length", Value::U32(12)),
            ("llama.block_count", Value::U32(1)),
            ("llama.context_length", Value::U32(64)),
            ("llama.vocab_size", Value::U32(5)),
            ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        ]);
        metadata.extend(extra.iter().cloned());
        let metadata: Vec<_> = metadata.iter().map(|(name, value)| (*name, value)).collect();
        let quantise = |shape: &[usize]| {
            QTensor::quantize(&Tensor::ones(shape, candle_core::DType::F32, &Device::Cpu).unwrap(), GgmlDType::F32)
        };
        let tensors: Vec<_> = tensors.iter().map(|(name, shape)| (*name, quantise(shape).unwrap())).collect();
        let tensors: Vec<_> = tensors.iter().map(|(name, tensor)| (*name, tensor)).collect();
        gguf_file::write(&mut std::fs::File::create(path).unwrap(), &metadata, &tensors).unwrap();
    }

    fn refused(extra: &[(&str, Value)], tensors: &[(&str, &[usize])]) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("small.gguf");
        write(&path, extra, tensors);
        GgufFile::open(&path).and_then(|file| file.config()).unwrap_err().to_string()
    }

    #[test]
    fn settings_and_tensors_come_in_the_terms_of_transformers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("small.gguf");
        write(&path, &[("llama.rope.freq_base", Value::F32(1e5))], &[("blk.0.attn_q.weight", &[8, 8])]);
        let file = GgufFile::open(&path).unwrap();
        let config = file.config().unwrap();
        assert_eq!(config["head_dim"], 4);
        assert_eq!(config["num_key_value_heads"], 2);
        assert_eq!(config["rms_norm_eps"], 1e-5);
        assert_eq!(config["rope_theta"], 1e5);
        assert_eq!(file.names(), ["model.layers.0.self_attn.q_proj.weight"]);
        assert_eq!(file.read_all("model.layers.0.self_attn.q_proj.weight").unwrap(), [1.0; 64]);
        assert!(file.read_all("model.norm.weight").is_err());
    }

    #[test]
    fn what_would_change_the_numbers_is_refused() {
        let architecture = Value::String("gptj".into());
        assert!(refused(&[("general.architecture", architecture)], &[]).contains("\"gptj\"; known: llama"));
        assert!(refused(&[("llama.expert_count", Value::U32(8))], &[]).contains("llama.expert_count = 8"));
        assert!(refused(&[("llama.rope.dimension_count", Value::U32(2))], &[]).contains("expected 4"));
        assert!(refused(&[("llama.rope.scaling.type", Value::String("yarn".into()))], &[]).contains("yarn"));
        assert!(refused(&[("llama.block_count", Value::F32(1.0))], &[]).contains("expected a whole number"));
        assert!(refused(&[], &[("rope_freqs.weight", &[2])]).contains("rope_freqs.weight"));
    }

    #[test]
    fn interleaved_rows_come_back_in_halves() {
        // Two heads of dimension 4: the file has (0a 0b 1a 1b), with a and b the halves.
        let stored = [0.0, 10.0, 1.0, 11.0, 100.0, 110.0, 101.0, 111.0];
        let read: Vec<f64> = (0..8).map(|row| stored[interleaved(row, 4)]).collect();
        assert_eq!(read, [0.0, 1.0, 10.0, 11.0, 100.0, 101.0, 110.0, 111.0]);
    }

    #[test]
    fn names_translate_or_are_refused() {
        assert_eq!(standard_name("blk.3.ffn_up.weight").as_deref(), Some("model.layers.3.mlp.up_proj.weight"));
        assert_eq!(standard_name("blk.3.attn_q.bias"), None);
        assert_eq!(standard_name("rope_freqs.weight"), None);
    }
}
