//! Checkpoints that lie: whatever is in a file, loading it ends in a message that names the file and the reason. It never
//! panics, and never allocates more than the files could hold.

mod lies;
mod spoilt;

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use reward_sidecar::model::{Config, ModelEngine};
use serde_json::Value;

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

/// What a user sees: the file and the reason on one line of stderr, and exit code 2.
#[test]
fn the_command_line_exits_with_code_2() {
    let safetensors = Copy::of("hf/bf16-single");
    safetensors.write("model.safetensors", [0xff; 64]);
    let bin = Copy::of("bin/llama-f32");
    bin.write("pytorch_model.bin", lies::archive(b"\x80\x02cposix\nsystem\n."));
    let nemo = Copy::of("nemo/nemotron-tp8");
    fs::remove_file(nemo.path().join("model_weights/model.rm_head.weight/0.3")).unwrap();
    let quantised = Copy::of("quantized/gptq-4-order");
    let config = quantised.read("config.json");
    quantised.write("config.json", String::from_utf8(config).unwrap().replace("\"bits\": 4", "\"bits\": 8"));
    let distributed = Copy::of("nemo/llama-nemo2");
    distributed.write("weights/.metadata", b"\x80\x02cposix\nsystem\n.");
    for (copy, file) in [
        (&safetensors, "model.safetensors"),
        (&bin, "pytorch_model.bin"),
        (&nemo, "model.rm_head.weight/0.3"),
        (&quantised, "model.safetensors"),
        (&distributed, "weights/.metadata"),
    ] {
        let run = Command::new(env!("CARGO_BIN_EXE_reward-sidecar"))
            .args(["inspect", "--model", copy.path().to_str().unwrap()])
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&run.stderr);
        assert_eq!(run.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(file) && !stderr.contains("panicked"), "{stderr}");
    }
}
