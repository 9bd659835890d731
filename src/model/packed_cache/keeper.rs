//! Who writes packed weights, and makes room for them.
//!
//! Invariant: a file has its name only once all of it is on the disk, and its digest stands beside it only after that. One process
//! at a time writes it. The files take no more room than they may: those that were used least recently make way.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime};

use super::Matrices;
use super::file::{self, digest_of};
use crate::model::checkpoint::digest::hex;
use crate::model::checkpoint::digest_memory::{DigestMemory, SETTLED};
use crate::model::config::DiskRoom;

/// Files of another build of this program, and unfinished ones, that nobody used for so long will not be used again.
const OUTDATED: Duration = Duration::from_secs(24 * 3600);

/// The share of the disk's free room that all files may take where nobody says how much.
const SHARE: u64 = 4;

/// One file that is to be written.
pub struct Keeper {
    pub path: PathBuf,
    pub matrices: Matrices,
    pub digests: DigestMemory,
    pub room: DiskRoom,
}

/// What became of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kept {
    Written,
    /// Another process writes it, or has.
    ByAnother,
    NoRoom,
}

impl Keeper {
    /// Writes the matrices, and lets go of them. Then the file is read once: it has what was written, and the next start need not
    /// hash it.
    pub fn keep(mut self) {
        let mib = file::bytes_of(&self.matrices) >> 20;
        match self.write() {
            Ok(Kept::Written) => {}
            Ok(Kept::ByAnother) => return,
            Ok(Kept::NoRoom) => {
                return tracing::info!(
                    "packed weights are not kept: {mib} MiB are more than packed_cache_bytes has room for"
                );
            }
            Err(error) => {
                return tracing::warn!(file = %self.path.display(), %error, "packed weights could not be kept; the next start packs them again");
            }
        }
        self.matrices.clear();
        // What changed just now is not remembered; see there.
        thread::sleep(SETTLED + Duration::from_secs(1));
        let one = rayon::ThreadPoolBuilder::new().num_threads(1).build();
        let is_whole = one.is_ok_and(|one| one.install(|| file::is_whole(&self.path, &self.digests)));
        if is_whole {
            tracing::info!(file = %self.path.display(), "packed weights are kept ({mib} MiB): the next start maps them");
        }
    }

    /// Writes the matrices, if there is room and nobody else does.
    pub(super) fn write(&self) -> io::Result<Kept> {
        let Some(folder) = self.path.parent() else { return Ok(Kept::NoRoom) };
        fs::create_dir_all(folder)?;
        let part = self.path.with_extension("part");
        let mut file = File::options().create(true).truncate(false).write(true).open(&part)?;
        // A process that ends lets go of its lock. Whoever held it may have given the file its name, and ours is no part any more.
        let is_ours = file.try_lock().is_ok() && fs::metadata(&part).is_ok_and(|it| same(&it, &file));
        if !is_ours {
            return Ok(Kept::ByAnother);
        }
        let written = self.write_to(&mut file, &part, folder);
        if !matches!(written, Ok(Kept::Written)) {
            let _ = fs::remove_file(&part);
        }
        written
    }

    fn write_to(&self, file: &mut File, part: &Path, folder: &Path) -> io::Result<Kept> {
        if !self.make_room(folder, file::bytes_of(&self.matrices))? {
            return Ok(Kept::NoRoom);
        }
        file.set_len(0)?;
        let digest = file::write(file, &self.matrices)?;
        fs::rename(part, &self.path)?;
        writeln!(File::create(digest_of(&self.path))?, "{}", hex(&digest))?;
        Ok(Kept::Written)
    }

    /// Removes outdated files, and others until there is room for `bytes` more; whether there is.
    fn make_room(&self, folder: &Path, bytes: u64) -> io::Result<bool> {
        let (now, mut files) = (SystemTime::now(), Vec::new());
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            // Another process may have removed it.
            let Ok(metadata) = fs::metadata(&path) else { continue };
            let extension = path.extension().and_then(|extension| extension.to_str());
            let is_part = extension == Some("part");
            let used = match extension {
                Some("safetensors") if path != self.path => fs::metadata(digest_of(&path)).and_then(|it| it.modified()),
                _ if is_part => metadata.modified(),
                _ => continue,
            };
            let used = used.unwrap_or(SystemTime::UNIX_EPOCH);
            let may_be_outdated = is_part || without_program(&path) == without_program(&self.path);
            if may_be_outdated && now.duration_since(used).is_ok_and(|age| age > OUTDATED) {
                file::remove(&path);
            } else if !is_part {
                files.push((used, metadata.len(), path));
            }
        }
        files.sort();
        let mut taken: u64 = files.iter().map(|(_, bytes, _)| bytes).sum();
        let room = match self.room {
            DiskRoom::Bytes(room) => room,
            DiskRoom::Auto => (free(folder)? + taken) / SHARE,
        };
        if bytes > room {
            return Ok(false);
        }
        for (_, bytes_of_file, path) in files {
            if taken + bytes <= room {
                break;
            }
            tracing::info!(file = %path.display(), "packed weights are removed to make room");
            file::remove(&path);
            taken -= bytes_of_file;
        }
        Ok(true)
    }
}

/// A file's name without the digest of the program at its end.
fn without_program(path: &Path) -> Option<&str> {
    path.file_stem()?.to_str()?.rsplit_once('-').map(|(model, _)| model)
}

/// Whether a path's metadata are those of an open file.
fn same(metadata: &fs::Metadata, file: &File) -> bool {
    file.metadata().is_ok_and(|open| (open.dev(), open.ino()) == (metadata.dev(), metadata.ino()))
}

/// Bytes of the folder's disk that this process may still take.
fn free(folder: &Path) -> io::Result<u64> {
    let disk = rustix::fs::statvfs(folder)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}
