//! Where HTTP is listened for, and what else is configured of it.
//!
//! Invariant: what is printed reads back to the same address.

use std::path::PathBuf;
use std::str::FromStr;

/// One address: `HOST:PORT`, or `unix:PATH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HttpAddress {
    /// A TCP address. The host may be a name; port 0 lets the system pick.
    Tcp(String),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

/// Several addresses, separated by commas.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HttpAddresses(pub Vec<HttpAddress>);

/// What NeMo-Gym is told of a rollout that has no reward.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GymOnRejection {
    /// A sample that is to be masked, with the reason.
    #[default]
    Mask,
    /// An error, at which the rollout fails.
    Fail,
}

/// Text that is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no address for HTTP; write HOST:PORT (127.0.0.1:8000) or unix:PATH, several with commas between")]
pub struct NoAddress(String);

impl FromStr for HttpAddress {
    type Err = NoAddress;

    fn from_str(text: &str) -> Result<Self, NoAddress> {
        let no = || NoAddress(text.to_owned());
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() { Err(no()) } else { Ok(Self::Unix(path.into())) };
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(no)?;
        let bracketed = host.starts_with('[') && host.ends_with(']');
        if host.is_empty() && port.parse::<u16>().is_ok() {
            // All interfaces, as for gRPC.
            return Ok(Self::Tcp(format!("0.0.0.0:{port}")));
        }
        if host.contains(':') && !bracketed || port.parse::<u16>().is_err() {
            return Err(no());
        }
        Ok(Self::Tcp(text.to_owned()))
    }
}

impl FromStr for HttpAddresses {
    type Err = NoAddress;

    fn from_str(text: &str) -> Result<Self, NoAddress> {
        text.split(',').map(|address| address.trim().parse()).collect::<Result<_, _>>().map(Self)
    }
}

impl std::fmt::Display for HttpAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => f.write_str(address),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_back() {
        for text in ["127.0.0.1:8000", "localhost:0", "[::1]:80", "unix:/run/a.sock"] {
            assert_eq!(text.parse::<HttpAddress>().unwrap().to_string(), text);
        }
        assert_eq!(":8000".parse(), Ok(HttpAddress::Tcp("0.0.0.0:8000".into())));
        for text in ["", "8000", ":x", "::1:80", "localhost:65536", "localhost:http", "unix:"] {
            assert!(text.parse::<HttpAddress>().is_err(), "{text}");
        }
        let several: HttpAddresses = "127.0.0.1:0, unix:/a".parse().unwrap();
        assert_eq!(several.0, ["127.0.0.1:0".parse().unwrap(), "unix:/a".parse().unwrap()]);
    }
}
