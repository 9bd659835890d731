//! The settings as flags of a command. Values stay text here: [`super::layers`] checks them, as it does the
//! environment's, so that both are told the same.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use clap::{Arg, ArgAction, ArgMatches, Command, FromArgMatches};

use super::key::Key;
use super::keys::KEYS;

/// The flags of the command `COMMAND` ([`super::SERVE`], ...), for `#[command(flatten)]`.
#[derive(Debug, Clone, Default)]
pub struct Flags<const COMMAND: u8> {
    config: Option<PathBuf>,
    values: BTreeMap<&'static str, String>,
}

impl<const COMMAND: u8> Flags<COMMAND> {
    pub(super) fn config(&self) -> Option<&Path> {
        self.config.as_deref()
    }

    pub(super) fn values(&self) -> &BTreeMap<&'static str, String> {
        &self.values
    }
}

/// [`Key::flag`], for the command-line parser, which wants names that live as long as the process.
fn flag(key: &Key) -> &'static str {
    static FLAGS: LazyLock<BTreeMap<&'static str, String>> =
        LazyLock::new(|| KEYS.iter().map(|key| (key.name, key.flag())).collect());
    &FLAGS[key.name]
}

/// A path as anybody may read it: the help is also made into pages that are installed elsewhere.
pub(super) fn below_home(path: &str) -> String {
    let below = dirs::home_dir().and_then(|home| Path::new(path).strip_prefix(home).ok().map(Path::to_owned));
    below.map_or_else(|| path.to_owned(), |below| Path::new("~").join(below).display().to_string())
}

impl<const COMMAND: u8> clap::Args for Flags<COMMAND> {
    fn augment_args(command: Command) -> Command {
        let config = Arg::new("config")
            .long("config")
            .value_name("FILE")
            .value_parser(clap::value_parser!(PathBuf))
            .help("Configuration file (TOML); see `serve --print-config`. File < environment < flags");
        KEYS.iter().filter(|key| key.is_flag_of(COMMAND)).fold(command.arg(config), |command, key| {
            let default = match (key.default)() {
                toml::Value::String(text) if text.is_empty() => String::new(),
                toml::Value::String(text) => format!(" [default: {}]", below_home(&text)),
                value => format!(" [default: {value}]"),
            };
            command.arg(
                Arg::new(key.name)
                    .long(flag(key))
                    .value_name(key.value_name)
                    // A number below zero is a value that is refused, not another flag.
                    .allow_negative_numbers(true)
                    .action(if key.is_list() { ArgAction::Append } else { ArgAction::Set })
                    .help(format!("{}{default}", key.about)),
            )
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl<const COMMAND: u8> FromArgMatches for Flags<COMMAND> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut flags = Self::default();
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        if let Some(path) = matches.get_one::<PathBuf>("config") {
            self.config = Some(path.clone());
        }
        for key in KEYS.iter().filter(|key| key.is_flag_of(COMMAND)) {
            if let Some(texts) = matches.get_many::<String>(key.name) {
                self.values.insert(key.name, texts.cloned().collect::<Vec<_>>().join(","));
            }
        }
        Ok(())
    }
}
