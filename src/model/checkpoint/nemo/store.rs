//! The files of a NeMo checkpoint: a folder, or the tar file that NeMo makes of it. Names are relative to the folder and
//! have slashes; nothing outside it can be named.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};
use std::sync::OnceLock;

use tar::EntryType;

use crate::model::checkpoint::MappedFile;
use crate::model::error::ModelError;

/// Folders in folders: the weights, an array, and one for each of its dimensions where those are separated by slashes.
const MAX_LEVELS: usize = 6;

/// Files by name.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    files: BTreeMap<String, Place>,
    /// The tar file.
    tar: Option<MappedFile>,
}

#[derive(Debug)]
enum Place {
    /// A file of its own, mapped when it is first asked for.
    File { length: usize, map: OnceLock<MappedFile> },
    /// A part of the tar file, within its length.
    Part(Range<usize>),
}

/// A file's bytes.
#[derive(Debug, Clone)]
pub struct Blob<'a> {
    /// The file that they are in.
    pub file: &'a MappedFile,
    /// Where they are.
    pub bytes: Range<usize>,
}

impl<'a> Blob<'a> {
    /// All of them, for headers.
    pub fn all(&self) -> &'a [u8] {
        &self.file.bytes()[self.bytes.clone()]
    }
}

impl Store {
    /// A folder with all that is in it, but for folders that are links: they could lead in a circle. Files may be links, as
    /// in the cache of Hugging Face's hub.
    pub fn folder(path: &Path) -> Result<Self, ModelError> {
        let mut files = BTreeMap::new();
        list(path, "", MAX_LEVELS, &mut files)?;
        Ok(Self { path: path.to_path_buf(), files, tar: None })
    }

    /// A `.nemo` file.
    pub fn tar(path: &Path) -> Result<Self, ModelError> {
        Self::read_tar(MappedFile::open(path)?)
    }

    /// A tar file that is open.
    pub fn read_tar(tar: MappedFile) -> Result<Self, ModelError> {
        let path = tar.path().to_path_buf();
        let files = index(&tar).map_err(|reason| ModelError::malformed(&path, reason))?;
        Ok(Self { path, files, tar: Some(tar) })
    }

    /// The folder or tar file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file's place, for messages; in a tar file, as if it were a folder.
    pub fn place(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Every file's name, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// A file's length.
    pub fn length(&self, name: &str) -> Option<usize> {
        self.files.get(name).map(|place| match place {
            Place::File { length, .. } => *length,
            Place::Part(range) => range.len(),
        })
    }

    /// A file's bytes. A length that was asked for earlier still holds.
    pub fn open(&self, name: &str) -> Result<Blob<'_>, ModelError> {
        let missing = || ModelError::malformed(&self.path, format!("holds no {name}"));
        match (self.files.get(name).ok_or_else(missing)?, &self.tar) {
            (Place::Part(range), Some(tar)) => Ok(Blob { file: tar, bytes: range.clone() }),
            (Place::Part(_), None) => Err(missing()),
            (Place::File { length, map }, _) => {
                let file = match map.get() {
                    Some(file) => file,
                    None => {
                        let file = MappedFile::open(&self.place(name))?;
                        map.get_or_init(|| file)
                    }
                };
                if file.bytes().len() != *length {
                    let reason = format!("has {} bytes; it had {length} a moment ago", file.bytes().len());
                    return Err(ModelError::malformed(file.path(), reason));
                }
                Ok(Blob { file, bytes: 0..*length })
            }
        }
    }

    /// The files on disk that some of the files are, or the tar file.
    pub fn on_disk<'a>(&self, names: impl Iterator<Item = &'a str>) -> Vec<PathBuf> {
        match &self.tar {
            Some(tar) => vec![tar.path().to_path_buf()],
            None => names.map(|name| self.place(name)).collect(),
        }
    }

    /// Bytes of weights that were read so far.
    pub fn bytes_read(&self) -> u64 {
        let files = self.files.values().filter_map(|place| match place {
            Place::File { map, .. } => map.get(),
            Place::Part(_) => None,
        });
        files.chain(&self.tar).map(MappedFile::bytes_read).sum()
    }
}

/// Adds the files of a folder and of the folders in it. What the system cannot name in UTF-8 is none of ours.
fn list(folder: &Path, prefix: &str, levels: usize, files: &mut BTreeMap<String, Place>) -> Result<(), ModelError> {
    for entry in std::fs::read_dir(folder).map_err(ModelError::io(folder))? {
        let entry = entry.map_err(ModelError::io(folder))?;
        let path = entry.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let name = format!("{prefix}{name}");
        if entry.file_type().map_err(ModelError::io(&path))?.is_dir() {
            if levels > 1 {
                list(&path, &format!("{name}/"), levels - 1, files)?;
            }
            continue;
        }
        // A link that leads nowhere is no file.
        if let Ok(metadata) = path.metadata()
            && metadata.is_file()
        {
            let length = usize::try_from(metadata.len()).unwrap_or(usize::MAX);
            files.insert(name, Place::File { length, map: OnceLock::new() });
        }
    }
    Ok(())
}

