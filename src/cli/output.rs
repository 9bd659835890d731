//! Where data goes: standard output, or a file.
//!
//! The invariant: a file that was there stays whole until what replaces it is complete and on the disk. What cannot be
//! replaced (a pipe, a terminal, a device) is written in place.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use rustix::fs::Access;

use super::compression::{self, Encoder};
use super::failure::Failure;
use super::resume::{self, Kept};

/// Writes a command's whole answer to standard output.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    written.map_err(|error| Failure::output("standard output", &error))
}

/// Whether a path on the command line stands for standard input or output.
pub fn is_standard(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// Whether a file can be written at `path`, as far as can be told without touching what is there.
///
/// # Errors
///
/// What is in the way, and what to do.
pub fn check(path: &Path) -> Result<(), Failure> {
    if is_standard(path) {
        return Ok(());
    }
    let refuse = |why: String| Err(Failure::usage("OUTPUT", format!("cannot write {}: {why}", path.display())));
    let denied = |path: &Path, access| rustix::fs::access(path, access).is_err();
    let folder = folder_of(path);
    match path.metadata() {
        Ok(found) if found.is_dir() => refuse("this is a folder; give the name of a file in it".into()),
        Ok(_) if denied(path, Access::WRITE_OK) => refuse("permission denied; give another path".into()),
        Ok(_) => Ok(()),
        Err(_) if !folder.is_dir() => {
            let missing = folder.ancestors().filter(|folder| !folder.exists()).last().unwrap_or(folder);
            refuse(format!("there is no folder {}; make it, or give another path", missing.display()))
        }
        Err(_) if denied(folder, Access::WRITE_OK | Access::EXEC_OK) => {
            refuse(format!("no file may be made in {}; give another path", folder.display()))
        }
        Err(_) => Ok(()),
    }
}

/// An output that was opened. Dropped without [`Output::finish`], it leaves an earlier file as it was; what had been
/// written so far stays in the temporary file beside it, unless there is nothing in it.
pub struct Output {
    /// As it was named, for messages.
    name: String,
    kind: Kind,
}

enum Kind {
    Standard,
    InPlace(File),
    Replacement(Replacement),
}

/// A temporary file, in the folder of the file that it is to replace.
struct Replacement {
    file: File,
    temporary: PathBuf,
    target: PathBuf,
    /// The name by which its text is compressed at the end, where there is something to do.
    compress_as: Option<PathBuf>,
    finished: bool,
}

impl Output {
    /// Opens a file for writing, or standard output for `-`.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let name = path.display().to_string();
        if is_standard(path) {
            return Ok(Self { name, kind: Kind::Standard });
        }
        match open(path) {
            Ok(kind) => Ok(Self { name, kind }),
            Err(error) => Err(Failure::usage("OUTPUT", format!("cannot write {name}: {error}"))),
        }
    }

    /// Opens what an interrupted run has left, to go on behind its last complete line; or a file that a later run can go on from.
    /// It holds plain text: nothing can be added to a compressed file that breaks off. [`Output::finish`] compresses it where
    /// the name asks for that.
    pub fn resume(path: &Path) -> Result<(Self, Kept), Failure> {
        let fail = |path: &Path, error: io::Error| {
            Failure::usage("OUTPUT", format!("cannot resume with {}: {error}", path.display()))
        };
        // Of a link to a file the file is replaced.
        let target =
            if path.exists() { path.canonicalize().map_err(|error| fail(path, error))? } else { path.to_owned() };
        if target.metadata().is_ok_and(|found| !found.is_file()) {
            return Err(fail(path, io::Error::other("this is no file")));
        }
        let temporary = resume::path_for(&target);
        let (file, kept) = resume::open(&temporary).map_err(|error| fail(&temporary, error))?;
        let compress_as = compression::is_named_compressed(path).then(|| path.to_owned());
        let replacement = Replacement { file, temporary, target, compress_as, finished: false };
        Ok((Self { name: path.display().to_string(), kind: Kind::Replacement(replacement) }, kept))
    }

    /// Leaves what was written where another run can go on from it; says where that is, and how much.
    pub fn leave(self, resumable: bool) -> String {
        let Kind::Replacement(mut replacement) = self.kind else { return format!("{} is not complete", self.name) };
        let rows = resume::count_lines(&replacement.temporary).unwrap_or(0);
        if !resumable || rows == 0 {
            return format!("{} is as it was", self.name);
        }
        let resumable_place = resume::path_for(&replacement.target);
        // What an earlier run has left there is not thrown away.
        if replacement.temporary != resumable_place
            && !resumable_place.exists()
            && std::fs::rename(&replacement.temporary, &resumable_place).is_ok()
        {
            replacement.temporary.clone_from(&resumable_place);
        }
        replacement.finished = true;
        let place = replacement.temporary.display();
        let rows = if rows == 1 { "1 row is".to_owned() } else { format!("{rows} rows are") };
        if replacement.temporary != resumable_place {
            let earlier = resumable_place.display();
            return format!(
                "{rows} in {place}, as {earlier} is there: the same command with --resume goes on from the latter"
            );
        }
        format!("{rows} in {place}; the same command with --resume goes on from there")
    }

    /// A buffered writer of this output. Flush it before [`Output::finish`].
    pub fn writer(&self) -> Result<Box<dyn Write + Send>, Failure> {
        let file = match &self.kind {
            Kind::Standard => return Ok(Box::new(BufWriter::new(io::stdout()))),
            Kind::InPlace(file) | Kind::Replacement(Replacement { file, .. }) => file,
        };
        let file = file.try_clone().map_err(|error| Failure::output(&self.name, &error))?;
        Ok(Box::new(BufWriter::new(file)))
    }

    /// Everything has been written: puts it on the disk and in the place of an earlier file.
    pub fn finish(self) -> Result<(), Failure> {
        let Self { name, kind } = self;
        let Kind::Replacement(mut replacement) = kind else { return Ok(()) };
        replacement.finish().map_err(|error| {
            let message =
                format!("cannot write {name}: {error}; what was written is in {}", replacement.temporary.display());
            Failure::output_lost(message)
        })
    }
}

