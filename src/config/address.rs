//! Addresses to listen on, as people write them: `127.0.0.1:50051`, `localhost:50051`, `:50051`.
//!
//! The invariant: whether a text is an address is decided without asking anybody; a name is looked up once, when it is known that
//! its value counts.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, ToSocketAddrs as _};

/// Whether `text` is `IP:PORT`, `NAME:PORT` or `:PORT`.
pub fn is_address(text: &str) -> bool {
    text.parse::<SocketAddr>().is_ok() || parts(text).is_some()
}

/// The address that `text` means. `:PORT` is all interfaces of this machine, as in Go and in gRPC's own tools. Of a name's addresses
/// the first of IPv4 is taken, or else the first: `localhost` is 127.0.0.1.
///
/// # Errors
///
/// The name has no address.
pub fn resolve(text: &str) -> io::Result<SocketAddr> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let (name, port) = parts(text).ok_or(io::ErrorKind::InvalidInput)?;
    if name.is_empty() {
        return Ok((Ipv4Addr::UNSPECIFIED, port).into());
    }
    let all: Vec<SocketAddr> = (name, port).to_socket_addrs()?.collect();
    let first = all.iter().find(|address| address.is_ipv4()).or(all.first());
    first.copied().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address"))
}

/// A name (RFC 1123, and `_`, which container networks use), which may be empty, and a port.
fn parts(text: &str) -> Option<(&str, u16)> {
    let (name, port) = text.rsplit_once(':')?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    // What looks like numbers is a mistyped address of IPv4 and no name.
    let number = !name.is_empty() && name.chars().all(|c| c.is_ascii_digit() || c == '.');
    let digits = !port.is_empty() && port.chars().all(|c| c.is_ascii_digit());
    if !name.chars().all(plain) || number || !digits { None } else { Some((name, port.parse().ok()?)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_as_people_write_them() {
        for (text, means) in [
            ("127.0.0.1:50051", "127.0.0.1:50051"),
            ("[::1]:0", "[::1]:0"),
            (":50051", "0.0.0.0:50051"),
            ("localhost:50051", "127.0.0.1:50051"),
        ] {
            assert!(is_address(text), "{text}");
            assert_eq!(resolve(text).unwrap(), means.parse().unwrap(), "{text}");
        }
        for text in [
            "",
            "localhost",
            "50051",
            "127.0.0.1",
            "127.0.0:1",
            "256.0.0.1:1",
            "a b:1",
            "a:",
            "a:70000",
            "a:+1",
            "::1:5",
        ] {
            assert!(!is_address(text), "{text}");
        }
        assert!(resolve("no-such-host.invalid:1").is_err());
    }
}