/// Finds every file of a tar file; the error is a sentence without the tar file's name.
fn index(tar: &MappedFile) -> Result<BTreeMap<String, Place>, String> {
    let bytes = tar.bytes();
    if bytes.starts_with(&[0x1f, 0x8b]) {
        let path = tar.path().display();
        return Err(format!(
            "is compressed; unpack it (mkdir FOLDER && tar -xzf {path} -C FOLDER) and name the folder"
        ));
    }
    let unreadable = |e: std::io::Error| format!("is not a readable tar file: {e}");
    let mut archive = tar::Archive::new(Cursor::new(bytes));
    let mut files = BTreeMap::new();
    for entry in archive.entries_with_seek().map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let name = name(&entry.path_bytes())?;
        match entry.header().entry_type() {
            EntryType::Directory => continue,
            EntryType::Regular | EntryType::Continuous => {}
            other => return Err(format!("has an entry {name:?} that is no plain file but {other:?}")),
        }
        let range = usize::try_from(entry.raw_file_position()).ok().and_then(|start| {
            Some(start..start.checked_add(usize::try_from(entry.size()).ok()?)?).filter(|r| r.end <= bytes.len())
        });
        let range = range.ok_or_else(|| format!("is cut: entry {name:?} reaches past the end of the file"))?;
        if files.insert(name.clone(), Place::Part(range)).is_some() {
            return Err(format!("has two entries {name:?}"));
        }
    }
    Ok(files)
}

/// An entry's name without `./`, if it lies within the archive.
fn name(bytes: &[u8]) -> Result<String, String> {
    let name = str::from_utf8(bytes).map_err(|_| "has an entry of which the name is no UTF-8")?;
    let mut parts = Vec::new();
    for component in Path::new(name).components() {
        match component {
            Component::CurDir => {}
            Component::Normal(part) => parts.extend(part.to_str()),
            _ => return Err(format!("has an entry {name:?}, which would lie outside the archive")),
        }
    }
    Ok(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Name, type, the size that the header says, and content of an entry.
    type Given<'a> = (&'a str, EntryType, u64, &'a [u8]);

    fn tar(entries: &[Given]) -> Result<Store, ModelError> {
        let mut bytes = Vec::new();
        for (name, kind, size, content) in entries {
            let mut header = tar::Header::new_gnu();
            // Past what the crate would refuse to write.
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_entry_type(*kind);
            header.set_size(*size);
            header.set_mode(0o644);
            header.set_cksum();
            bytes.extend(header.as_bytes());
            bytes.extend(*content);
            bytes.resize(bytes.len().next_multiple_of(512), 0);
        }
        bytes.extend([0; 1024]);
        Store::read_tar(MappedFile::owned("model.nemo".into(), bytes))
    }

    #[test]
    fn entries_are_files_by_their_names() {
        let plain = EntryType::Regular;
        let store = tar(&[
            ("./", EntryType::Directory, 0, b""),
            ("./a.yaml", plain, 3, b"one"),
            ("./b/c/0.0", plain, 600, &[7; 600]),
            ("empty", plain, 0, b""),
        ])
        .unwrap();
        assert_eq!(store.names().collect::<Vec<_>>(), ["a.yaml", "b/c/0.0", "empty"]);
        assert_eq!(store.open("a.yaml").unwrap().all(), b"one");
        assert_eq!(store.open("b/c/0.0").unwrap().all(), [7; 600]);
        assert_eq!(store.length("empty"), Some(0));
        assert!(store.open("b").unwrap_err().to_string().contains("holds no b"));
    }

    #[test]
    fn what_is_no_plain_file_within_the_archive_is_refused() {
        let refused = |entries: &[Given]| tar(entries).unwrap_err().to_string();
        let plain = EntryType::Regular;
        assert!(refused(&[("../a", plain, 0, b"")]).contains("outside the archive"));
        assert!(refused(&[("b/../../a", plain, 0, b"")]).contains("outside the archive"));
        assert!(refused(&[("/etc/a", plain, 0, b"")]).contains("outside the archive"));
        assert!(refused(&[("a", EntryType::Symlink, 0, b"")]).contains("Symlink"));
        assert!(refused(&[("a", EntryType::Link, 0, b"")]).contains("Link"));
        assert!(refused(&[("a", plain, 1, b"x"), ("./a", plain, 1, b"y")]).contains("two entries"));
        assert!(refused(&[("a", plain, 1 << 32, b"x")]).contains("reaches past the end"));
        assert!(refused(&[("a", plain, u64::MAX >> 1, b"x")]).contains("model.nemo"));
        let squeezed = Store::read_tar(MappedFile::owned("m.nemo".into(), vec![0x1f, 0x8b, 8]));
        assert!(squeezed.unwrap_err().to_string().contains("tar -xzf m.nemo"));
    }
}
