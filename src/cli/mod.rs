//! The command line: one file per sub-command. Data on stdout, everything else on stderr.
//!
//! It is part of the library so that the binary and the Python package's console script are one program. Nothing in it
//! ends the process: the caller gets the exit code.

mod bench;
mod card_check;
mod completions;
mod compression;
mod doctor;
mod engine;
mod exit;
mod failure;
mod health;
mod inspect;
mod lines;
mod man;
mod notify;
mod output;
mod pairs;
mod parquet;
mod pipeline;
mod plan;
mod progress;
mod resume;
mod rewards_file;
mod rollout_file;
mod runtime;
mod score;
mod serve;
mod signals;
mod version;
mod weights;

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Parser, Subcommand};

use self::exit::Exit;
use self::failure::Failure;

/// What the program is called, whatever file started it.
const NAME: &str = "reward-sidecar";

/// Streams trusted rewards to RL trainers.
///
/// Rollouts go in, rewards come out: through a gRPC server (`serve`) or from file to file (`score`).
#[derive(Debug, Parser)]
#[command(name = NAME, bin_name = NAME, version = version::SHORT, long_version = version::long(), propagate_version = true, after_long_help = AFTER_HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
Every setting has one name in three places: max_batch_tokens in the file, REWARD_SIDECAR_MAX_BATCH_TOKENS in the
environment, --max-batch-tokens as a flag. File < environment < flags. Secrets have no flag, but a file of their own:
otlp_headers, or --otlp-headers-file FILE.

Exit codes:
  0  done; for score: all rollouts scored
  1  score: some rollouts were rejected (the rest are written)
  2  usage or configuration: a flag, a setting, the model, an address, a file that cannot be opened
  3  internal: the drain's time was up, an output could not be written, a bug
  128+n  ended by signal n (a second SIGTERM or SIGINT; a reader of standard output that left)

Try it:
  reward-sidecar score --model demo --input rollouts.jsonl
  reward-sidecar serve --model demo
  reward-sidecar inspect --model demo";

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Serve),
    Score(score::Score),
    Inspect(inspect::Inspect),
    Plan(plan::PlanCommand),
    Bench(bench::Bench),
    Doctor(doctor::Doctor),
    Health(health::HealthCommand),
    Completions(completions::Completions),
    Man(man::Man),
}

/// The program: this process's arguments in, its exit code out.
pub fn run() -> ExitCode {
    run_from(std::env::args_os()).into()
}

/// The program with other `arguments`, the first of which is its name; returns the exit code.
///
/// For once in a process, and for all of it: logging and metrics are the process's. `serve` and `score` wait for SIGTERM and
/// SIGINT and afterwards leave them without effect; the other commands leave signals as they are.
pub fn run_from(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let done = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli.command.run().unwrap_or_else(|failure| failure.report()),
        Err(refusal) => {
            // Help that was asked for is an answer. Where nobody reads it, the exit code still tells.
            let _ = refusal.print();
            if let Some(hint) = usage_hint(&refusal) {
                let _ = writeln!(std::io::stderr(), "\n{hint}");
            }
            if refusal.use_stderr() { Exit::USAGE } else { Exit::DONE }
        }
    };
    // Only the end of a Rust program would do it unasked. All data has been flushed by its command, with its errors.
    let _ = std::io::stdout().flush();
    done.code()
}

/// What to write in place of a file's name without its flag, which other tools take.
fn usage_hint(refusal: &clap::Error) -> Option<String> {
    let unknown = refusal.kind() == ErrorKind::UnknownArgument;
    let Some(ContextValue::String(argument)) = refusal.get(ContextKind::InvalidArg).filter(|_| unknown) else {
        return None;
    };
    let is_file = !argument.starts_with('-') && std::path::Path::new(argument).exists();
    is_file.then(|| format!("  tip: a file to read is given by --input {argument}, a model by --model {argument}"))
}

impl Command {
    fn run(self) -> Result<Exit, Failure> {
        match self {
            Self::Serve(serve) => serve.run(),
            Self::Score(score) => score.run(),
            Self::Inspect(inspect) => inspect.run(),
            Self::Plan(plan) => plan.run(),
            Self::Bench(bench) => bench.run(),
            Self::Doctor(doctor) => doctor.run(),
            Self::Health(health) => health.run(),
            Self::Completions(completions) => completions.run(),
            Self::Man(man) => man.run(),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_well_formed() {
        super::Cli::command().debug_assert();
    }
}
