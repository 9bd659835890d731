//! The fixtures' matrices against what each format's own package makes of the same tensors.
//!
//! They come from `tools/fixtures/quantized.py`; `weights` in `reference.json` has a digest of every matrix.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use ::safetensors::tensor::TensorView;
use ::safetensors::{Dtype, SafeTensors, serialize_to_file};
use sha2::{Digest, Sha256};

use super::*;
use crate::model::checkpoint::{Slice, open_folder};

#[derive(serde::Deserialize)]
struct Reference {
    weights: BTreeMap<String, String>,
}

/// Folders of all fixtures.
fn folders() -> Vec<PathBuf> {
    let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/quantized");
    let folders: Vec<_> = fs::read_dir(all).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(folders.len() >= 20);
    folders
}

fn open_fixture(folder: &Path) -> Box<dyn WeightSource> {
    let config = folder.join("config.json");
    let mut settings = Settings::new(&config, read_json(&config).unwrap()).unwrap();
    open(folder, &mut settings, Box::new(open_folder(folder).unwrap())).unwrap_or_else(|e| panic!("{e}")).0
}

#[test]
fn matrices_are_those_of_each_formats_own_package_to_the_last_bit() {
    for folder in folders() {
        let weights = open_fixture(&folder);
        let reference: Reference = read_json(&folder.join("reference.json")).unwrap();
        assert_eq!(reference.weights.len(), 14);
        for (name, expected) in reference.weights {
            let values = weights.read_all(&name).unwrap();
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            let found: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(found, expected, "{}: {name}", folder.display());
        }
    }
}

#[test]
fn a_slice_is_a_part_of_the_whole() {
    for folder in folders() {
        let weights = open_fixture(&folder);
        let name = "model.layers.1.mlp.down_proj.weight";
        let (rows, columns) = weights.info(name).unwrap().matrix();
        let whole = weights.read_all(name).unwrap();
        for (top, bottom, left, right) in
            [(0, rows, 0, columns), (3, 17, 5, 6), (8, 16, 32, 64), (31, 32, 0, columns), (1, 30, 7, 57), (4, 4, 0, 9)]
        {
            let slice = Slice { rows: top..bottom, columns: left..right };
            let part = weights.read(name, &slice).unwrap();
            let expected: Vec<f32> =
                (top..bottom).flat_map(|row| &whole[row * columns + left..row * columns + right]).copied().collect();
            assert_eq!(part, expected, "{}: {slice:?}", folder.display());
        }
    }
}

/// Half of the inputs or outputs of a matrix are half of its bytes, but for what a whole word or block shares.
#[test]
fn a_slice_takes_no_more_bytes_than_it_needs() {
    for folder in folders() {
        let name = "model.layers.0.mlp.down_proj.weight";
        let taken = |slice: fn(usize, usize) -> Slice| {
            let weights = open_fixture(&folder);
            let (rows, columns) = weights.info(name).unwrap().matrix();
            let before = weights.bytes_read();
            weights.read(name, &slice(rows, columns)).unwrap();
            weights.bytes_read() - before
        };
        let whole = taken(|rows, columns| Slice { rows: 0..rows, columns: 0..columns });
        let outputs = taken(|rows, columns| Slice { rows: 0..rows / 2, columns: 0..columns });
        let inputs = taken(|rows, columns| Slice { rows: 0..rows, columns: 0..columns / 2 });
        // Scales and zeros that are shared by both halves: at most one for each of 32 outputs, of four bytes, twice.
        let shared = 2 * 4 * 32;
        for half in [outputs, inputs] {
            assert!(half <= whole / 2 + shared, "{}: {half} of {whole}", folder.display());
        }
    }
}

/// The tensors that make a weight are seen no more, nor those about activations.
#[test]
fn names_are_those_of_plain_weights() {
    for folder in folders() {
        let names = open_fixture(&folder).names();
        assert!(names.iter().all(|name| name.ends_with(".weight")), "{}: {names:?}", folder.display());
        assert_eq!(names.len(), 14 + 4 + 3, "{}", folder.display());
    }
}

