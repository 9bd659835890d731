//! `man`: a manual page for the program and one for each command, made from the command line's own definition.

use std::path::PathBuf;

use clap::CommandFactory as _;

use super::Cli;
use super::exit::Exit;
use super::failure::Failure;

/// Write manual pages into a folder: reward-sidecar.1, reward-sidecar-serve.1, ...
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Example:\n  reward-sidecar man ~/.local/share/man/man1 && man reward-sidecar-serve")]
pub struct Man {
    /// The folder, which is made if it is not there
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

impl Man {
    pub fn run(self) -> Result<Exit, Failure> {
        let folder = &self.folder;
        std::fs::create_dir_all(folder)
            .and_then(|()| clap_mangen::generate_to(Cli::command(), folder))
            .map_err(|error| Failure::output(&folder.display().to_string(), &error))?;
        Ok(Exit::DONE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page() {
        let folder = tempfile::tempdir().unwrap();
        let man = Man { folder: folder.path().join("man1") };
        assert_eq!(man.run().unwrap(), Exit::DONE);
        for command in Cli::command().get_subcommands() {
            let page = folder.path().join(format!("man1/reward-sidecar-{}.1", command.get_name()));
            let page = std::fs::read_to_string(&page).unwrap_or_else(|error| panic!("{}: {error}", page.display()));
            assert!(page.contains(".SH SYNOPSIS"), "{}", command.get_name());
        }
    }
}
