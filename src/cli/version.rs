//! What `--version` says: which release, which commit, for which machine, which arithmetic.

use std::sync::LazyLock;

use crate::model::compute::kernels::REVISION;

/// The release alone.
pub const SHORT: &str = env!("CARGO_PKG_VERSION");

/// The commit that the binary was built from. Only builds that are shipped are told: otherwise every commit alone would build
/// everything anew.
const COMMIT: &str = match option_env!("REWARD_SIDECAR_COMMIT") {
    Some(commit) => commit,
    None => "not told to this build",
};

/// Release, commit, target and the revision of the arithmetic, a line each. Programs of one revision give the same bits.
pub fn long() -> &'static str {
    static LONG: LazyLock<String> = LazyLock::new(|| {
        let target = env!("REWARD_SIDECAR_TARGET");
        format!("{SHORT}\ncommit: {COMMIT}\ntarget: {target}\narithmetic: revision {REVISION}")
    });
    &LONG
}