/// What a configuration is told.
fn refused(options: Value) -> String {
    let settings = Settings::new(Path::new("config.json"), json!({ FIELD: options })).unwrap();
    read(&settings).err().expect("it was to be refused").to_string()
}

#[test]
fn what_is_not_known_is_refused_by_name() {
    for (options, says) in [
        (json!({"quant_method": "higgs"}), "quantization_config.quant_method = \"higgs\""),
        (json!({}), "quantization_config.quant_method = null"),
        (json!([1]), "quantization_config = [1]"),
        (json!({"quant_method": "gptq", "bits": 5}), "quantization_config.bits = 5"),
        (json!({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}), "checkpoint_format = \"marlin\""),
        (
            json!({"quant_method": "gptq", "bits": 4, "dynamic": {"+:.*up.*": {"bits": 8}}}),
            "quantization_config.dynamic",
        ),
        (json!({"quant_method": "gptq", "bits": 4, "rotate": "hadamard"}), "quantization_config.rotate"),
        (json!({"quant_method": "gptq", "bits": 4, "group_size": 0}), "group_size"),
        (json!({"quant_method": "awq", "bits": 4, "version": "gemv"}), "quantization_config.version = \"gemv\""),
        (json!({"quant_method": "awq", "bits": 4, "zero_point": false}), "zero_point = false"),
        (json!({"quant_method": "fp8", "fmt": "e5m2"}), "quantization_config.fmt = \"e5m2\""),
        (json!({"quant_method": "fp8", "weight_block_size": [0, 128]}), "weight_block_size = [0,128]"),
        (json!({"quant_method": "modelopt", "quant_algo": "NVFP4"}), "quant_algo = \"NVFP4\""),
        (json!({"quant_method": "bitsandbytes"}), "load_in_4bit = null"),
        (json!({"load_in_4bit": true, "bnb_4bit_quant_type": "af4"}), "bnb_4bit_quant_type = \"af4\""),
        (
            json!({"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized", "config_groups": {}}),
            "format = \"nvfp4-pack-quantized\"",
        ),
        (json!({"quant_method": "compressed-tensors", "config_groups": {}}), "config_groups = {}"),
        (
            json!({"quant_method": "compressed-tensors", "config_groups": {"a": {"weights": {"num_bits": 3}}}}),
            "config_groups.a.weights.num_bits = 3",
        ),
        (
            json!({"quant_method": "compressed-tensors", "transform_config": {"r": 1},
                   "config_groups": {"a": {"weights": {"num_bits": 8}}}}),
            "quantization_config.transform_config",
        ),
    ] {
        let message = refused(options);
        assert!(message.contains(says), "{says}: {message}");
    }
}

/// A tensor as it lies in a file: its type, shape and bytes.
type Stored<'a> = (Dtype, &'a [usize], &'a [u8]);

