//! The binary: parse, build, run. Everything that can be reused is in the library.

mod cli;
mod telemetry;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run()
}
