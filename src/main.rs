//! The binary: the library's command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    reward_sidecar::cli::run()
}
