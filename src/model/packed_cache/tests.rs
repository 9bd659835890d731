//! Models whose weights were kept: the same bits, and a file that is not the right one is not taken.

use std::fs;
use std::path::{Path, PathBuf};

use super::keeper::Kept;
use super::*;
use crate::batch::MicroBatch;
use crate::engine::Engine;
use crate::model::config::Config;
use crate::model::{Dtype, ModelEngine};

/// 37 outputs, so that the last panel is not full; an odd number of inputs, and more than a group of any type.
const SHAPE: [usize; 2] = [37, 515];

fn rows(read: &(dyn Fn(std::ops::Range<usize>) -> Result<Vec<f32>, ModelError> + Sync)) -> Rows<'_> {
    Rows { n: SHAPE[0], k: SHAPE[1], read }
}

fn value(i: usize) -> f32 {
    (i as f32 * 0.618).fract() - 0.5
}

fn read(rows: std::ops::Range<usize>) -> Result<Vec<f32>, ModelError> {
    Ok((rows.start * SHAPE[1]..rows.end * SHAPE[1]).map(value).collect())
}

fn unread(_: std::ops::Range<usize>) -> Result<Vec<f32>, ModelError> {
    panic!("a matrix that is kept was read again")
}

fn open(cache_dir: &Path, version: &str, room: DiskRoom) -> PackedCache {
    PackedFolder::below(cache_dir, room).unwrap().open(version, WeightType::F32)
}

/// Packs and keeps one matrix; whether there was room.
fn keep(cache_dir: &Path, version: &str, room: DiskRoom) -> bool {
    let cache = open(cache_dir, version, room);
    cache.matrix("matrix", WeightType::F32, &rows(&read)).unwrap();
    cache.keeper().unwrap().write().unwrap() == Kept::Written
}

fn files(cache_dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> =
        fs::read_dir(cache_dir.join("packed")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn matrices_are_kept_as_they_were_packed() {
    let folder = tempfile::tempdir().unwrap();
    let isas = Isa::available();
    for isa in isas {
        // On a thread of its own, which keeps its instructions.
        let folder = folder.path();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                isa.choose();
                for weights in WeightType::ALL {
                    let open = || PackedFolder::below(folder, DiskRoom::Auto).unwrap().open("model@1", weights);
                    let first = open();
                    let packed = ["a", "b"].map(|name| first.matrix(name, weights, &rows(&read)).unwrap());
                    assert_eq!(first.keeper().unwrap().write().unwrap(), Kept::Written);
                    let second = open();
                    assert!(second.is_mapped());
                    for (name, packed) in ["a", "b"].into_iter().zip(packed) {
                        let kept = second.matrix(name, weights, &rows(&unread)).unwrap();
                        assert_eq!(kept.parts(), packed.parts(), "{weights:?} on {}", isa.name());
                        assert!(kept.parts().iter().all(|part| part.as_ptr().align_offset(64) == 0));
                    }
                    let another = second.matrix("c", weights, &rows(&read)).unwrap();
                    assert_eq!(another.n(), SHAPE[0], "what is not in the file is packed");
                    assert!(second.keeper().is_none(), "and the file stays");
                }
            });
        });
    }
}

#[test]
fn models_that_are_kept_have_the_same_bits() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    for (fixture, tp) in
        [("hf/qwen3", 1), ("hf/llama-tp24", 2), ("hf/gemma2", 1), ("encoder/bert", 1), ("hf/qwen3-moe", 1)]
    {
        let folder = tempfile::tempdir().unwrap();
        let reference = fs::read(fixtures.join(fixture).join("reference.json")).unwrap();
        let reference: serde_json::Value = serde_json::from_slice(&reference).unwrap();
        let ids = |case: &serde_json::Value| serde_json::from_value(case["input_ids"].clone()).unwrap();
        let rollouts: Vec<Vec<u32>> = reference["cases"].as_array().unwrap().iter().map(ids).collect();
        for weights in WeightType::ALL {
            let config = Config {
                model: fixtures.join(fixture).to_str().unwrap().into(),
                preset: "none".into(),
                dtype: Dtype::Weights(weights),
                tp,
                threads: 2,
                cache_dir: folder.path().into(),
                packed_room: DiskRoom::Auto,
                ..Config::default()
            };
            let bits = |engine: &mut ModelEngine| {
                let table = engine.score(&MicroBatch::pack(&rollouts, true)).unwrap();
                let values = (0..table.rows()).flat_map(|row| table.row(row).unwrap().to_vec());
                values.map(f32::to_bits).collect::<Vec<_>>()
            };
            let mut first = ModelEngine::load(&config).unwrap();
            let packed = std::mem::take(&mut first.packed);
            assert!(!packed.is_mapped());
            assert_eq!(packed.keeper().unwrap().write().unwrap(), Kept::Written);
            let mut second = ModelEngine::load(&config).unwrap();
            assert!(second.packed.is_mapped(), "{fixture} as {weights:?}");
            assert_eq!(bits(&mut second), bits(&mut first), "{fixture} as {weights:?}");
            let read = |engine: &ModelEngine| engine.report().bytes_read_per_rank.iter().sum::<u64>();
            assert!(read(&second) < read(&first), "{fixture} as {weights:?}: its matrices were read again");
        }
    }
}

