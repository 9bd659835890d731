//! Files of every format, cut short and with bits turned.

use std::fs;

use super::{Copy, attempt, fixture};

/// Loads what becomes of a file cut at every kind of place, and with bits turned all over a part of it.
fn spoil(fixture_name: &str, model: &str, file: &str, header: usize) {
    let copy = Copy::of(fixture_name);
    let path = copy.path().join(model);
    let whole = copy.read(file);
    let header = header.min(whole.len());
    let lengths =
        [0, 1, 4, 7, 8, 9, 16, header / 2, header.saturating_sub(1), header, whole.len() / 2, whole.len() - 1];
    for length in lengths.into_iter().filter(|&length| length < whole.len()) {
        copy.write(file, &whole[..length]);
        let what = format!("{file} of {fixture_name} cut to {length} bytes");
        let message = attempt(&path, &what);
        // Text that ends early may say no less; numbers that are gone are missed.
        let text = [".json", ".yaml", ".zarray"].iter().any(|end| file.ends_with(end));
        assert!(text || file.ends_with(".model") || message.is_some(), "{what}: it was loaded");
    }
    let step = (header / 48).max(1);
    for (turn, at) in (0..header).step_by(step).enumerate() {
        let mut bytes = whole.clone();
        bytes[at] ^= [0x01, 0x80, 0xff, 0x10][turn % 4];
        copy.write(file, &bytes);
        if let Some(message) = attempt(&path, &format!("{file} of {fixture_name} with byte {at} changed")) {
            assert!(!message.is_empty());
        }
    }
}

#[test]
fn spoilt_safetensors() {
    spoil("hf/bf16-single", "", "model.safetensors", 2000);
}

#[test]
fn spoilt_shards() {
    spoil("hf/llama3-sharded", "", "model.safetensors.index.json", usize::MAX);
}

#[test]
fn spoilt_configurations() {
    spoil("hf/bf16-single", "", "config.json", usize::MAX);
    spoil("nemo/llama-tp4", "", "model_config.yaml", usize::MAX);
    spoil("adapter/llama", "", "adapter_config.json", usize::MAX);
}

#[test]
fn spoilt_pytorch_files() {
    // The pickle stands in front, the directory at the end.
    spoil("bin/llama-f32", "", "pytorch_model.bin", 6000);
    let copy = Copy::of("bin/llama-f32");
    let whole = copy.read("pytorch_model.bin");
    for at in (whole.len() - 3000..whole.len()).step_by(41) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0xff;
        copy.write("pytorch_model.bin", &bytes);
        attempt(copy.path(), &format!("pytorch_model.bin with byte {at} changed"));
    }
}

#[test]
fn spoilt_nemo_folders_and_tar_files() {
    let qkv = "model_weights/model.decoder.layers.self_attention.linear_qkv.weight";
    spoil("nemo/llama-tp4", "", &format!("{qkv}/.zarray"), usize::MAX);
    spoil("nemo/llama-tp4", "", &format!("{qkv}/0.0.0"), 8);
    let copy = Copy::of("nemo/llama-tp4");
    fs::copy(fixture("nemo/nemotron-tp2.nemo"), copy.path().join("model.nemo")).unwrap();
    let whole = copy.read("model.nemo");
    let path = copy.path().join("model.nemo");
    for length in [0, 1, 511, 512, 513, 1024, whole.len() / 3, whole.len() / 2] {
        copy.write("model.nemo", &whole[..length]);
        assert!(attempt(&path, &format!("model.nemo cut to {length} bytes")).is_some());
    }
    for at in (0..20_000).step_by(257).chain((20_000..whole.len()).step_by(4_099)) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0xff;
        copy.write("model.nemo", &bytes);
        attempt(&path, &format!("model.nemo with byte {at} changed"));
    }
}

#[test]
fn spoilt_distributed_checkpoints() {
    spoil("nemo/llama-nemo2", "", "weights/.metadata", usize::MAX);
    spoil("nemo/llama-nemo2", "", "context/model.yaml", usize::MAX);
    // The first item is a tensor's archive: its pickle stands in front.
    spoil("nemo/llama-nemo2", "", "weights/__0_0.distcp", 1200);
}

/// Every kind of quantised tensor; the header stands in front, in it the options of those that have a file of their own.
#[test]
fn spoilt_quantised_checkpoints() {
    let folders = fs::read_dir(fixture("quantized")).unwrap().map(|entry| entry.unwrap().file_name());
    for name in folders.map(|name| format!("quantized/{}", name.to_str().unwrap())) {
        spoil(&name, "", "model.safetensors", 4000);
    }
    for name in ["ct-mixed", "gptq-4-order", "awq", "bnb-nf4-double", "fp8-block"] {
        spoil(&format!("quantized/{name}"), "", "config.json", usize::MAX);
    }
    spoil("quantized/modelopt-fp8", "", "hf_quant_config.json", usize::MAX);
}

#[test]
fn spoilt_gguf_files() {
    let copy = Copy::of("gguf/llama-q8_0");
    copy.write(
        "reward-model.toml",
        "name = 'm'\nattributes = ['a']\n[base]\npath = 'model.gguf'\n[head]\nfile = 'head.safetensors'\n",
    );
    let whole = copy.read("model.gguf");
    for length in [0, 1, 4, 8, 16, 24, 100, 1000, whole.len() / 2, whole.len() - 1] {
        copy.write("model.gguf", &whole[..length]);
        assert!(attempt(copy.path(), &format!("model.gguf cut to {length} bytes")).is_some());
    }
    for at in (0..2500).step_by(29) {
        let mut bytes = whole.clone();
        bytes[at] ^= [0xff, 0x01, 0x80][at % 3];
        copy.write("model.gguf", &bytes);
        attempt(copy.path(), &format!("model.gguf with byte {at} changed"));
    }
}

/// Families of which more is read than of Llama.
#[test]
fn spoilt_gguf_files_of_other_families() {
    for name in ["gguf/classifier-gemma3", "gguf/classifier-phi3"] {
        let copy = Copy::of(name);
        let (file, whole) = (copy.path().join("model.gguf"), copy.read("model.gguf"));
        for length in [40, 200, 800, whole.len() / 2, whole.len() - 1] {
            copy.write("model.gguf", &whole[..length]);
            assert!(attempt(&file, &format!("{name} cut to {length} bytes")).is_some());
        }
        for at in (24..1800).step_by(37) {
            let mut bytes = whole.clone();
            bytes[at] ^= [0xff, 0x01, 0x80][at % 3];
            copy.write("model.gguf", &bytes);
            attempt(&file, &format!("{name} with byte {at} changed"));
        }
    }
}

#[test]
fn spoilt_tokenizers() {
    let copy = Copy::of("hf/bf16-single");
    for name in ["bpe", "unigram"] {
        let whole = fs::read(fixture("tokenizer").join(name).join("tokenizer.model")).unwrap();
        for at in (0..whole.len()).step_by(whole.len() / 40) {
            copy.write("tokenizer.model", &whole[..at]);
            attempt(copy.path(), &format!("tokenizer.model of {name} cut to {at} bytes"));
            let mut bytes = whole.clone();
            bytes[at] ^= 0xff;
            copy.write("tokenizer.model", &bytes);
            attempt(copy.path(), &format!("tokenizer.model of {name} with byte {at} changed"));
        }
    }
}

#[test]
fn spoilt_adapters() {
    spoil("adapter/llama", "", "adapter_model.safetensors", 1500);
    spoil("adapter/qwen3-rslora-bin", "", "adapter_model.bin", 3000);
}
