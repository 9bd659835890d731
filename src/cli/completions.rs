//! `completions`: what a shell needs to complete our command line, made from its own definition.

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::exit::Exit;
use super::failure::Failure;
use super::{Cli, NAME, output};

/// Print completions for a shell.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Completions {
    /// Which shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

const EXAMPLES: &str = "\
Examples:
  reward-sidecar completions bash > ~/.local/share/bash-completion/completions/reward-sidecar
  reward-sidecar completions zsh  > ~/.zfunc/_reward-sidecar
  reward-sidecar completions fish > ~/.config/fish/completions/reward-sidecar.fish";

impl Completions {
    pub fn run(self) -> Result<Exit, Failure> {
        output::print(&text(self.shell))?;
        Ok(Exit::DONE)
    }
}

/// The completions of one shell.
fn text(shell: Shell) -> String {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), NAME, &mut text);
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, ValueEnum as _};

    use super::*;

    #[test]
    fn every_shell_is_told_of_every_command() {
        let names: Vec<String> =
            Cli::command().get_subcommands().map(|command| command.get_name().to_owned()).collect();
        for shell in Shell::value_variants() {
            let text = text(*shell);
            assert!(names.iter().all(|name| text.contains(name)), "{shell}");
            assert!(text.contains("max-batch-tokens"), "{shell}");
        }
    }
}
