//! A Unix socket that is listened on, and its place in the file system.

use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

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

/// Listens at `path`, for this user alone: the socket carries no authentication of its own. Non-blocking.
pub fn bind(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    // A socket that nobody listens on was left by a process that died; anything else is not ours to remove.
    if std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket())
        && UnixStream::connect(path).is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused)
    {
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    let file = SocketFile { path: path.to_owned(), inode: std::fs::symlink_metadata(path)?.ino() };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok((listener, file))
}
