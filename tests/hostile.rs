//! Checkpoints that lie: whatever is in a file, loading it ends in a message that names the file and the reason. It never
//! panics, and never allocates more than the files could hold.

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use reward_sidecar::model::{Config, ModelEngine};
use serde_json::{Value, json};

/// Counts what is allocated, and the most that was at once.
struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
/// Attempts one after the other: what is counted is one's own.
static ALONE: Mutex<()> = Mutex::new(());

// SAFETY: everything is handed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        PEAK.fetch_max(NOW.fetch_add(layout.size(), Ordering::SeqCst) + layout.size(), Ordering::SeqCst);
        // SAFETY: the caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::SeqCst);
        // SAFETY: the caller's.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Room for what does not grow with the file: messages, regular expressions, threads, the tables of a small model.
const BASE_BYTES: usize = 8 << 20;
/// Parsed headers are larger than their text: a name becomes a string in a map, a byte a number of sixteen.
const BYTES_PER_BYTE: usize = 64;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// A copy of a fixture, for spoiling.
struct Copy(tempfile::TempDir);

impl Copy {
    fn of(name: &str) -> Self {
        fn copy(from: &Path, to: &Path) {
            fs::create_dir_all(to).unwrap();
            for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
                let (from, to) = (entry.path(), to.join(entry.file_name()));
                match from.is_dir() {
                    true => copy(&from, &to),
                    false => drop(fs::copy(from, to).unwrap()),
                }
            }
        }
        let folder = tempfile::tempdir().unwrap();
        copy(&fixture(name), folder.path());
        Self(folder)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, file: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.path().join(file), bytes).unwrap();
    }

    fn read(&self, file: &str) -> Vec<u8> {
        fs::read(self.path().join(file)).unwrap()
    }

    /// Replaces fields of a JSON file.
    fn set(&self, file: &str, fields: Value) {
        let mut value: Value = serde_json::from_slice(&self.read(file)).unwrap();
        value.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        self.write(file, value.to_string());
    }
}

/// Bytes of all files of a model.
fn size(path: &Path) -> usize {
    match path.is_dir() {
        true => fs::read_dir(path).unwrap().map(|entry| size(&entry.unwrap().path())).sum(),
        false => path.metadata().unwrap().len() as usize,
    }
}

/// Loads a model: the message if it is refused, `None` if it is well after all.
fn attempt(path: &Path, what: &str) -> Option<String> {
    let config = Config { model: path.to_str().unwrap().into(), tp: 1, threads: 1, ..Config::default() };
    let alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    let before = NOW.load(Ordering::SeqCst);
    PEAK.store(before, Ordering::SeqCst);
    let result = catch_unwind(AssertUnwindSafe(|| ModelEngine::load(&config).map(drop)));
    let taken = PEAK.load(Ordering::SeqCst).saturating_sub(before);
    drop(alone);
    let result = result.unwrap_or_else(|_| panic!("{what}: a panic"));
    let most = BASE_BYTES + BYTES_PER_BYTE * size(path);
    assert!(taken <= most, "{what}: {taken} bytes were allocated, at most {most}");
    result.err().map(|e| e.to_string())
}

/// Refused with a message that names a file and says these words.
fn refused(path: &Path, file: &str, says: &str) {
    let message = attempt(path, says).unwrap_or_else(|| panic!("{file} was loaded, expected {says:?}"));
    assert!(message.contains(file) && message.contains(says), "expected {file:?} and {says:?}: {message}");
}

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
        (".", "cannot read"),
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
fn archive(pickle: &[u8]) -> Vec<u8> {
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

/// What a user sees: the file and the reason on one line of stderr, and exit code 2.
#[test]
fn the_command_line_exits_with_code_2() {
    let safetensors = Copy::of("hf/bf16-single");
    safetensors.write("model.safetensors", [0xff; 64]);
    let bin = Copy::of("bin/llama-f32");
    bin.write("pytorch_model.bin", archive(b"\x80\x02cposix\nsystem\n."));
    let nemo = Copy::of("nemo/nemotron-tp8");
    fs::remove_file(nemo.path().join("model_weights/model.rm_head.weight/0.3")).unwrap();
    for (copy, file) in
        [(&safetensors, "model.safetensors"), (&bin, "pytorch_model.bin"), (&nemo, "model.rm_head.weight/0.3")]
    {
        let run = Command::new(env!("CARGO_BIN_EXE_reward-sidecar"))
            .args(["inspect", "--model", copy.path().to_str().unwrap()])
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&run.stderr);
        assert_eq!(run.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(file) && !stderr.contains("panicked"), "{stderr}");
    }
}
