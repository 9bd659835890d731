//! What the fuzz targets in `fuzz/` call: each takes bytes for a file, opens it, and reads all that can be read. Nothing
//! may panic, and nothing may ask for more memory than the bytes could hold.

use std::collections::BTreeMap;
use std::path::Path;

use crate::model::checkpoint::{
    GgufFile, MappedFile, NemoCheckpoint, PytorchFile, SafetensorsFile, Slice, WeightSource, peft, quantized,
};
use crate::model::text::sentencepiece::hub::{self, Prefix, Spaces};
use crate::model::text::{self, sentencepiece};

fn file(bytes: &[u8]) -> MappedFile {
    MappedFile::owned("fuzzed".into(), bytes.to_vec())
}

/// Every tensor whole, and a part of it.
fn read_all(source: &dyn WeightSource) {
    for name in source.names() {
        let (rows, columns) = source.info(&name).expect("it is one of the names").matrix();
        let _ = source.read_all(&name);
        let part = Slice { rows: rows / 3..rows - rows / 4, columns: columns / 3..columns - columns / 4 };
        if let Ok(values) = source.read(&name, &part) {
            assert_eq!(values.len(), part.len());
        }
    }
}

/// A safetensors file.
pub fn safetensors(bytes: &[u8]) {
    if let Ok(source) = SafetensorsFile::read(file(bytes)) {
        read_all(&source);
    }
}

/// A `pytorch_model.bin`.
pub fn pytorch(bytes: &[u8]) {
    if let Ok(source) = PytorchFile::read(file(bytes)) {
        read_all(&source);
    }
}

/// The pickle of a `pytorch_model.bin`, in an archive that is well.
pub fn pickle(bytes: &[u8]) {
    use std::io::{Cursor, Write};
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, bytes) in [("m/data.pkl", bytes), ("m/data/0", &[0x3f; 64])] {
        zip.start_file(name, stored).expect("a plain name");
        zip.write_all(bytes).expect("memory");
    }
    pytorch(&zip.finish().expect("memory").into_inner());
}

/// A `.nemo` file.
pub fn nemo_tar(bytes: &[u8]) {
    if let Ok(source) = NemoCheckpoint::read_tar(file(bytes)) {
        read_all(&source);
        let _ = text::nemo::read(&source);
    }
}

/// A NeMo folder: its configuration, the header of an array and a chunk of it, one after the other with a zero between.
pub fn nemo_folder(bytes: &[u8]) {
    let mut parts = bytes.splitn(3, |&byte| byte == 0);
    nemo_files([
        ("model_config.yaml", parts.next().unwrap_or_default()),
        ("model_weights/model.embedding.word_embeddings.weight/.zarray", parts.next().unwrap_or_default()),
        ("model_weights/model.embedding.word_embeddings.weight/0.0", parts.next().unwrap_or_default()),
    ]);
}

/// A distributed checkpoint: its description up to where an archive begins, and a file of items from there on.
pub fn torch_dist(bytes: &[u8]) {
    let items = bytes.windows(4).position(|window| window == b"PK\x03\x04").unwrap_or(bytes.len());
    nemo_files([
        ("model_config.yaml", include_bytes!("../../tests/fixtures/nemo/nemotron-dist/model_config.yaml")),
        ("model_weights/.metadata", &bytes[..items]),
        ("model_weights/__0_0.distcp", &bytes[items..]),
    ]);
}

fn nemo_files(files: [(&str, &[u8]); 3]) {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        tar.append_data(&mut header, name, bytes).expect("memory");
    }
    nemo_tar(&tar.into_inner().expect("memory"));
}

/// A quantised checkpoint: `config.json`, a zero, and a safetensors file.
pub fn quantized(bytes: &[u8]) {
    let mut parts = bytes.splitn(2, |&byte| byte == 0);
    let (config, tensors) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let Ok(mut config) = serde_json::from_slice::<serde_json::Value>(config) else { return };
    let options = config.get_mut("quantization_config").map(serde_json::Value::take).unwrap_or_default();
    if let Ok(source) = SafetensorsFile::read(file(tensors))
        && let Ok(weights) = quantized::open_with(options, Box::new(source))
    {
        read_all(weights.as_ref());
    }
}

/// A GGUF file.
pub fn gguf(bytes: &[u8]) {
    if let Ok(source) = GgufFile::read(file(bytes)) {
        read_all(&source);
        let _ = source.config();
        let _ = text::gguf::read(&source);
    }
}

/// A SentencePiece model.
pub fn sentencepiece(bytes: &[u8]) {
    let _ = sentencepiece::read(bytes, &sentencepiece::Extra { add_bos: true, ..Default::default() });
    for spaces in [Spaces::Llama(Prefix::First), Spaces::Plain] {
        let _ = hub::build(bytes, spaces, &BTreeMap::new());
    }
}

/// The `adapter_config.json` of an adapter.
pub fn adapter_config(bytes: &[u8]) {
    if let Ok(config) = peft::Config::parse(Path::new("fuzzed"), bytes) {
        let _ = config.scale("model.layers.0.self_attn.q_proj");
        config.replaces("score.weight");
    }
}