/// A fixture's tensors, some of them changed: `None` takes one out.
fn changed(name: &str, changes: &[(&str, Option<Stored>)]) -> String {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/quantized").join(name);
    let folder = tempfile::tempdir().unwrap();
    fs::copy(from.join("config.json"), folder.path().join("config.json")).unwrap();
    let bytes = fs::read(from.join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let mut views: BTreeMap<String, TensorView> = tensors.tensors().into_iter().collect();
    for (part, change) in changes {
        let name = format!("model.layers.1.mlp.up_proj.{part}");
        views.remove(&name);
        if let Some((dtype, shape, bytes)) = change {
            views.insert(name, TensorView::new(*dtype, shape.to_vec(), bytes).unwrap());
        }
    }
    serialize_to_file(views, None, &folder.path().join("model.safetensors")).unwrap();
    let config = folder.path().join("config.json");
    let mut settings = Settings::new(&config, read_json(&config).unwrap()).unwrap();
    let opened = open(folder.path(), &mut settings, Box::new(open_folder(folder.path()).unwrap()));
    let message = opened.err().unwrap_or_else(|| panic!("{name} was opened with {changes:?}")).to_string();
    assert!(message.contains("model.safetensors") && message.contains("mlp.up_proj"), "{message}");
    message
}

#[test]
fn tensors_that_lie_are_refused_with_file_and_reason() {
    let words = |count: usize| vec![0u8; 4 * count];
    let indices: Vec<u8> = (0..32i32).flat_map(|i| (i - 20).to_le_bytes()).collect();
    let (few, big): (Vec<u8>, Vec<u8>) = (words(2), [1i64 << 40, 32].iter().flat_map(|n| n.to_le_bytes()).collect());
    let state = br#"{"quant_type": "nf4", "blocksize": 63, "dtype": "bfloat16", "shape": [64, 32]}"#;
    let (f32s, i32s) = (Dtype::F32, Dtype::I32);
    for (name, part, change, says) in [
        ("gptq-4-order", "qzeros", None, "no tensor"),
        ("gptq-4-order", "qzeros", Some((i32s, &[1, 2][..], &few[..])), "has shape [1, 2], expected [2, 8]"),
        ("gptq-4-order", "scales", Some((f32s, &[1, 2], &few)), "expected 2 by 64 scales"),
        ("gptq-4-order", "g_idx", Some((i32s, &[32], &indices)), "puts input 0 into group -20 of 2"),
        ("gptq-4-order", "g_idx", Some((i32s, &[2], &few)), "names groups of 2 inputs, expected 32"),
        ("gptq-3-order", "qweight", Some((i32s, &[1, 2], &few)), "no whole number of 3 bits"),
        ("gptq-8", "qweight", Some((i32s, &[0, 2], &[])), "expected rows and columns"),
        ("awq", "qweight", Some((f32s, &[1, 2], &few)), "has type F32, expected one of [I32]"),
        ("awq", "scales", None, "no tensor"),
        ("fp8-block", "weight", Some((f32s, &[1, 2], &few)), "has type F32, expected one of [F8E4M3]"),
        ("fp8-block", "weight_scale_inv", Some((f32s, &[2], &few)), "expected 4 by 1 scales"),
        ("ct-int4-group", "weight_shape", Some((Dtype::I64, &[2], &big)), "expected outputs and inputs"),
        ("ct-int4-group", "weight_packed", Some((i32s, &[1, 2], &few)), "has shape [1, 2], expected [64, 4]"),
        ("ct-int4-order", "weight_g_idx", None, "weight_g_idx"),
        ("ct-int8-zeros", "weight_zero_point", None, "no tensor"),
        ("ct-mixed", "weight_scale", Some((f32s, &[2], &few)), "scales"),
        ("bnb-int8", "weight_format", Some((Dtype::U8, &[], &[2])), "row by row"),
        (
            "bnb-nf4-double",
            "weight.quant_state.bitsandbytes__nf4",
            Some((Dtype::U8, &[78], state)),
            "says blocksize 63",
        ),
        ("bnb-nf4-double", "weight.quant_state.bitsandbytes__nf4", Some((Dtype::U8, &[1], b"{")), "is EOF"),
        ("bnb-nf4-double", "weight.nested_quant_map", Some((f32s, &[2], &few)), "expected [256]"),
        ("bnb-nf4-double", "weight.quant_map", Some((f32s, &[16], &words(16))), "is [0.0"),
        ("bnb-fp4", "weight", Some((Dtype::U8, &[2, 1], &[0, 0])), "expected one column with the 4-bit codes"),
        ("bnb-fp4", "weight.absmax", Some((f32s, &[2], &few)), "has shape [2], expected [32]"),
    ] {
        let message = changed(name, &[(part, change)]);
        assert!(message.contains(says), "{name}, {part}: {message}");
    }
}