fn open(path: &Path) -> io::Result<Kind> {
    let existing = match path.metadata() {
        Ok(metadata) => Some(metadata),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    // Of a link to a file the file is replaced. A link to nothing yet has no path that can be replaced.
    let target = match &existing {
        Some(_) => path.canonicalize()?,
        None if path.symlink_metadata().is_ok() => return File::create(path).map(Kind::InPlace),
        None => path.to_owned(),
    };
    if existing.as_ref().is_some_and(|metadata| !metadata.is_file()) {
        return File::create(path).map(Kind::InPlace);
    }
    if existing.is_some() {
        // A file that may not be written is not replaced either.
        OpenOptions::new().write(true).open(path)?;
    }
    match Replacement::create(&target, existing.map(|metadata| metadata.permissions())) {
        Ok(replacement) => Ok(Kind::Replacement(replacement)),
        // A folder that takes no new file may have one that can be written.
        Err(error) if target.exists() => {
            tracing::warn!("{}: {error}: no file can be made beside it, so it is written in place", path.display());
            File::create(path).map(Kind::InPlace)
        }
        Err(error) => Err(error),
    }
}

impl Replacement {
    fn create(target: &Path, permissions: Option<std::fs::Permissions>) -> io::Result<Self> {
        let folder = folder_of(target);
        let mut attempt = 0;
        let (file, temporary) = loop {
            let temporary = folder.join(format!(".reward-sidecar-{}-{attempt}.partial", std::process::id()));
            match OpenOptions::new().write(true).create_new(true).open(&temporary) {
                Ok(file) => break (file, temporary),
                // A process that was killed had the same number.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && attempt < 100 => attempt += 1,
                Err(error) => return Err(error),
            }
        };
        let replacement = Self { file, temporary, target: target.to_owned(), compress_as: None, finished: false };
        if let Some(permissions) = permissions {
            replacement.file.set_permissions(permissions)?;
        }
        Ok(replacement)
    }

    fn finish(&mut self) -> io::Result<()> {
        if let Some(name) = &self.compress_as {
            let mut compressed = Self::create(&self.target, None)?;
            let mut encoder = Encoder::new(name, BufWriter::new(compressed.file.try_clone()?))?;
            io::copy(&mut File::open(&self.temporary)?, &mut encoder)?;
            encoder.finish()?;
            compressed.finish()?;
            self.finished = true;
            return std::fs::remove_file(&self.temporary);
        }
        self.file.sync_all()?;
        match std::fs::rename(&self.temporary, &self.target) {
            // A file that is mounted by itself, as into a container, takes another content but no other file.
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                std::fs::copy(&self.temporary, &self.target)?;
                std::fs::remove_file(&self.temporary)?;
            }
            renamed => renamed?,
        }
        self.finished = true;
        // The new name is on the disk once the folder is. Some file systems cannot sync one; there the name follows later.
        if let Ok(folder) = File::open(folder_of(&self.target)) {
            let _ = folder.sync_all();
        }
        Ok(())
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        let path = self.temporary.display();
        match self.file.metadata() {
            Ok(metadata) if metadata.len() > 0 => tracing::warn!("what was written so far is in {path}"),
            // It cannot be helped, and there is nothing in it.
            _ => drop(std::fs::remove_file(&self.temporary)),
        }
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn write(output: &Output, text: &str) {
        let mut writer = output.writer().unwrap();
        writer.write_all(text.as_bytes()).unwrap();
        writer.flush().unwrap();
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = entries.collect();
        names.sort();
        names
    }

    #[test]
    fn an_earlier_file_stays_until_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rewards");
        std::fs::write(&path, "earlier").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let output = Output::open(&path).unwrap();
        write(&output, "later");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "earlier");
        output.finish().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "later");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(names(folder.path()), ["rewards"]);
    }

    #[test]
    fn what_was_not_finished_replaces_nothing_and_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rewards");
        std::fs::write(&path, "earlier").unwrap();
        drop(Output::open(&path).unwrap());
        assert_eq!(names(folder.path()), ["rewards"], "nothing was written");
        let output = Output::open(&path).unwrap();
        write(&output, "half");
        drop(output);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "earlier");
        let [partial, _] = &names(folder.path())[..] else { panic!("no partial file") };
        assert!(partial.starts_with(".reward-sidecar-"), "{partial}");
        assert_eq!(std::fs::read_to_string(folder.path().join(partial)).unwrap(), "half");
        // The name is taken; the next one gets another.
        let again = Output::open(&path).unwrap();
        write(&again, "whole");
        again.finish().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "whole");
    }

    /// Two runs of one command: the second must not be told that `--resume` goes on from its own rows.
    #[test]
    fn what_an_earlier_run_has_left_stays_and_is_what_resume_takes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rewards");
        let place = resume::path_for(&path);
        for said in ["rewards.partial; the same command with --resume", "rewards.partial is there: the same command"] {
            let output = Output::open(&path).unwrap();
            write(&output, "{}\n");
            let left = output.leave(true);
            assert!(left.starts_with("1 row is in ") && left.contains(said), "{left}");
        }
        assert_eq!(resume::count_lines(&place).unwrap(), 1);
    }

    #[test]
    fn a_link_stays_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let (link, file) = (folder.path().join("link"), folder.path().join("file"));
        std::os::unix::fs::symlink("file", &link).unwrap();
        for text in ["first, when the link leads nowhere", "second"] {
            let output = Output::open(&link).unwrap();
            write(&output, text);
            output.finish().unwrap();
            assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
            assert!(link.symlink_metadata().unwrap().is_symlink());
        }
    }

    #[test]
    fn a_pipe_is_written_in_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(made.success());
        // Opening either end waits for the other.
        let reader = std::thread::spawn({
            let path = path.clone();
            move || {
                let mut text = String::new();
                File::open(path).unwrap().read_to_string(&mut text).unwrap();
                text
            }
        });
        let output = Output::open(&path).unwrap();
        write(&output, "through");
        output.finish().unwrap();
        assert_eq!(reader.join().unwrap(), "through");
        assert_eq!(names(folder.path()), ["pipe"]);
    }

    #[test]
    fn a_folder_is_no_output() {
        let folder = tempfile::tempdir().unwrap();
        for path in [folder.path(), &folder.path().join("no/such/file")] {
            assert!(matches!(Output::open(path), Err(Failure::Fatal { code: "OUTPUT", .. })));
        }
    }
}
