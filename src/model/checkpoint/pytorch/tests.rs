use std::io::Write;

use zip::write::{SimpleFileOptions, ZipWriter};

use super::*;
use crate::model::checkpoint::open_folder;

/// Writes pickles opcode by opcode, as `torch.save` does with protocol 2.
#[derive(Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    pub fn new() -> Self {
        Self(vec![0x80, 2])
    }

    pub fn op(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    pub fn text(self, text: &str) -> Self {
        let length = (text.len() as u32).to_le_bytes();
        self.op(b"X").op(&length).op(text.as_bytes())
    }

    fn integer(self, value: usize) -> Self {
        self.op(b"J").op(&(value as i32).to_le_bytes())
    }

    fn global(self, module: &str, name: &str) -> Self {
        self.op(b"c").op(module.as_bytes()).op(b"\n").op(name.as_bytes()).op(b"\n")
    }

    fn tuple(self, values: &[usize]) -> Self {
        values.iter().fold(self.op(b"("), |writer, &value| writer.integer(value)).op(b"t")
    }

    /// A tensor, as a key's value.
    pub fn tensor(
        self,
        kind: &str,
        key: &str,
        elements: usize,
        offset: usize,
        shape: &[usize],
        strides: &[usize],
    ) -> Self {
        let storage = self.global("torch._utils", "_rebuild_tensor_v2").op(b"((").text("storage").global("torch", kind);
        let storage = storage.text(key).text("cpu").integer(elements).op(b"tQ");
        let view = storage.integer(offset).tuple(shape).tuple(strides).op(&[0x89]);
        view.global("collections", "OrderedDict").op(b")RtR")
    }

    pub fn stop(self) -> Vec<u8> {
        self.op(b".").0
    }
}

/// An archive of a pickle and its storages.
pub fn archive(pickle: Vec<u8>, storages: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let stored = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    let mut entry = |name: &str, bytes: &[u8]| {
        zip.start_file(name, stored).unwrap();
        zip.write_all(bytes).unwrap();
    };
    entry("weights/data.pkl", &pickle);
    entry("weights/byteorder", b"little");
    for (key, bytes) in storages {
        entry(&format!("weights/data/{key}"), bytes);
    }
    zip.finish().unwrap().into_inner()
}

fn read(bytes: Vec<u8>) -> Result<PytorchFile, ModelError> {
    PytorchFile::read(MappedFile::owned("pytorch_model.bin".into(), bytes))
}

fn refused(bytes: Vec<u8>) -> String {
    read(bytes).unwrap_err().to_string()
}

/// 0, 1, 2, ... as float32.
fn floats(count: u16) -> Vec<u8> {
    (0..count).flat_map(|i| f32::from(i).to_le_bytes()).collect()
}

/// `{"a": [2, 3], "b": its transpose, "ids": whole numbers}` over shared storage.
fn sample(before: impl Fn(Writer) -> Writer, after: impl Fn(Writer) -> Writer, prefix: &str) -> Vec<u8> {
    let open = before(Writer::new()).global("collections", "OrderedDict").op(b")R(");
    let a = open.text(&format!("{prefix}a")).tensor("FloatStorage", "0", 8, 1, &[2, 3], &[3, 1]);
    let b = a.text(&format!("{prefix}b")).tensor("FloatStorage", "0", 8, 1, &[3, 2], &[1, 3]);
    let ids = b.text(&format!("{prefix}ids")).tensor("LongStorage", "1", 1, 0, &[1], &[1]).op(b"u");
    // What `Module.state_dict` hangs on its dictionary.
    let metadata = ids.op(b"}").text("_metadata").global("collections", "OrderedDict").op(b")Rsb");
    archive(after(metadata).stop(), &[("0", &floats(8)), ("1", &[0; 8])])
}

fn as_is(writer: Writer) -> Writer {
    writer
}

