//! A Unix socket that is listened on, and its place in the file system.
//!
//! Invariant: from the moment at which the socket can be connected to, its file has its final mode.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, fchmod};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};

use crate::sidecar::listen_error::{ListenError, SocketError};

/// For this user alone: the socket carries no authentication of its own.
const MODE: u32 = 0o600;

/// Connections that wait to be accepted; the system may allow fewer.
const BACKLOG: i32 = 4096;

/// A Unix socket's path; removed when dropped, unless somebody else has put another file there meanwhile.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if std::fs::symlink_metadata(&self.path).is_ok_and(|meta| meta.ino() == self.inode) {
            // Somebody else may have cleaned up already.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Listens at `path`, for this user alone. Non-blocking. `setting` names the path, for messages.
pub fn bind(setting: &'static str, path: &Path) -> Result<(UnixListener, SocketFile), ListenError> {
    let failed = |why| ListenError::Socket { setting, path: path.to_owned(), why };
    if let Some(why) = SocketError::of(path) {
        return Err(failed(why));
    }
    listen(path).map_err(|error| failed(SocketError::from_io(error, path)))
}

fn listen(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    // A socket that nobody listens on was left by a process that died; anything else is not ours to remove.
    if std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket())
        && UnixStream::connect(path).is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused)
    {
        std::fs::remove_file(path)?;
    }
    let (socket, file) = create(path)?;
    rustix::net::listen(&socket, BACKLOG)?;
    let listener = UnixListener::from(socket);
    listener.set_nonblocking(true)?;
    Ok((listener, file))
}

/// A socket at `path` in its final mode, on which nobody listens: every connection is refused.
fn create(path: &Path) -> io::Result<(OwnedFd, SocketFile)> {
    let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None)?;
    fcntl_setfd(&socket, FdFlags::CLOEXEC)?;
    // Linux makes the file with the mode that the socket has, less the umask; systems that cannot say no here.
    let _ = fchmod(&socket, Mode::from_raw_mode(MODE as _));
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    let file = SocketFile { path: path.to_owned(), inode: std::fs::symlink_metadata(path)?.ino() };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(MODE))?;
    Ok((socket, file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mode_is_final_before_anybody_can_connect() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sock");
        let (socket, file) = create(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, MODE);
        assert_eq!(UnixStream::connect(&path).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        drop((socket, file));
        assert!(!path.exists());

        let (listener, file) = bind("uds", &path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, MODE);
        UnixStream::connect(&path).unwrap();
        listener.accept().unwrap();
        // Somebody listens there: the path is taken.
        let taken = bind("uds", &path).unwrap_err();
        assert!(matches!(taken, ListenError::Socket { why: SocketError::Taken, .. }), "{taken}");
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn a_socket_that_a_dead_process_left_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let (_listener, _file) = bind("uds", &path).unwrap();
        UnixStream::connect(&path).unwrap();
    }
}
