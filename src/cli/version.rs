//! What `--version` says: which release, which commit, for which machine.

use std::sync::LazyLock;

/// The release alone.
pub const SHORT: &str = env!("CARGO_PKG_VERSION");

/// The commit that the binary was built from. Only builds that are shipped are told: otherwise every commit alone would build
/// everything anew.
const COMMIT: &str = match option_env!("REWARD_SIDECAR_COMMIT") {
    Some(commit) => commit,
    None => "not told to this build",
};

/// Release, commit and target, a line each.
pub fn long() -> &'static str {
    static LONG: LazyLock<String> =
        LazyLock::new(|| format!("{SHORT}\ncommit: {COMMIT}\ntarget: {}", env!("REWARD_SIDECAR_TARGET")));
    &LONG
}
