//! Small files that are written here.

use candle_core::Tensor;
use candle_core::quantized::gguf_file::Value;
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
    assert!(refused(&[("general.architecture", architecture)], &[]).contains("architecture \"gptj\""));
    assert!(refused(&[("llama.expert_count", Value::U32(8))], &[]).contains("llama.expert_count = 8"));
    assert!(refused(&[("llama.rope.dimension_count", Value::U32(2))], &[]).contains("expected 4"));
    for kind in ["yarn", "longrope"] {
        assert!(refused(&[("llama.rope.scaling.type", Value::String(kind.into()))], &[]).contains(kind));
    }
    assert!(
        refused(&[("llama.rope.scaling.yarn_log_multiplier", Value::F32(0.1))], &[]).contains("yarn_log_multiplier")
    );
    assert!(refused(&[("llama.rope.scaling.factor", Value::F32(-2.0))], &[]).contains("rope.scaling.factor = -2"));
    assert!(refused(&[], &[("cls.weight", &[8, 8])]).contains("\"cls.weight\" = present"));
    assert!(refused(&[("llama.block_count", Value::F32(1.0))], &[]).contains("expected a whole number"));
    assert!(refused(&[], &[("rope_freqs.weight", &[3])]).contains("expected [2]"));
    assert!(refused(&[("llama.attention.sliding_window", Value::U32(9))], &[]).contains("sliding_window = 9"));
}

#[test]
fn interleaved_rows_come_back_in_halves() {
    // Two heads of dimension 4: the file has (0a 0b 1a 1b), with a and b the halves.
    let stored = [0.0, 10.0, 1.0, 11.0, 100.0, 110.0, 101.0, 111.0];
    let read: Vec<f64> = (0..8).map(|row| stored[interleaved(row, 4)]).collect();
    assert_eq!(read, [0.0, 1.0, 10.0, 11.0, 100.0, 101.0, 110.0, 111.0]);
}

#[test]
fn other_architectures_keep_their_rows() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("small.gguf");
    let keys = ["attention.head_count", "embedding_length", "feed_forward_length", "block_count", "context_length"];
    let mut fields: Vec<(String, Value)> = keys.iter().map(|key| (format!("qwen2.{key}"), Value::U32(2))).collect();
    fields.push(("qwen2.attention.layer_norm_rms_epsilon".into(), Value::F32(1e-6)));
    fields.push(("general.architecture".into(), Value::String("qwen2".into())));
    let fields: Vec<_> = fields.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
    write(&path, &fields, &[("blk.0.attn_q.weight", &[2, 2]), ("blk.0.attn_q.bias", &[2])]);
    let file = GgufFile::open(&path).unwrap();
    assert_eq!(file.config().unwrap()["architectures"][0], "Qwen2ForCausalLM");
    assert_eq!(file.names(), ["model.layers.0.self_attn.q_proj.bias", "model.layers.0.self_attn.q_proj.weight"]);
    assert_eq!(file.interleaved_head_dim("model.layers.0.self_attn.q_proj.weight", 2).unwrap(), None);
}
