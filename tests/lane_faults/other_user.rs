//! A process of another user gets no lane, and hears so at once and in words that say what to do. Needs root, to become
//! somebody else.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Output};

use reward_sidecar::client::blocking::Client;

/// Nobody's.
const UID: u32 = 65_534;

/// What the other process does: it says why it gets no lane, or that it got one.
pub fn connect(socket: &Path) {
    match Client::connect(format!("shm://{}", socket.display())) {
        Ok(_) => println!("CONNECTED"),
        Err(error) => println!("{}: {error}", error.code()),
    }
}

pub fn is_refused_at_once(socket: &Path) {
    if !rustix::process::geteuid().is_root() {
        println!("another user's client: not tried, since this is not root");
        return;
    }
    // The build's folder may be closed to others, and so is the socket's.
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("client");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let modes = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    modes(folder.path(), 0o755);
    let ask = || {
        let Output { stdout, status, .. } =
            Command::new(&program).arg("--connect").arg(socket).uid(UID).gid(UID).current_dir("/").output().unwrap();
        assert!(status.success());
        String::from_utf8(stdout).unwrap()
    };
    modes(socket.parent().unwrap(), 0o700);
    let closed = ask();
    assert!(closed.starts_with("REFUSED: ") && closed.contains("its folder may not be entered"), "{closed}");
    modes(socket.parent().unwrap(), 0o755);
    let forbidden = ask();
    assert!(
        forbidden.starts_with("WRONG_OWNER: ") && forbidden.contains("user 0, this client as user 65534"),
        "{forbidden}"
    );
    // The system lets it connect, and the sidecar sends it away.
    modes(socket, 0o666);
    let refused = ask();
    assert!(refused.starts_with("WRONG_OWNER: ") && refused.contains("user 0, this client as user 65534"), "{refused}");
    println!("another user's client is told so: {refused}");
}
