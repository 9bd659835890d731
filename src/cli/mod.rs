//! The command line: one file per sub-command. Data on stdout, everything else on stderr.

mod bench;
mod failure;
mod inspect;
mod lines;
mod pipeline;
mod plan;
mod progress;
mod rewards_file;
mod rollout_file;
mod score;
mod serve;
mod weights;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Streams trusted rewards to RL trainers.
///
/// Rollouts go in, rewards come out: through a gRPC server (`serve`) or from file to file (`score`).
#[derive(Debug, Parser)]
#[command(name = "reward-sidecar", version, propagate_version = true, after_long_help = AFTER_HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
Every setting has one name in three places: max_batch_tokens in the file, REWARD_SIDECAR_MAX_BATCH_TOKENS in the
environment, --max-batch-tokens as a flag. File < environment < flags.

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
}

/// Parses the command line, does what it says, and reports how it went.
pub fn run() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Serve(serve) => serve.run(),
        Command::Score(score) => score.run(),
        Command::Inspect(inspect) => inspect.run(),
        Command::Plan(plan) => plan.run(),
        Command::Bench(bench) => bench.run(),
    };
    done.unwrap_or_else(|failure| failure.report())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_well_formed() {
        super::Cli::command().debug_assert();
    }
}
