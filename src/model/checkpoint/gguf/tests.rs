//! Small files that are written here.

use candle_core::Tensor;
use candle_core::quantized::gguf_file::Value;
use candle_core::quantized::{QTensor, gguf_file};
use serde_json::json;

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

/// A small file of another family: the keys of Llama under its name.
fn of_family(family: &str, extra: &[(&str, Value)], tensors: &[(&str, &[usize])]) -> Result<GgufFile, ModelError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("small.gguf");
    let keys = [
        ("attention.head_count", Value::U32(2)),
        ("embedding_length", Value::U32(8)),
        ("feed_forward_length", Value::U32(12)),
        ("block_count", Value::U32(1)),
        ("context_length", Value::U32(64)),
        ("vocab_size", Value::U32(5)),
        ("attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
    ];
    let names: Vec<_> = keys.iter().map(|(name, _)| format!("{family}.{name}")).collect();
    let named = names.iter().map(String::as_str).zip(keys.iter().map(|(_, value)| value.clone()));
    let extra: Vec<_> =
        named.chain([("general.architecture", Value::String(family.into()))]).chain(extra.iter().cloned()).collect();
    write(&path, &extra, tensors);
    GgufFile::open(&path)
}

#[test]
fn gemma_is_said_with_llama_cpps_constants() {
    let window = ("gemma3.attention.sliding_window", Value::U32(16));
    let file = of_family("gemma3", &[window], &[("output_norm.weight", &[8]), ("token_embd.weight", &[5, 8])]).unwrap();
    let config = file.config().unwrap();
    for (field, expected) in [
        ("hidden_activation", json!("gelu_pytorch_tanh")),
        ("query_pre_attn_scalar", json!(4)),
        ("sliding_window", json!(16)),
        ("sliding_window_pattern", json!(6)),
        ("rope_local_base_freq", json!(10_000.0)),
        ("tie_word_embeddings", json!(true)),
    ] {
        assert_eq!(config[field], expected, "{field}");
    }
    // What is stored has the 1 that the layer adds; a matrix has none.
    assert_eq!(file.read_all("model.norm.weight").unwrap(), [0.0; 8]);
    assert_eq!(file.read_all("model.embed_tokens.weight").unwrap(), [1.0; 40]);
    let capped =
        of_family("gemma2", &[("gemma2.attn_logit_softcapping", Value::F32(20.0))], &[]).unwrap().config().unwrap();
    assert_eq!((&capped["attn_logit_softcapping"], &capped["final_logit_softcapping"]), (&json!(20.0), &json!(30.0)));
    assert_eq!(capped["sliding_window"], 4096, "llama.cpp's default");
    for (family, key, value) in [
        ("gemma2", "attention.alibi_bias", Value::F32(2.0)),
        // Each is the other's.
        ("gemma2", "attention.sliding_window_pattern", Value::U32(3)),
        ("gemma2", "rope.freq_base_swa", Value::F32(5000.0)),
        ("gemma3", "attn_logit_softcapping", Value::F32(50.0)),
    ] {
        let other = of_family(family, &[(&format!("{family}.{key}"), value)], &[]).unwrap();
        assert!(other.config().unwrap_err().to_string().contains(key), "{family}.{key}");
    }
}

#[test]
fn long_rope_is_two_lists_and_the_magnitude_of_its_contexts() {
    let keys = |magnitude: f32| {
        [
            ("phi3.rope.dimension_count", Value::U32(2)),
            ("phi3.rope.scaling.original_context_length", Value::U32(16)),
            ("phi3.rope.scaling.attn_factor", Value::F32(magnitude)),
        ]
    };
    let lists: [(&str, &[usize]); 2] = [("rope_factors_long.weight", &[1]), ("rope_factors_short.weight", &[1])];
    // 1 + ln(64 / 16) / ln(16) is 1.5.
    let file = of_family("phi3", &keys(1.5_f32.sqrt()), &lists).unwrap();
    let config = file.config().unwrap();
    let rope = json!({"rope_type": "longrope", "long_factor": [1.0], "short_factor": [1.0]});
    assert_eq!((&config["rope_scaling"], &config["partial_rotary_factor"]), (&rope, &json!(0.5)));
    assert_eq!(config["original_max_position_embeddings"], 16);
    let refused = |magnitude: f32, lists: &[(&str, &[usize])]| {
        of_family("phi3", &keys(magnitude), lists).and_then(|file| file.config()).unwrap_err().to_string()
    };
    assert!(refused(2.0, &lists).contains("attn_factor"));
    let longer: [(&str, &[usize]); 2] = [("rope_factors_long.weight", &[2]), ("rope_factors_short.weight", &[1])];
    assert!(refused(1.5_f32.sqrt(), &longer).contains("rope_factors_long.weight"));
    assert!(refused(1.5_f32.sqrt(), &lists[..1]).contains("one list"));
    assert!(refused(1.5_f32.sqrt(), &[]).contains("attn_factor"));
    assert!(of_family("phi3", &keys(1.0), &[]).and_then(|file| file.config()).is_ok());
}