#[test]
fn a_file_that_is_not_the_one_that_was_written_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let damage = [
        |file: &Path| {
            let mut bytes = fs::read(file).unwrap();
            *bytes.last_mut().unwrap() ^= 1;
            fs::write(file, bytes).unwrap();
        },
        |file: &Path| fs::write(file, "").unwrap(),
        |file: &Path| fs::write(file.with_extension("sha256"), "").unwrap(),
        |file: &Path| fs::remove_file(file).unwrap(),
    ];
    for damage in damage {
        assert!(keep(folder.path(), "model@1", DiskRoom::Auto));
        let [file, digest] = &files(folder.path())[..] else { panic!("a file and its digest") };
        assert_eq!(
            (file.extension().unwrap(), digest.extension().unwrap()),
            ("safetensors".as_ref(), "sha256".as_ref())
        );
        damage(file);
        assert!(!open(folder.path(), "model@1", DiskRoom::Auto).is_mapped());
        assert_eq!(files(folder.path()), [] as [PathBuf; 0]);
    }
    assert!(keep(folder.path(), "model@1", DiskRoom::Auto));
    fs::remove_file(&files(folder.path())[1]).unwrap();
    assert!(!open(folder.path(), "model@1", DiskRoom::Auto).is_mapped(), "without its digest");
    assert!(keep(folder.path(), "model@1", DiskRoom::Auto), "a file without a digest is written again");
    assert!(open(folder.path(), "model@1", DiskRoom::Auto).is_mapped());
    assert!(!open(folder.path(), "model@2", DiskRoom::Auto).is_mapped(), "another model");
    let mut other = PackedFolder::below(folder.path(), DiskRoom::Auto).unwrap();
    other.program = "other";
    assert!(!other.open("model@1", WeightType::F32).is_mapped(), "another program");
}

#[test]
fn files_that_were_used_least_recently_make_way() {
    let folder = tempfile::tempdir().unwrap();
    assert!(keep(folder.path(), "a", DiskRoom::Auto));
    let bytes = fs::metadata(&files(folder.path())[0]).unwrap().len();
    let room = DiskRoom::Bytes(2 * bytes);
    assert!(keep(folder.path(), "b", room));
    // The second is older by its own time; the first was used just now.
    let digests = files(folder.path()).into_iter().filter(|file| file.extension().unwrap() == "sha256");
    for (digest, age) in digests.zip([0, 60]) {
        let time = std::time::SystemTime::now() - std::time::Duration::from_secs(age);
        fs::File::options().append(true).open(digest).unwrap().set_modified(time).unwrap();
    }
    let left_behind = folder.path().join("packed/x-1.part");
    fs::write(&left_behind, "half").unwrap();
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(24 * 3600 + 60);
    fs::File::options().append(true).open(&left_behind).unwrap().set_modified(long_ago).unwrap();
    assert!(keep(folder.path(), "c", room));
    let is_kept = |version: &str| open(folder.path(), version, room).is_mapped();
    assert_eq!(["a", "b", "c"].map(is_kept), [true, false, true]);
    assert!(!left_behind.exists());
    assert!(!keep(folder.path(), "d", DiskRoom::Bytes(bytes - 1)), "too large");
    assert_eq!(["a", "c"].map(is_kept), [true, true], "nothing makes way for what has no room");
    assert!(PackedFolder::below(folder.path(), DiskRoom::Bytes(0)).is_none());
    assert!(PackedFolder::below(Path::new(""), DiskRoom::Auto).is_none());
}

#[test]
fn files_of_another_build_make_way_once_nobody_uses_them() {
    let folder = tempfile::tempdir().unwrap();
    assert!(keep(folder.path(), "model@1", DiskRoom::Auto));
    let [file, digest] = &files(folder.path())[..] else { panic!("a file and its digest") };
    let other =
        |name: &str| name.replace(program::digest(&DigestMemory::below(folder.path())).unwrap(), "0123456789ab");
    let renamed = |path: &Path| path.with_file_name(other(path.file_name().unwrap().to_str().unwrap()));
    let day = std::time::Duration::from_secs(24 * 3600 + 60);
    for (age, files_then) in [(std::time::Duration::ZERO, 4), (day, 2)] {
        fs::copy(file, renamed(file)).unwrap();
        fs::copy(digest, renamed(digest)).unwrap();
        let time = std::time::SystemTime::now() - age;
        fs::File::options().append(true).open(renamed(digest)).unwrap().set_modified(time).unwrap();
        fs::remove_file(digest).unwrap();
        assert!(keep(folder.path(), "model@1", DiskRoom::Auto));
        assert_eq!(files(folder.path()).len(), files_then);
    }
}

#[test]
fn one_process_at_a_time_writes_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let cache = open(folder.path(), "model@1", DiskRoom::Auto);
    cache.matrix("matrix", WeightType::F32, &rows(&read)).unwrap();
    let keeper = cache.keeper().unwrap();
    let part = keeper.path.with_extension("part");
    fs::create_dir_all(part.parent().unwrap()).unwrap();
    let other = fs::File::create(&part).unwrap();
    other.lock().unwrap();
    assert_eq!(keeper.write().unwrap(), Kept::ByAnother);
    assert!(part.exists(), "it is the other's");
    // A process that ended in the middle.
    drop(other);
    fs::write(&part, "half of a file, and longer than the header").unwrap();
    assert_eq!(keeper.write().unwrap(), Kept::Written);
    assert!(open(folder.path(), "model@1", DiskRoom::Auto).is_mapped());
}