#[test]
fn views_of_one_storage_are_read_each_by_its_strides() {
    let file = read(sample(as_is, as_is, "")).unwrap();
    assert_eq!(file.names(), ["a", "b", "ids"]);
    assert_eq!(file.read_shape("a", &[2, 3]).unwrap(), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    assert_eq!(file.read_shape("b", &[3, 2]).unwrap(), [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
    assert_eq!(file.bytes_read(), 48);
    let message = file.read_all("ids").unwrap_err().to_string();
    assert!(message.contains("\"ids\" has type LongStorage"), "{message}");
}

/// What PyTorch wrote, against the same weights as safetensors.
#[test]
fn every_tensor_of_a_fixture_is_that_of_the_twin() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    for (bin, twin) in [
        ("llama-f32", "llama-rope-dynamic"),
        ("nemotron-f16-sharded", "nemotron-biases-f16"),
        ("mistral-bf16-views", "mistral-no-window"),
        ("lm-row-tied-bf16", "lm-row-tied-bf16"),
        ("qrm-mixed-sharded", "qrm-mixed"),
    ] {
        let bin = open_folder(&fixtures.join("bin").join(bin)).unwrap();
        let twin = open_folder(&fixtures.join("hf").join(twin)).unwrap();
        for name in twin.names() {
            let info = twin.info(&name).unwrap();
            assert_eq!(bin.info(&name).unwrap(), info, "{name}");
            let bits =
                |values: Result<Vec<f32>, _>| -> Vec<u32> { values.unwrap().iter().map(|v| v.to_bits()).collect() };
            assert_eq!(bits(bin.read_all(&name)), bits(twin.read_all(&name)), "{name}");
            let (rows, columns) = info.matrix();
            let corner = Slice { rows: rows / 2..rows, columns: columns / 3..columns };
            assert_eq!(bits(bin.read(&name, &corner)), bits(twin.read(&name, &corner)), "{name} {corner:?}");
        }
    }
}

#[test]
fn wrappers_and_prefixes_are_undone() {
    let wrapped = |key: &'static str| move |writer: Writer| writer.op(b"}").text("step").integer(7).op(b"s").text(key);
    let file = read(sample(wrapped("state_dict"), |writer| writer.op(b"s"), "module.")).unwrap();
    assert_eq!(file.names(), ["a", "b", "ids"]);
    let file = read(sample(as_is, as_is, "_orig_mod.module.")).unwrap();
    assert_eq!(file.names(), ["a", "b", "ids"]);
    let message = refused(sample(wrapped("optimizer"), |writer| writer.op(b"s"), ""));
    assert!(message.contains("holds no tensors, neither by itself nor under state_dict"), "{message}");
}

#[test]
fn nothing_is_executed() {
    let pickle = |writer: Writer| archive(writer.stop(), &[]);
    // What `os.system("true")` pickles to.
    let command = Writer::new().global("posix", "system").text("true").op(&[0x85]).op(b"R");
    let message = refused(pickle(command));
    assert!(message.contains("asks for posix.system") && message.contains("nothing in it was executed"), "{message}");
    let builtin = Writer::new().text("builtins").text("eval").op(&[0x93]);
    assert!(refused(pickle(builtin)).contains("asks for builtins.eval"));
    // Known names do nothing but what they are for.
    let odd = Writer::new().global("torch", "FloatStorage").op(b"(").integer(1 << 30).op(b"tR");
    assert!(refused(pickle(odd)).contains("is called with 1 arguments"));
    assert!(refused(pickle(Writer::new().integer(1).op(b")R"))).contains("calls what is no name"));
    assert!(refused(pickle(Writer::new().integer(1).op(b"}b"))).contains("taken for a list or dictionary"));
    assert!(refused(pickle(Writer::new().op(b"\x82"))).contains("opcode 0x82"));
    assert!(refused(pickle(Writer::new().op(b"h\x07"))).contains("never remembered"));
}

#[test]
fn bytes_beside_the_tensors_are_passed_over() {
    // `io.BytesIO(b"hello")`, which Transformer Engine leaves in checkpoints, and a `torch.Size`.
    let before = |writer: Writer| {
        let bytes = writer.op(b"}").text("extra").global("_io", "BytesIO").op(b")\x81");
        let state = bytes.global("_codecs", "encode").text("hello").text("latin1").op(b"\x86RK\x00N\x87bs");
        state.text("size").global("torch", "Size").tuple(&[1]).op(b"\x85Rs").text("model")
    };
    let file = read(sample(before, |writer| writer.op(b"s"), "")).unwrap();
    assert_eq!(file.names(), ["a", "b", "ids"]);
}

#[test]
fn nesting_and_cycles_cost_no_stack() {
    // A million tuples, each in the next; then a dictionary that holds itself.
    let deep = Writer::new().op(b")").op(&[0x85; 1_000_000]);
    assert!(refused(archive(deep.stop(), &[])).contains("not a dictionary"));
    let own = Writer::new().op(b"}q\x00").text("model").op(b"h\x00s");
    assert!(refused(archive(own.stop(), &[])).contains("holds no tensors"));
    let many = Writer::new().op(&[b')'; 2_000_000]);
    assert!(refused(archive(many.stop(), &[])).contains("more than"));
}

#[test]
fn lies_about_storages_are_refused() {
    let one = |elements, offset, shape: &[usize], strides: &[usize]| {
        let tensor = Writer::new().op(b"}").text("a").tensor("FloatStorage", "0", elements, offset, shape, strides);
        refused(archive(tensor.op(b"s").stop(), &[("0", &floats(8))]))
    };
    assert!(one(9, 0, &[1], &[1]).contains("32 bytes"));
    assert!(one(8, 6, &[3], &[1]).contains("beyond its storage"));
    assert!(one(8, 0, &[1 << 30, 1 << 30, 1 << 30], &[0, 0, 0]).contains("shape"));
    let elsewhere = Writer::new().op(b"}").text("a").tensor("FloatStorage", "../0", 1, 0, &[1], &[1]).op(b"s");
    assert!(refused(archive(elsewhere.stop(), &[("0", &floats(8))])).contains("no entry data/../0"));
}

#[test]
fn other_archives_are_refused_with_what_to_do() {
    assert!(refused(Vec::new()).contains("is empty"));
    assert!(refused(b"words".to_vec()).contains("no zip archive"));
    let legacy = refused(b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.".to_vec());
    assert!(legacy.contains("before 1.6") && legacy.contains("torch.save"), "{legacy}");
    let whole = sample(as_is, as_is, "");
    assert!(refused(whole[..whole.len() / 2].to_vec()).contains("not a readable zip archive"));
}
