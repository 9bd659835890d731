//! Why nobody can be listened to at an address or a path.
//!
//! The invariant: each message names the setting, what was found there, and what to do.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Longest path of a Unix socket, in bytes: `sun_path` less the zero at its end (unix(7): 108 on Linux, 104 on BSD and macOS).
pub const MAX_SOCKET_PATH_BYTES: usize = if cfg!(target_os = "linux") { 107 } else { 103 };

/// Why an address or a path cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// A TCP address.
    #[error("cannot listen on {address} ({setting}): {}; {}", reason(.source), remedy(.setting, *.address, .source))]
    Address {
        /// The setting that names it.
        setting: &'static str,
        /// The address.
        address: SocketAddr,
        /// The system's reason.
        source: io::Error,
    },
    /// A host's name.
    #[error(
        "cannot listen on {name} ({setting}): {source}; give an address of this machine, such as 127.0.0.1 (this machine alone)"
    )]
    Name {
        /// The setting that has it.
        setting: &'static str,
        /// The name, and the port.
        name: String,
        /// The system's reason.
        source: io::Error,
    },
    /// A Unix socket's path.
    #[error("cannot listen on {} ({setting}): {why}", path.display())]
    Socket {
        /// The setting that names it.
        setting: &'static str,
        /// The path.
        path: PathBuf,
        /// What is wrong there.
        why: SocketError,
    },
}

/// What is wrong with the path of a Unix socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The system has no room for it.
    #[error(
        "the path has {found} bytes, and a socket's may have {MAX_SOCKET_PATH_BYTES}; give a shorter one, such as /tmp/rewards.sock"
    )]
    TooLong {
        /// Its length in bytes.
        found: usize,
    },
    /// A folder on the way does not exist.
    #[error("the folder {} does not exist; make it, or give a path in a folder that exists, such as /tmp/rewards.sock", missing.display())]
    NoFolder {
        /// The first that is missing.
        missing: PathBuf,
    },
    /// Something on the way is no folder.
    #[error("{} is no folder; give a path in a folder that exists, such as /tmp/rewards.sock", found.display())]
    NotAFolder {
        /// What stands in its place.
        found: PathBuf,
    },
    /// The path is a folder's.
    #[error("this is a folder; give the path of a socket in it, such as {}", path.join("rewards.sock").display())]
    IsAFolder {
        /// The folder.
        path: PathBuf,
    },
    /// A file that is no socket.
    #[error("there is a file that is no socket, which is not removed; remove it, or give another path")]
    OtherFile,
    /// Another process listens there.
    #[error("another process listens there; stop it, or give another path")]
    Taken,
    /// This process may not make a file there.
    #[error("permission denied: user {user} may not make a file in {}; give a path in a folder that it may write to", folder.display())]
    Denied {
        /// This process's user id.
        user: u32,
        /// The folder.
        folder: PathBuf,
    },
    /// Anything else.
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl SocketError {
    /// What is wrong with `path`, as far as can be seen without listening there.
    pub fn of(path: &Path) -> Option<Self> {
        use std::os::unix::ffi::OsStrExt as _;
        let found = path.as_os_str().as_bytes().len();
        if found > MAX_SOCKET_PATH_BYTES {
            return Some(Self::TooLong { found });
        }
        // From the root down: the first part that is wrong is what has to be mended.
        let mut folders: Vec<&Path> =
            path.ancestors().skip(1).filter(|folder| !folder.as_os_str().is_empty()).collect();
        folders.reverse();
        for folder in folders {
            match folder.metadata() {
                Ok(found) if found.is_dir() => {}
                Ok(_) => return Some(Self::NotAFolder { found: folder.to_owned() }),
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    return Some(Self::NoFolder { missing: folder.to_owned() });
                }
                Err(error) => return Some(Self::from_io(error, path)),
            }
        }
        let existing = path.metadata().ok()?;
        if existing.is_dir() {
            return Some(Self::IsAFolder { path: path.to_owned() });
        }
        let is_socket = std::os::unix::fs::FileTypeExt::is_socket(&existing.file_type());
        if is_socket { None } else { Some(Self::OtherFile) }
    }

    /// What the system said about the socket at `path`.
    pub fn from_io(error: io::Error, path: &Path) -> Self {
        match error.kind() {
            ErrorKind::AddrInUse => Self::Taken,
            ErrorKind::PermissionDenied => {
                let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
                Self::Denied { user: rustix::process::geteuid().as_raw(), folder: folder.to_owned() }
            }
            _ => Self::Io(error),
        }
    }
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::AddrInUse => "another process listens there".into(),
        ErrorKind::AddrNotAvailable => "no network interface of this machine has this address".into(),
        ErrorKind::PermissionDenied => "permission denied".into(),
        _ => error.to_string(),
    }
}

fn remedy(setting: &str, address: SocketAddr, error: &io::Error) -> String {
    // A port of the system's own choice is said in the log.
    let any = SocketAddr::new(address.ip(), 0);
    match (setting, error.kind()) {
        ("admin", ErrorKind::AddrInUse) => {
            format!("give --admin off, --admin {any} (the system picks a port), or another port")
        }
        (_, ErrorKind::AddrInUse) => {
            format!("stop it, or give --{setting} {any} (the system picks a port), or another port")
        }
        (_, ErrorKind::AddrNotAvailable) => {
            format!(
                "give --{setting} 127.0.0.1:{0} (this machine alone) or 0.0.0.0:{0} (all of its interfaces)",
                address.port()
            )
        }
        (_, ErrorKind::PermissionDenied) => "ports below 1024 need a privilege; give a higher one".into(),
        _ => format!("give --{setting} another address"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_sockets_path_is_found_part_by_part() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("file"), "").unwrap();
        assert!(SocketError::of(&at("a.sock")).is_none() && SocketError::of(Path::new("a.sock")).is_none());
        let says = |path: &Path| SocketError::of(path).unwrap().to_string();
        let missing = at("a/b/c.sock");
        assert!(says(&missing).starts_with(&format!("the folder {} does not exist; make it", at("a").display())));
        assert!(says(&at("file/c.sock")).starts_with(&format!("{} is no folder", at("file").display())));
        assert!(says(&at("file")).contains("no socket"));
        assert!(says(folder.path()).contains("this is a folder"));
        let long = at(&"x".repeat(200));
        assert!(says(&long).contains(&format!("the path has {} bytes", long.as_os_str().len())), "{}", says(&long));
        // The longest that may be can be listened on, and one byte more cannot.
        let room = MAX_SOCKET_PATH_BYTES - folder.path().as_os_str().len() - 1;
        let longest = at(&"x".repeat(room));
        assert!(SocketError::of(&longest).is_none());
        std::os::unix::net::UnixListener::bind(&longest).unwrap();
        assert!(std::os::unix::net::UnixListener::bind(at(&"y".repeat(room + 1))).is_err());
    }
}
