//! Digests of weight files, remembered between starts, so that a model of many gigabytes is not hashed each time.
//!
//! Invariant: a digest is taken from memory only where the file is the one that was hashed, by all that the file system says of
//! it: path, device, inode, size, and the times of its last change of contents and of inode to the nanosecond. The last one
//! cannot be set by a program. A file that changed less than [`SETTLED`] before it was hashed is not remembered, for a later
//! change could bear the same times. Memory that cannot be read or written costs time and nothing else.

use std::fs::{self, Metadata};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::digest::{hex, tree_hash};
use crate::model::error::ModelError;

/// Smaller files are hashed each time, which takes a few milliseconds.
const LEAST_BYTES: u64 = 16 << 20;

/// How long a file must not have changed: more than file systems round their times by.
pub const SETTLED: Duration = Duration::from_secs(3);

/// First word of what is remembered, which changes with the way files are hashed.
const FORMAT: &str = "tree-sha256-1";

/// Where digests are remembered.
pub struct DigestMemory {
    folder: Option<PathBuf>,
    least_bytes: u64,
}

impl DigestMemory {
    /// Below a cache folder; an empty path remembers nothing.
    pub fn below(cache_dir: &Path) -> Self {
        let folder = (!cache_dir.as_os_str().is_empty()).then(|| cache_dir.join("digests"));
        Self { folder, least_bytes: LEAST_BYTES }
    }

    /// The file's [`tree_hash`].
    pub fn tree_hash(&self, path: &Path) -> Result<[u8; 32], ModelError> {
        let metadata = fs::metadata(path).map_err(ModelError::io(path))?;
        let Some(folder) = self.folder.as_deref().filter(|_| metadata.len() >= self.least_bytes) else {
            return tree_hash(path);
        };
        let place = fs::canonicalize(path).map_err(ModelError::io(path))?;
        let entry = folder.join(&hex(&super::digest::sha256(place.as_os_str().as_bytes()))[..32]);
        let identity = identity(&metadata);
        if let Some(digest) = remembered(&entry, &identity) {
            return Ok(digest);
        }
        let began = SystemTime::now();
        let digest = tree_hash(path)?;
        let after = fs::metadata(path).map_err(ModelError::io(path))?;
        if self::identity(&after) == identity && settled(&after, began) {
            remember(folder, &entry, &identity, &digest);
        }
        Ok(digest)
    }
}

/// All that tells a file that was changed or replaced from the one that it was.
fn identity(metadata: &Metadata) -> String {
    format!(
        "{FORMAT} {}:{} {} {}.{:09} {}.{:09}",
        metadata.dev(),
        metadata.ino(),
        metadata.len(),
        metadata.mtime(),
        metadata.mtime_nsec(),
        metadata.ctime(),
        metadata.ctime_nsec(),
    )
}

/// Whether the file's times lie well before this moment.
fn settled(metadata: &Metadata, moment: SystemTime) -> bool {
    let changed = metadata.mtime().max(metadata.ctime());
    let moment = moment.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(changed).is_ok_and(|changed| Duration::from_secs(changed) + SETTLED < moment)
}

/// The digest of a file with this identity, if it is the one that is remembered.
fn remembered(entry: &Path, identity: &str) -> Option<[u8; 32]> {
    let text = fs::read_to_string(entry).ok()?;
    let (found, digest) = text.trim_end().split_once('\n')?;
    if found != identity || digest.len() != 64 {
        return None;
    }
    let mut bytes = [0; 32];
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(digest.get(2 * i..2 * i + 2)?, 16).ok()?;
    }
    Some(bytes)
}

/// Under a name of its own first, so that nobody reads half of it.
fn remember(folder: &Path, entry: &Path, identity: &str, digest: &[u8]) {
    let write = || -> std::io::Result<()> {
        fs::create_dir_all(folder)?;
        let temporary = entry.with_extension(std::process::id().to_string());
        let mut file = fs::File::create(&temporary)?;
        writeln!(file, "{identity}\n{}", hex(digest))?;
        fs::rename(&temporary, entry)
    };
    if let Err(error) = write() {
        tracing::debug!(folder = %folder.display(), %error, "a file's digest could not be remembered");
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{File, FileTimes};

    use super::*;

    /// A file that has not changed for a minute, as far as its own time says, and the memory for it.
    fn file(folder: &Path, contents: &str) -> (PathBuf, DigestMemory) {
        let path = folder.join("weights");
        fs::write(&path, contents).unwrap();
        (path, DigestMemory { folder: Some(folder.join("digests")), least_bytes: 0 })
    }

    fn entries(memory: &DigestMemory) -> Vec<PathBuf> {
        let entries = fs::read_dir(memory.folder.as_ref().unwrap());
        entries.map_or(Vec::new(), |entries| entries.map(|entry| entry.unwrap().path()).collect())
    }

    #[test]
    fn a_file_that_has_just_changed_is_not_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let (path, memory) = file(folder.path(), "some weights");
        assert_eq!(memory.tree_hash(&path).unwrap(), tree_hash(&path).unwrap());
        assert_eq!(entries(&memory), [] as [PathBuf; 0]);
    }

    #[test]
    fn what_is_remembered_counts_for_the_same_file_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (path, memory) = file(folder.path(), "some weights");
        let entry = memory.folder.as_ref().unwrap().join("entry");
        let first = identity(&fs::metadata(&path).unwrap());
        remember(memory.folder.as_ref().unwrap(), &entry, &first, &[7; 32]);
        assert_eq!(remembered(&entry, &first), Some([7; 32]));
        // The same size and the same time of contents: the time of the inode tells.
        let modified = fs::metadata(&path).unwrap().modified().unwrap();
        let before = fs::metadata(&path).unwrap();
        while identity(&fs::metadata(&path).unwrap()) == identity(&before) {
            fs::write(&path, "same weights").unwrap();
            File::options()
                .write(true)
                .open(&path)
                .unwrap()
                .set_times(FileTimes::new().set_modified(modified))
                .unwrap();
        }
        let second = identity(&fs::metadata(&path).unwrap());
        assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), modified);
        assert_eq!(remembered(&entry, &second), None);
        for damaged in ["", "nothing", &format!("{first}\n00"), &format!("{first}\n{}", "é".repeat(32))] {
            fs::write(&entry, damaged).unwrap();
            assert_eq!(remembered(&entry, &first), None, "{damaged:?}");
        }
    }

    #[test]
    fn times_must_lie_in_the_past() {
        let folder = tempfile::tempdir().unwrap();
        let (path, _) = file(folder.path(), "");
        let metadata = fs::metadata(&path).unwrap();
        let changed = UNIX_EPOCH + Duration::from_secs(metadata.ctime() as u64);
        assert!(!settled(&metadata, changed + SETTLED));
        assert!(settled(&metadata, changed + SETTLED + Duration::from_secs(1)));
    }

    #[test]
    fn a_folder_that_cannot_be_written_costs_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let (path, memory) = file(folder.path(), "some weights");
        fs::write(memory.folder.as_ref().unwrap(), "a file where the folder should be").unwrap();
        remember(memory.folder.as_ref().unwrap(), &memory.folder.as_ref().unwrap().join("x"), "identity", &[0; 32]);
        assert_eq!(memory.tree_hash(&path).unwrap(), tree_hash(&path).unwrap());
    }
}
