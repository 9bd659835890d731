//! Files that were made to do harm.

use std::fs;
use std::io::Write;

use serde_json::json;

use super::{Copy, attempt, refused};

/// A safetensors file of a header alone.
fn header(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

#[test]
fn safetensors_that_lie() {
    let copy = Copy::of("hf/bf16-single");
    let file = "model.safetensors";
    for length in [u64::MAX, u64::MAX >> 1, (u64::MAX >> 1) - 7, 1 << 62, 1 << 40, 100_000_001, 9] {
        copy.write(file, [&length.to_le_bytes()[..], b"{}"].concat());
        refused(copy.path(), file, "not a readable safetensors file");
    }
    let tensor = |shape: &str, end: u64| {
        header(&format!(r#"{{"score.weight":{{"dtype":"F32","shape":{shape},"data_offsets":[0,{end}]}}}}"#))
    };
    for (shape, end) in [
        ("[1099511627776,1099511627776]", 4),
        ("[4611686018427387904,4]", 0),
        ("[1]", u64::MAX),
        ("[1]", 1 << 62),
        ("[-1]", 4),
        ("[1e3]", 4000),
    ] {
        copy.write(file, tensor(shape, end));
        refused(copy.path(), file, "not a readable safetensors file");
    }
    // A zero hides what the other dimensions say.
    copy.write(file, tensor("[0,4611686018427387904,8]", 0));
    let message = attempt(copy.path(), "a zero in a shape").unwrap();
    assert!(message.contains(file), "{message}");
    copy.write(file, header(&"[".repeat(1 << 20)));
    refused(copy.path(), file, "not a readable safetensors file");
}

/// Not a lie, but what is left where a clone brought no weights.
#[test]
fn pointers_of_git_lfs() {
    let copy = Copy::of("hf/bf16-single");
    copy.write("model.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n");
    refused(copy.path(), "model.safetensors", "git lfs pull");
}

#[test]
fn json_in_circles_and_without_end() {
    let copy = Copy::of("hf/llama3-sharded");
    let index = "model.safetensors.index.json";
    copy.set(index, json!({"weight_map": {"score.weight": index}}));
    refused(copy.path(), index, "not a readable safetensors file");
    for (shard, says) in [
        ("../model.safetensors", "not a file name"),
        ("/etc/passwd", "not a file name"),
        ("..", "not a file name"),
        (".", "is no file"),
        ("", "not a file name"),
        ("nowhere.safetensors", "cannot read"),
    ] {
        copy.set(index, json!({"weight_map": {"score.weight": shard}}));
        let message = attempt(copy.path(), shard).unwrap();
        assert!(message.contains(says), "{shard}: {message}");
    }
    for deep in ["[".repeat(1 << 20), r#"{"a":"#.repeat(1 << 18)] {
        copy.write(index, format!("{{\"weight_map\": {{}}, \"metadata\": {deep}"));
        refused(copy.path(), index, "line 1 column");
        let other = Copy::of("hf/bf16-single");
        other.write("config.json", &deep);
        refused(other.path(), "config.json", "recursion limit");
    }
}

/// An archive as `torch.save` makes it, of this pickle.
pub fn archive(pickle: &[u8]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, bytes) in [("m/data.pkl", pickle), ("m/byteorder", b"little"), ("m/data/0", &[0; 16])] {
        zip.start_file(name, stored).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

#[test]
fn pickles_with_code_and_bombs() {
    let copy = Copy::of("bin/llama-f32");
    let file = "pytorch_model.bin";
    let proof = copy.path().join("executed");
    let command = format!("touch {}", proof.display());
    let system =
        [b"\x80\x02cposix\nsystem\nX".as_slice(), &(command.len() as u32).to_le_bytes(), command.as_bytes(), b"\x85R."];
    let huge = |opcode: u8, width: usize| [&[0x80, 2, opcode][..], &[0xff; 8][..width], b"x."].concat();
    let tensor = b"\x80\x02}X\x01\x00\x00\x00actorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\n\
                   X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQK\x00";
    let shape = |rest: &[u8]| [&tensor[..], rest, b"\x89ccollections\nOrderedDict\n)RtRs."].concat();
    let pickles: &[(Vec<u8>, &str)] = &[
        (system.concat(), "posix.system"),
        (b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x011\x85R.".to_vec(), "builtins.eval"),
        (b"\x80\x02c__builtin__\nexec\n.".to_vec(), "__builtin__.exec"),
        (b"\x80\x02ctorch.storage\n_load_from_bytes\n.".to_vec(), "torch.storage._load_from_bytes"),
        (b"cos\nsystem\n(S'true'\ntR.".to_vec(), "os.system"),
        (b"\x80\x02(itrue\nfalse\n.".to_vec(), "opcode 0x69"),
        // Lengths beyond the file, recursion, and memory that is asked for many times over.
        (huge(b'X', 4), "ends in the middle"),
        (huge(0x8d, 8), "beyond memory"),
        (huge(b'B', 4), "ends in the middle"),
        (huge(0x96, 8), "beyond memory"),
        (huge(b'j', 4), "never remembered"),
        ([b"\x80\x02)".to_vec(), vec![0x85; 3_000_000], b".".to_vec()].concat(), "more than"),
        (
            [b"\x80\x02]q\x00".to_vec(), b"h\x00h\x00\x86q\x00".repeat(200_000), b".".to_vec()].concat(),
            "not a dictionary",
        ),
        ([b"\x80\x02".to_vec(), b"(".repeat(1_000_000), b".".to_vec()].concat(), "the stack is empty"),
        ([b"\x80\x04N".to_vec(), vec![0x94; 3_000_000], b".".to_vec()].concat(), "more than"),
        ([b"\x80\x02".to_vec(), b"N".repeat(3_000_000), b".".to_vec()].concat(), "more than"),
        (b"\x80\x02}q\x00X\x05\x00\x00\x00modelh\x00s.".to_vec(), "holds no tensors"),
        (b"\x80\x02.".to_vec(), "the stack is empty"),
        (b"".to_vec(), "ends in the middle"),
        // A storage of 4 elements.
        (shape(b"(K\x05t(K\x01t"), "more than its storage"),
        (shape(b"(K\x02K\x02t(K\x04K\x01t"), "beyond its storage"),
        (shape(b"(J\xff\xff\xff\xfft(K\x01t"), "malformed"),
        (
            shape(b"(\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7ft(K\x00K\x00t"),
            "has shape",
        ),
        (shape(b"(K\x02t(\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7ft"), "beyond its storage"),
        (shape(b"(K\x01t(K\x01K\x01t"), "malformed"),
    ];
    for (pickle, says) in pickles {
        copy.write(file, archive(pickle));
        refused(copy.path(), file, says);
    }
    assert!(!proof.exists(), "a pickle was executed");
}

#[test]
fn tar_files_that_reach_outside() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.nemo");
    for (name, kind, size, says) in [
        ("../escaped", tar::EntryType::Regular, 0_u64, "outside the archive"),
        ("a/../../escaped", tar::EntryType::Regular, 0, "outside the archive"),
        ("/tmp/escaped", tar::EntryType::Regular, 0, "outside the archive"),
        ("model_config.yaml", tar::EntryType::Symlink, 0, "no plain file"),
        ("model_config.yaml", tar::EntryType::Link, 0, "no plain file"),
        ("model_config.yaml", tar::EntryType::Fifo, 0, "no plain file"),
        ("model_config.yaml", tar::EntryType::Regular, 1 << 62, "model.nemo"),
        ("model_config.yaml", tar::EntryType::GNULongName, 1 << 62, "model.nemo"),
    ] {
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_cksum();
        fs::write(&path, [header.as_bytes().as_slice(), &[0; 1024]].concat()).unwrap();
        refused(&path, "model.nemo", says);
    }
}

#[test]
fn arrays_with_holes() {
    let copy = Copy::of("nemo/nemotron-tp2");
    let array = "model_weights/model.decoder.layers.mlp.linear_fc2.weight";
    let header = copy.read(&format!("{array}/.zarray"));
    for (fields, says) in [
        (json!({"chunks": [0, 24, 20]}), "sizes above 0"),
        (json!({"chunks": [1, 24]}), "same number of sizes"),
        (json!({"shape": [3, 24, u64::MAX]}), "more than memory"),
        (json!({"shape": [3, 1_u64 << 40, 1_u64 << 40]}), "more than memory"),
        (json!({"chunks": [1_u64 << 40, 1_u64 << 40, 1]}), "more than memory"),
        (json!({"shape": [3, 24, 1 << 30]}), "the chunk is missing"),
        (json!({"shape": []}), "expected a vector or matrix"),
        (json!({"dtype": [["a", "<f4"]]}), "expected a string"),
        (json!({"dimension_separator": ".."}), "expected a character"),
    ] {
        copy.set(&format!("{array}/.zarray"), fields);
        refused(copy.path(), array, says);
        copy.write(&format!("{array}/.zarray"), &header);
    }
    fs::remove_file(copy.path().join(array).join("1.0.1")).unwrap();
    refused(copy.path(), "linear_fc2.weight/1.0.1", "the chunk is missing");
}

#[test]
fn yaml_that_grows() {
    let copy = Copy::of("nemo/nemotron-tp2");
    let levels = (1..30).map(|i| format!("a{i}: &a{i} [*a{0},*a{0},*a{0},*a{0},*a{0},*a{0},*a{0},*a{0}]\n", i - 1));
    let bomb: String = std::iter::once("a0: &a0 x\n".to_owned()).chain(levels).collect();
    for yaml in [bomb, "[".repeat(1 << 20), "a: ".repeat(1 << 18), "- ".repeat(1 << 18), "&a [*a]".into()] {
        copy.write("model_config.yaml", yaml);
        refused(copy.path(), "model_config.yaml", "not readable as YAML");
    }
}

#[test]
fn gguf_files_that_count_too_far() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let magic = b"GGUF\x03\x00\x00\x00".as_slice();
    let number = |n: u64| n.to_le_bytes().to_vec();
    let key = |name: &str| [number(name.len() as u64), name.into()].concat();
    let counts = |tensors: u64, values: u64| [magic.to_vec(), number(tensors), number(values)].concat();
    let array = |kind: u32, length: u64| [&9_u32.to_le_bytes()[..], &kind.to_le_bytes(), &number(length)].concat();
    let nested =
        [9_u32.to_le_bytes().to_vec(), [&9_u32.to_le_bytes()[..], &number(1)].concat().repeat(100_000)].concat();
    for bytes in [
        counts(u64::MAX, 0),
        counts(0, u64::MAX),
        [counts(0, 1), number(u64::MAX)].concat(),
        [counts(0, 1), number(1 << 40)].concat(),
        [counts(0, 1), key("a"), array(0, u64::MAX)].concat(),
        [counts(0, 1), key("a"), array(8, 1 << 40)].concat(),
        [counts(0, 1), key("a"), nested].concat(),
        [counts(1, 0), key("a"), u32::MAX.to_le_bytes().to_vec()].concat(),
        [counts(1, 0), key("a"), 4_u32.to_le_bytes().to_vec(), number(1 << 62).repeat(4), vec![0; 12]].concat(),
    ] {
        fs::write(&path, &bytes).unwrap();
        refused(&path, "model.gguf", "GGUF");
    }
}
