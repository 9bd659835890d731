//! What the service manager is told (systemd's `Type=notify`): ready, stopping. One datagram each, and none where nobody asks.
//!
//! The protocol: <https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html>.

use std::ffi::OsStr;
use std::io;
use std::os::unix::net::UnixDatagram;

use tracing::warn;

/// What has become of the service.
#[derive(Debug, Clone, Copy)]
pub enum State {
    /// The model has given its known answer, and the transports listen.
    Ready,
    /// No new work is taken.
    Stopping,
}

impl State {
    fn message(self) -> &'static str {
        match self {
            State::Ready => "READY=1",
            State::Stopping => "STOPPING=1",
        }
    }
}

/// Tells whoever listens at `socket` (`NOTIFY_SOCKET`), if anybody does. That it cannot be told is no reason to end.
pub fn tell(socket: Option<&OsStr>, state: State) {
    let Some(socket) = socket else { return };
    if let Err(error) = send(socket, state.message()) {
        warn!("the service manager cannot be told {}: {}: {error}", state.message(), socket.display());
    }
}

#[cfg(target_os = "linux")]
fn send(socket: &OsStr, message: &str) -> io::Result<()> {
    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::net::SocketAddr;

    let sender = UnixDatagram::unbound()?;
    // A name that begins with @ is one of the abstract namespace.
    match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => sender.send_to_addr(message.as_bytes(), &SocketAddr::from_abstract_name(name)?)?,
        None => sender.send_to(message.as_bytes(), socket)?,
    };
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn send(socket: &OsStr, message: &str) -> io::Result<()> {
    UnixDatagram::unbound()?.send_to(message.as_bytes(), socket).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manager_hears_of_both() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        for (state, expected) in [(State::Ready, "READY=1"), (State::Stopping, "STOPPING=1")] {
            tell(Some(path.as_os_str()), state);
            let mut message = [0; 64];
            let length = manager.recv(&mut message).unwrap();
            assert_eq!(std::str::from_utf8(&message[..length]).unwrap(), expected);
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn an_abstract_name_is_understood() {
        use std::os::linux::net::SocketAddrExt as _;
        use std::os::unix::net::SocketAddr;

        let name = format!("reward-sidecar-notify-{}", std::process::id());
        let manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        send(OsStr::new(&format!("@{name}")), "READY=1").unwrap();
        let mut message = [0; 64];
        assert_eq!(manager.recv(&mut message).unwrap(), 7);
    }

    #[test]
    fn nobody_is_told_where_nobody_asks_or_listens() {
        tell(None, State::Ready);
        tell(Some(OsStr::new("/no/such/socket")), State::Ready);
    }
}
