use std::fs;

use std::ops::Range;

use super::*;
use crate::model::checkpoint::open_folder;
use crate::model::checkpoint::pytorch::tests::{Writer, archive};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// A fixture in NeMo's layout and its twin in that of transformers.
const TWINS: [(&str, &str); 4] = [
    ("nemotron-tp2", "nemotron-head-bias-bf16"),
    ("nemotron-tp8", "nemotron-head-bias-bf16"),
    ("nemotron-tp2.nemo", "nemotron-head-bias-bf16"),
    ("llama-tp4", "llama-head-bias-bf16"),
];

/// Cuts of a length: whole, and each part of a few degrees.
fn cuts(length: usize) -> Vec<Range<usize>> {
    let degrees = [1, 2, 3, 8];
    degrees.iter().flat_map(|n| (0..*n).map(move |i| length * i / n..length * (i + 1) / n)).collect()
}

#[test]
fn every_slice_of_every_tensor_is_that_of_the_twin() {
    for (nemo, twin) in TWINS {
        let nemo = NemoCheckpoint::open(&fixtures().join("nemo").join(nemo)).unwrap();
        let twin = open_folder(&fixtures().join("hf").join(twin)).unwrap();
        assert_eq!(nemo.names(), twin.names());
        for name in twin.names() {
            let info = twin.info(&name).unwrap();
            assert_eq!(nemo.info(&name).unwrap(), info, "{name}");
            let (rows, columns) = info.matrix();
            for rows in cuts(rows) {
                for columns in cuts(columns) {
                    let slice = Slice { rows: rows.clone(), columns };
                    assert_eq!(
                        nemo.read(&name, &slice).unwrap(),
                        twin.read(&name, &slice).unwrap(),
                        "{name} {slice:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_slice_reads_its_own_bytes_whatever_the_chunks() {
    for (nemo, _) in TWINS {
        let nemo = NemoCheckpoint::open(&fixtures().join("nemo").join(nemo)).unwrap();
        for name in nemo.names() {
            let (rows, columns) = nemo.info(&name).unwrap().matrix();
            let slice = Slice { rows: rows / 3..rows, columns: columns / 3..columns };
            let before = nemo.bytes_read();
            let values = nemo.read(&name, &slice).unwrap().len();
            assert_eq!(nemo.bytes_read() - before, 2 * values as u64, "{name}");
        }
    }
}

/// The arrays of a fixture in one file, as PyTorch writes them out of `torch_dist`.
fn in_one_file(folder: &Path) {
    let store = Store::folder(folder).unwrap();
    let names = store.names().filter_map(|name| name.strip_prefix("model_weights/")?.strip_suffix("/.zarray"));
    let mut storages = Vec::new();
    let mut pickle = Writer::new().op(b"}(");
    for name in names {
        let stacked = name.starts_with("model.decoder.layers.");
        let array = Weights::Zarr.open(&store, name, stacked).unwrap();
        let shape = array.matrix_shape().to_vec();
        let mut values = Vec::new();
        for matrix in 0..array.matrices() {
            let columns = 0..shape.get(1).copied().unwrap_or(1);
            array.read((&store, &Weights::Zarr), matrix, 0..shape[0], columns, &mut values).unwrap();
        }
        let shape = if stacked { [&[array.matrices()], &shape[..]].concat() } else { shape };
        let strides: Vec<usize> = (1..=shape.len()).map(|i| shape[i..].iter().product()).collect();
        let key = storages.len().to_string();
        pickle = pickle.text(name).tensor("FloatStorage", &key, values.len(), 0, &shape, &strides);
        storages.push((key, values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>()));
    }
    let storages: Vec<(&str, &[u8])> = storages.iter().map(|(key, bytes)| (key.as_str(), &bytes[..])).collect();
    fs::write(folder.join(WEIGHTS_FILE), archive(pickle.op(b"u").stop(), &storages)).unwrap();
    fs::remove_dir_all(folder.join(WEIGHTS)).unwrap();
}

#[test]
fn arrays_in_one_file_are_those_in_chunks() {
    for (fixture, twin) in [("nemotron-tp2", "nemotron-head-bias-bf16"), ("llama-tp4", "llama-head-bias-bf16")] {
        let folder = copy(fixture);
        in_one_file(folder.path());
        let nemo = NemoCheckpoint::open(folder.path()).unwrap();
        let twin = open_folder(&fixtures().join("hf").join(twin)).unwrap();
        assert_eq!(nemo.names(), twin.names());
        for name in twin.names() {
            let (rows, columns) = twin.info(&name).unwrap().matrix();
            for (rows, columns) in [(0..rows, 0..columns), (rows / 3..rows, columns / 3..columns)] {
                let slice = Slice { rows, columns };
                let before = nemo.bytes_read();
                assert_eq!(nemo.read(&name, &slice).unwrap(), twin.read(&name, &slice).unwrap(), "{name} {slice:?}");
                assert_eq!(nemo.bytes_read() - before, 4 * slice.len() as u64, "{name}");
            }
        }
        let paths = nemo.paths();
        assert!(paths.contains(&folder.path().join(WEIGHTS_FILE)), "{paths:?}");
    }
}

fn copy(fixture: &str) -> tempfile::TempDir {
    fn copy(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
            let (from, to) = (entry.path(), to.join(entry.file_name()));
            if from.is_dir() { copy(&from, &to) } else { fs::copy(from, to).map(drop).unwrap() }
        }
    }
    let folder = tempfile::tempdir().unwrap();
    copy(&fixtures().join("nemo").join(fixture), folder.path());
    folder
}

/// A copy of a fixture, with one of its files changed.
fn changed(fixture: &str, change: impl FnOnce(&Path)) -> Result<NemoCheckpoint, ModelError> {
    let folder = copy(fixture);
    change(folder.path());
    NemoCheckpoint::open(folder.path())
}

fn refused(fixture: &str, change: impl FnOnce(&Path)) -> String {
    changed(fixture, change).unwrap_err().to_string()
}

/// Replaces a text in a file.
fn replace(file: &'static str, from: &'static str, to: &'static str) -> impl FnOnce(&Path) {
    move |folder| {
        let path = folder.join(file);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{file} has no {from:?}");
        fs::write(path, text.replace(from, to)).unwrap();
    }
}

const QKV: &str = "model_weights/model.decoder.layers.self_attention.linear_qkv.weight";

#[test]
fn what_makes_tokens_and_rewards_is_known_or_refused() {
    for (from, to, says) in [
        ("sentencepiece_legacy: false", "sentencepiece_legacy: true", "tokenizer.sentencepiece_legacy = true"),
        ("  loss_mask_val: -100", "  clamp_attributes: 4", "regression.clamp_attributes = 4"),
        (
            "reward_model_type: regression",
            "reward_model_type: regression\nreward_standardization: {enable: true, mean: 1.0, std: 2.0}",
            "reward_standardization.enable = true",
        ),
        ("  vocab_file: null", "  num_sentinel_tokens: 100", "tokenizer.num_sentinel_tokens = 100"),
    ] {
        let message = refused("nemotron-tp2", replace("model_config.yaml", from, to));
        assert!(message.contains(says), "{message}");
    }
    assert!(changed("nemotron-tp2", replace("model_config.yaml", "vocab_file: null", "unheard_of: false")).is_ok());
}

#[test]
fn chunks_that_are_missing_or_short_are_named() {
    let missing = refused("nemotron-tp2", |folder| fs::remove_file(folder.join(QKV).join("1.1.0")).unwrap());
    assert!(missing.contains("linear_qkv.weight/1.1.0") && missing.contains("missing"), "{missing}");
    let short = refused("nemotron-tp2", |folder| {
        let path = folder.join(QKV).join("2.0.0");
        let bytes = fs::read(&path).unwrap();
        fs::write(path, &bytes[1..]).unwrap();
    });
    assert!(short.contains("linear_qkv.weight/2.0.0") && short.contains("bytes, expected"), "{short}");
}

#[test]
fn headers_that_lie_are_refused() {
    const HEADER: &str = "model_weights/model.decoder.layers.self_attention.linear_qkv.weight/.zarray";
    for (from, to, says) in [
        ("\"dtype\": \"bfloat16\"", "\"dtype\": \"<i4\"", "dtype is \"<i4\""),
        ("\"compressor\": null", "\"compressor\": {\"id\": \"blosc\"}", "compressor is"),
        ("\"filters\": null", "\"filters\": [{\"id\": \"delta\"}]", "filters is"),
        ("\"order\": \"C\"", "\"order\": \"F\"", "order is \"F\""),
        ("\"zarr_format\": 2", "\"zarr_format\": 3", "zarr_format is 3"),
        ("\"shape\": [", "\"shape\": [3, 3,", "expected a vector or matrix for each layer"),
        ("\"shape\": [\n        3", "\"shape\": [4611686018427387904", "more than memory"),
        ("\"shape\": [\n        3", "\"shape\": [-3", "expected usize"),
        ("\"shape\": [\n        3", "\"shape\": [4", "missing"),
        ("\"chunks\": [\n        1", "\"chunks\": [0", "sizes above 0"),
        ("\"chunks\": [\n        1", "\"chunks\": [3", "bytes, expected"),
        ("{", "[[[[[", ".zarray"),
    ] {
        let message = refused("nemotron-tp2", replace(HEADER, from, to));
        assert!(message.contains("linear_qkv.weight") && message.contains(says), "{to}: {message}");
    }
}

#[test]
fn other_formats_are_refused_with_what_to_do() {
    let torch_dist = replace("model_weights/metadata.json", "\"zarr\"", "\"torch_dist\"");
    assert!(refused("nemotron-tp2", torch_dist).contains("holds no .metadata"));
    let unsaid = refused("nemotron-tp2", |folder| {
        fs::remove_file(folder.join("model_weights/metadata.json")).unwrap();
        fs::write(folder.join("model_weights/__0_0.distcp"), "").unwrap();
    });
    assert!(unsaid.contains("format torch_dist"), "{unsaid}");
    let old = refused("nemotron-tp2", |folder| fs::write(folder.join("model_weights.ckpt"), "").unwrap());
    assert!(old.contains("convert_gpt_nemo_to_mcore.py"), "{old}");
    let unknown = refused("nemotron-tp2", |folder| {
        let array = folder.join("model_weights/model.decoder.layers.self_attention.q_layernorm.weight");
        fs::create_dir(&array).unwrap();
        fs::write(array.join(".zarray"), "{}").unwrap();
    });
    assert!(unknown.contains("q_layernorm.weight") && unknown.contains("NemotronFor"), "{unknown}");
}

#[test]
fn the_configuration_comes_in_the_terms_of_transformers() {
    let open = |name: &str| NemoCheckpoint::open(&fixtures().join("nemo").join(name)).unwrap();
    let nemotron = open("nemotron-tp8");
    let value = nemotron.config();
    for (field, expected) in [
        ("architectures", serde_json::json!(["NemotronForSequenceClassification"])),
        ("hidden_act", "relu2".into()),
        ("head_dim", 8.into()),
        ("num_key_value_heads", 8.into()),
        ("partial_rotary_factor", 0.5.into()),
        ("max_position_embeddings", 256.into()),
        ("vocab_size", 480.into()),
        ("num_labels", 9.into()),
        ("attention_bias", false.into()),
        ("rope_scaling", Value::Null),
    ] {
        assert_eq!(value[field], expected, "{field}");
    }
    let llama = open("llama-tp4");
    let value = llama.config();
    assert_eq!(value["architectures"][0], "LlamaForSequenceClassification");
    assert_eq!(value["rms_norm_eps"], 1e-5);
    assert_eq!(value["rope_scaling"]["rope_type"], "llama3");
    assert_eq!(value["rope_scaling"]["original_max_position_embeddings"], 8192.0);
    assert!(llama.tokenizer_model().unwrap().is_none());
    let (path, bytes) = nemotron.tokenizer_model().unwrap().unwrap();
    assert!(path.ends_with("29e0db5f7dd14bcf9f32727ff482502b_nemotron_2_256k.model") && !bytes.is_empty());
}

#[test]
fn what_would_change_the_numbers_is_refused_by_name() {
    for (from, to, says) in [
        ("activation: squared-relu", "activation: gelu", "activation = \"gelu\""),
        ("normalization: layernorm1p", "normalization: rmsnorm", "normalization = \"rmsnorm\""),
        ("position_embedding_type: rope", "position_embedding_type: alibi", "position_embedding_type = \"alibi\""),
        ("position_embedding_type: rope", "position_embedding_typo: rope", "position_embedding_type = null"),
        ("transformer_block_type: pre_ln", "transformer_block_type: normformer", "normformer"),
        ("use_avg_pool: false", "use_avg_pool: true", "use_avg_pool = true"),
        ("output_sequence: false", "output_sequence: true", "output_sequence = true"),
        ("headscale: false", "headscale: false\nnum_moe_experts: 8", "num_moe_experts = 8"),
        ("headscale: false", "headscale: false\nname: megatron_gemma2", "name = \"megatron_gemma2\""),
        ("num_query_groups: 8", "num_query_groups: 3", "cannot share 3"),
        ("kv_channels: 8", "kv_channels: 6", "by the configuration"),
        ("num_layers: 3", "num_layers: 2", "expected [2, "),
        ("num_attributes: 9", "num_attributes: 5", "expected [5"),
        ("hidden_size: 24", "hidden_size: many", "hidden_size"),
        ("bias: false\n", "bias: false\nqkv_bias: true\n", "qkv_bias = true"),
        ("fp8: false", "fp8: false\nattn_logit_softcapping: 30.0", "attn_logit_softcapping = 30.0"),
    ] {
        let message = refused("nemotron-tp2", replace(CONFIG, from, to));
        assert!(message.contains(CONFIG) || message.contains("model_weights/"), "{to}: {message}");
        assert!(message.contains(says), "{to}: {message}");
    }
    // Harmless ones are not.
    assert!(
        changed(
            "nemotron-tp2",
            replace(
                CONFIG,
                "fp8: false",
                "fp8: true\nseed: ${model.other}\nattn_logit_softcapping: null\nmoe_router_topk: 2"
            )
        )
        .is_ok()
    );
}

#[test]
fn references_within_the_configuration_are_followed() {
    let context = replace(CONFIG, "max_position_embeddings: 256", "max_position_embeddings: ${.encoder_seq_length}");
    assert_eq!(changed("nemotron-tp2", context).unwrap().config()["max_position_embeddings"], 256);
    let odd = replace(CONFIG, "max_position_embeddings: 256", "max_position_embeddings: ${multiply:2,3}");
    assert!(refused("nemotron-tp2", odd).contains("max_position_embeddings"));
}

#[test]
fn bombs_of_aliases_and_nesting_are_refused() {
    let levels = (1..30).map(|i| format!("a{i}: &a{i} [*a{0},*a{0},*a{0},*a{0},*a{0},*a{0},*a{0},*a{0}]\n", i - 1));
    let bomb: String = std::iter::once("a0: &a0 x\n".to_owned()).chain(levels).collect();
    for yaml in [bomb, "[".repeat(100_000), "a: ".repeat(100_000), "- ".repeat(100_000), "&a [*a]".into(), "\0".into()]
    {
        let message = refused("nemotron-tp2", |folder| fs::write(folder.join(CONFIG), &yaml).unwrap());
        assert!(message.contains(CONFIG), "{message}");
    }
}

#[test]
fn different_tokenizers_without_a_choice_are_refused() {
    let other = refused("llama-tp4", |folder| {
        fs::write(folder.join("a.model"), "one").unwrap();
        fs::write(folder.join("b.model"), "two").unwrap();
    });
    assert!(other.contains("a.model, b.model"), "{other}");
}

/// Replaces bytes in a file by as many others, wherever they are.
fn patch(file: &'static str, from: &'static [u8], to: &'static [u8]) -> impl FnOnce(&Path) {
    move |folder| {
        assert_eq!(from.len(), to.len());
        let path = folder.join(file);
        let mut bytes = fs::read(&path).unwrap();
        let places: Vec<_> = (0..bytes.len() - from.len()).filter(|&at| bytes[at..].starts_with(from)).collect();
        assert!(!places.is_empty(), "{file} has no {from:?}");
        for at in places {
            bytes[at..at + to.len()].copy_from_slice(to);
        }
        fs::write(path, bytes).unwrap();
    }
}

#[test]
fn descriptions_of_distributed_checkpoints_that_lie_are_refused() {
    const METADATA: &str = "weights/.metadata";
    for (from, to, says) in [
        (&b"__1_0.distcp"[..], &b"__7_0.distcp"[..], "holds no weights/__7_0.distcp"),
        (b"__1_0.distcp", b"../0.distcp!", "which is no file's name"),
        (b"_StorageInfo", b"_StorageDeed", "_StorageDeed"),
        (b"bfloat16", b"complex6", "torch.complex6"),
        (b"storage_data", b"storage_date", "no storage_data"),
        (b"\x8c\x06chunks", b"\x8c\x06chinks", "no chunks"),
        (b"final_layernorm", b"final_layernorn", "array \"model.decoder.final_layernorn.weight\""),
    ] {
        let message = refused("llama-nemo2", patch(METADATA, from, to));
        assert!(message.contains("weights/") && message.contains(says), "{message}");
    }
    let cut = refused("llama-nemo2", |folder| {
        let path = folder.join("weights/__0_0.distcp");
        let bytes = fs::read(&path).unwrap();
        fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
    });
    assert!(cut.contains("__0_0.distcp") && cut.contains("bytes at"), "{cut}");
}

/// Rectangles that leave a place of the array open, or lie on one another, which a description can say of good items.
#[test]
fn chunks_fill_their_array_once() {
    use super::chunked::{Chunk, ChunkedArray};
    use crate::model::compute::dtype::Precision;

    let folder = copy("llama-nemo2");
    let store = Store::folder(folder.path()).unwrap();
    let weights = TorchDist::open(&store, "weights").unwrap();
    let [head, shape] = ["model.rm_head.bias"; 2];
    let (file, place) = weights.place(head).unwrap();
    let rows = weights.shape(shape).unwrap()[0];
    let chunk = |offset| {
        let file = format!("weights/{file}");
        Chunk::open(&store, file, place, ([0, offset, 0], [1, rows, 1]), Precision::Bf16).unwrap()
    };
    let array = |chunks, rows| ChunkedArray::new([1, rows, 1], 1, Precision::Bf16, chunks).map(drop).unwrap_err();
    assert!(ChunkedArray::new([1, 2 * rows, 1], 1, Precision::Bf16, vec![chunk(rows), chunk(0)]).is_ok());
    assert!(array(vec![chunk(0)], 2 * rows).contains("values together"));
    assert!(array(vec![chunk(0), chunk(1)], 2 * rows).contains("overlap"));
    assert!(array(vec![chunk(0), chunk(rows + 1)], 2 * rows).contains("beyond its shape"));
    assert!(array(vec![chunk(usize::MAX)], rows).contains("beyond its shape"));
}
