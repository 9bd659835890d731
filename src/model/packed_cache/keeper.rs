//! Who writes packed weights, and makes room for them.
//!
//! Invariant: a file has its name only once all of it is on the disk, and its digest stands beside it only after that. The files
//! take no more room than they may: those that were used least recently make way.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime};

use super::Matrices;
use super::file::{self, digest_of};
use crate::model::checkpoint::digest::hex;
use crate::model::checkpoint::digest_memory::{DigestMemory, SETTLED};
use crate::model::config::DiskRoom;

/// A file that nobody has finished for so long was left by a program that ended.
const ABANDONED: Duration = Duration::from_secs(3600);

/// The share of the disk's free room that all files may take where nobody says how much.
const SHARE: u64 = 4;

/// One file that is to be written.
pub struct Keeper {
    pub path: PathBuf,
    pub matrices: Matrices,
    pub digests: DigestMemory,
    pub room: DiskRoom,
}

impl Keeper {
    /// Writes the matrices, and lets go of them. Then the file is read once: it has what was written, and the next start need not
    /// hash it.
    pub fn keep(mut self) {
        let mib = file::bytes_of(&self.matrices) >> 20;
        match self.write() {
            Ok(true) => {}
            Ok(false) => {
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

    /// Whether there was room.
    pub(super) fn write(&self) -> io::Result<bool> {
        let Some(folder) = self.path.parent() else { return Ok(false) };
        fs::create_dir_all(folder)?;
        if !self.make_room(folder, file::bytes_of(&self.matrices))? {
            return Ok(false);
        }
        let part = self.path.with_extension(format!("{}.part", std::process::id()));
        let written = file::write(&part, &self.matrices).and_then(|digest| {
            fs::rename(&part, &self.path)?;
            let mut record = fs::File::create(digest_of(&self.path))?;
            writeln!(record, "{}", hex(&digest))
        });
        if written.is_err() {
            let _ = fs::remove_file(&part);
        }
        written.map(|()| true)
    }

    /// Removes what was left behind, and files until there is room for `bytes` more; whether there is.
    fn make_room(&self, folder: &Path, bytes: u64) -> io::Result<bool> {
        let mut files = Vec::new();
        let now = SystemTime::now();
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            // Another program may have removed it.
            let Ok(metadata) = fs::metadata(&path) else { continue };
            let age = |time: io::Result<SystemTime>| time.ok().and_then(|time| now.duration_since(time).ok());
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("part") if age(metadata.modified()).is_some_and(|age| age > ABANDONED) => {
                    let _ = fs::remove_file(&path);
                }
                Some("safetensors") if path != self.path => {
                    let used = fs::metadata(digest_of(&path)).and_then(|digest| digest.modified());
                    files.push((used.unwrap_or(SystemTime::UNIX_EPOCH), metadata.len(), path));
                }
                _ => {}
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

/// Bytes of the folder's disk that this process may still take.
fn free(folder: &Path) -> io::Result<u64> {
    let disk = rustix::fs::statvfs(folder)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}
