//! A text that must not be seen: a token, a password, a header with one.
//!
//! The invariant: nothing that prints a [`Secret`] prints its value. The value comes out by [`Secret::reveal`] alone, so that
//! each place that uses it can be found by that name.

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

/// What is printed in place of a secret.
pub const REDACTED: &str = "***";

/// See the module. It implements no `Serialize`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps a value from being printed.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value, for whoever must send or compare it. It belongs in no message, log line or file.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Secret").field(&REDACTED).finish()
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl FromStr for Secret {
    type Err = Infallible;

    fn from_str(value: &str) -> Result<Self, Infallible> {
        Ok(Self::new(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_prints_it() {
        let secret = Secret::new("hunter2");
        assert_eq!((format!("{secret}"), format!("{secret:?}")), ("***".into(), "Secret(\"***\")".into()));
        assert!(!format!("{:#?}", Some(&secret)).contains("hunter2"));
        assert_eq!(secret.reveal(), "hunter2");
    }
}
