//! What a setting is: how it is named in file, environment and flags, what values it takes, and whether one fits.

use toml::Value;
use tracing::level_filters::LevelFilter;

use super::address::is_address;
use crate::model::DeviceChoice;
use crate::secret::REDACTED;
use crate::sidecar::HttpAddresses;
use crate::sidecar::template::Date;

/// Commands that take a setting as a flag, as a set of bits.
pub const SERVE: u8 = 1;
/// See [`SERVE`].
pub const SCORE: u8 = 2;
/// See [`SERVE`].
pub const INSPECT: u8 = 4;
/// See [`SERVE`].
pub const HEALTH: u8 = 8;
/// See [`SERVE`].
pub const DOCTOR: u8 = 16;

/// What a switched-off optional setting says.
pub(super) const OFF: &str = "off";

/// What a setting says that is worked out at the start.
pub(super) const AUTO: &str = "auto";

/// What begins every environment variable of ours.
pub(super) const ENVIRONMENT_PREFIX: &str = "REWARD_SIDECAR_";

/// One setting.
#[derive(Debug, Clone, Copy)]
pub(super) struct Key {
    /// Its name in the file; flag and environment variable are spelt after it.
    pub name: &'static str,
    pub kind: Kind,
    pub default: fn() -> Value,
    /// The commands that have a flag for it; a file or the environment may set it for any.
    pub commands: u8,
    /// Placeholder in the help.
    pub value_name: &'static str,
    /// One line, for the help and a printed configuration.
    pub about: &'static str,
}

impl Key {
    /// `max-batch-tokens`: the flag without the dashes in front.
    pub fn flag(&self) -> String {
        self.name.replace('_', "-")
    }

    /// `REWARD_SIDECAR_MAX_BATCH_TOKENS`.
    pub fn variable(&self) -> String {
        format!("{ENVIRONMENT_PREFIX}{}", self.name.to_uppercase())
    }

    /// What an error may show of a value that was found: nothing of a secret.
    pub fn shown(&self, found: String) -> String {
        if matches!(self.kind, Kind::Secret) { "a value that is not shown".into() } else { found }
    }

    /// Whether its flag may be given several times, which is one value with commas between.
    pub fn is_list(&self) -> bool {
        matches!(self.kind, Kind::AdaptersOrOff)
    }

    /// Whether a command has a flag for it.
    pub fn is_flag_of(&self, command: u8) -> bool {
        self.commands & command != 0
    }
}

/// What values a setting takes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    /// Any text that is not empty.
    Text,
    /// A path, or text beside [`OFF`] that is not empty.
    PathOrOff,
    /// A folder, or `NAME=DIR` several times with commas between, or [`OFF`]. Its flag may be given several times, too.
    AdaptersOrOff,
    /// `YYYY-MM-DD`, or [`OFF`].
    DayOrOff,
    /// `HOST:PORT`, `:PORT`, or [`OFF`].
    AddressOrOff,
    /// `HOST:PORT` or `unix:PATH`, several with commas between, or [`OFF`].
    HttpAddressesOrOff,
    /// `http://HOST:PORT`, or [`OFF`].
    EndpointOrOff,
    /// Text that is not empty and that nobody is shown, or [`OFF`]. Its row has another beside it, `NAME_file`, for the file
    /// that the text is read from.
    Secret,
    /// Directives of `tracing`'s filter.
    LogFilter,
    /// A whole number.
    Count { min: u64, ceiling: u64, ceiling_name: &'static str },
    /// A whole number, or [`AUTO`].
    CountOrAuto { ceiling: u64, ceiling_name: &'static str },
    /// A power of two.
    PowerOfTwo { min: u64, ceiling: u64, ceiling_name: &'static str },
    /// `true` or `false`.
    Switch,
    /// One of a few words.
    OneOf(&'static [&'static str]),
    /// What to compute on.
    Device,
}

/// Why a value does not do.
#[derive(Debug, PartialEq)]
pub(super) enum Unfit {
    /// Not what the setting takes; says what it takes.
    Not(String),
    /// Above the named ceiling.
    Above { value: u64, ceiling: u64, ceiling_name: &'static str },
}

impl Kind {
    /// Reads a flag or an environment variable; [`Kind::check`] follows.
    pub fn parse(self, text: &str) -> Result<Value, Unfit> {
        match self {
            Kind::CountOrAuto { .. } if text == AUTO => Ok(Value::String(text.to_owned())),
            Kind::Count { .. } | Kind::CountOrAuto { .. } | Kind::PowerOfTwo { .. } => match text.parse::<i64>() {
                Ok(number) => Ok(Value::Integer(number)),
                Err(_) => Err(Unfit::Not(self.expected())),
            },
            Kind::Switch => match text {
                "true" => Ok(Value::Boolean(true)),
                "false" => Ok(Value::Boolean(false)),
                _ => Err(Unfit::Not(self.expected())),
            },
            _ => Ok(Value::String(text.to_owned())),
        }
    }

    /// Checks type and range.
    pub fn check(self, value: &Value) -> Result<(), Unfit> {
        let fits = match (self, value) {
            (Kind::Text | Kind::PathOrOff | Kind::AdaptersOrOff, Value::String(text)) => !text.is_empty(),
            (Kind::Secret, Value::String(text)) => !text.is_empty() && text != REDACTED,
            (Kind::DayOrOff, Value::String(text)) => text == OFF || Date::parse(text).is_some(),
            (Kind::AddressOrOff, Value::String(text)) => text == OFF || is_address(text),
            (Kind::HttpAddressesOrOff, Value::String(text)) => text == OFF || text.parse::<HttpAddresses>().is_ok(),
            (Kind::EndpointOrOff, Value::String(text)) => text == OFF || is_endpoint(text),
            (Kind::LogFilter, Value::String(text)) => {
                !text.is_empty()
                    && stray_word(text).is_none()
                    && tracing_subscriber::EnvFilter::builder().parse(text).is_ok()
            }
            (Kind::OneOf(words), Value::String(text)) => words.contains(&text.as_str()),
            (Kind::Device, Value::String(text)) => text.parse::<DeviceChoice>().is_ok(),
            (Kind::Switch, Value::Boolean(_)) => true,
            (Kind::CountOrAuto { .. }, Value::String(text)) => text == AUTO,
            (Kind::CountOrAuto { ceiling, ceiling_name }, Value::Integer(_)) => {
                return Kind::Count { min: 0, ceiling, ceiling_name }.check(value).map_err(|unfit| match unfit {
                    Unfit::Not(_) => Unfit::Not(self.expected()),
                    above => above,
                });
            }
            (
                Kind::Count { min, ceiling, ceiling_name } | Kind::PowerOfTwo { min, ceiling, ceiling_name },
                Value::Integer(number),
            ) => match u64::try_from(*number) {
                Ok(value) if value > ceiling => return Err(Unfit::Above { value, ceiling, ceiling_name }),
                Ok(value) => value >= min && (value.is_power_of_two() || !matches!(self, Kind::PowerOfTwo { .. })),
                Err(_) => false,
            },
            _ => false,
        };
        if fits { Ok(()) } else { Err(Unfit::Not(self.expected())) }
    }

    /// The word that was probably meant by a value that does not do.
    pub fn nearest(self, text: &str) -> Option<String> {
        let word = match self {
            Kind::OneOf(words) => nearest_word(text, words),
            Kind::Switch => nearest_word(text, &["true", "false"]).or(match text.to_ascii_lowercase().as_str() {
                "yes" | "on" | "1" => Some("true"),
                "no" | "off" | "0" => Some("false"),
                _ => None,
            }),
            Kind::LogFilter => {
                let word = stray_word(text)?;
                nearest_word(word, LEVELS).or(match word.to_ascii_lowercase().as_str() {
                    "verbose" => Some("debug"),
                    "quiet" | "silent" | "none" => Some("error"),
                    "all" => Some("trace"),
                    "fatal" | "critical" => Some("error"),
                    _ => None,
                })
            }
            _ => None,
        };
        word.map(str::to_owned)
    }

    pub(super) fn expected(self) -> String {
        match self {
            Kind::Text => "text that is not empty".into(),
            Kind::PathOrOff => "a path, or off".into(),
            Kind::AdaptersOrOff => "a path, NAME=DIR (several with commas between), or off".into(),
            Kind::Secret => format!("text that is not empty and not {REDACTED}, which stands for a secret, or off"),
            Kind::DayOrOff => "a day such as 2026-07-31, or off".into(),
            Kind::HttpAddressesOrOff => {
                "addresses such as 127.0.0.1:8000, :8000 or unix:/run/a.sock, with commas between, or off".into()
            }
            Kind::AddressOrOff => {
                "an address such as 127.0.0.1:50051, [::1]:50051, localhost:50051 or :50051 (all interfaces), or off"
                    .into()
            }
            Kind::EndpointOrOff => "an endpoint such as http://127.0.0.1:4317 (plain HTTP/2, no TLS), or off".into(),
            Kind::LogFilter => "a level (error, warn, info, debug, trace) or directives such as info,h2=warn".into(),
            Kind::Count { min, ceiling, .. } => format!("a whole number from {min} to {ceiling}"),
            Kind::CountOrAuto { ceiling, .. } => format!("a whole number from 0 to {ceiling}, or {AUTO}"),
            Kind::PowerOfTwo { min, ceiling, .. } => format!("a power of two from {min} to {ceiling}"),
            Kind::Switch => "true or false".into(),
            Kind::OneOf(words) => format!("one of {}", words.join(", ")),
            Kind::Device => "cpu, cuda, or cuda:N with N counted from 0".into(),
        }
    }
}

const LEVELS: &[&str] = &["error", "warn", "info", "debug", "trace"];

/// The first directive of a filter that is a bare word and no level. The filter would take it for the name of a library, and
/// silence everything else.
fn stray_word(filter: &str) -> Option<&str> {
    let directives = filter.split(',').map(str::trim);
    let is_level = |word: &str| word.parse::<LevelFilter>().is_ok();
    let mut strays = directives.filter(|word| !word.contains(['=', ':', '[', ']', '{', '}']) && !is_level(word));
    strays.next()
}

/// The word that looks most like `text`, if one looks like it at all.
fn nearest_word<'a>(text: &str, words: &[&'a str]) -> Option<&'a str> {
    let text = text.to_ascii_lowercase();
    let distance = |word: &&str| {
        // `warning`, `truncate`: the beginning is enough.
        let begins = text.len() > 2 && (word.starts_with(&text) || text.starts_with(*word));
        if begins { 0 } else { strsim::damerau_levenshtein(&text, word) }
    };
    let (distance, word) = words.iter().map(|word| (distance(word), *word)).min()?;
    (distance <= 1 + word.len() / 4).then_some(word)
}

/// TLS is not built in: an `https` endpoint would fail at the first span, long after the start.
fn is_endpoint(text: &str) -> bool {
    text.parse::<tonic::codegen::http::Uri>()
        .is_ok_and(|uri| uri.scheme_str() == Some("http") && uri.host().is_some_and(|host| !host.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_plain_http_with_a_host() {
        let check = |text: &str| Kind::EndpointOrOff.check(&Value::String(text.into())).is_ok();
        assert!(check("http://127.0.0.1:4317") && check("http://collector:4317/") && check("off"));
        assert!(!check("https://collector:4317") && !check("collector:4317") && !check("http://") && !check(""));
    }

    #[test]
    fn days_are_of_the_calendar() {
        let check = |text: &str| Kind::DayOrOff.check(&Value::String(text.into())).is_ok();
        assert!(check("2024-02-29") && check(OFF));
        assert!(!check("2023-02-29") && !check("today") && !check("") && !check("26 Jul 2024"));
    }

    #[test]
    fn a_misspelt_level_is_no_filter_and_the_right_one_is_named() {
        let check = |text: &str| Kind::LogFilter.check(&Value::String(text.into())).is_ok();
        for good in
            ["info", "INFO", "off", "info,h2=warn", "reward_sidecar::sidecar", "h2=off,debug", "[span{a=1}]=info"]
        {
            assert!(check(good), "{good}");
        }
        for (bad, nearest) in [
            ("inof", "info"),
            ("verbose", "debug"),
            ("info,wran", "warn"),
            ("warning", "warn"),
            ("err", "error"),
            ("quiet", "error"),
        ] {
            assert!(!check(bad), "{bad}");
            assert_eq!(Kind::LogFilter.nearest(bad).as_deref(), Some(nearest), "{bad}");
        }
        for bad in ["", "h2", "info,=", "info,h2=wran"] {
            assert!(!check(bad), "{bad}");
        }
        assert_eq!(Kind::OneOf(&["reject", "truncate-left"]).nearest("truncate").as_deref(), Some("truncate-left"));
        assert_eq!(Kind::OneOf(&["reject", "truncate-left"]).nearest("colour"), None);
        assert_eq!(Kind::Switch.nearest("yes").as_deref(), Some("true"));
    }

    #[test]
    fn a_number_that_follows_the_machine_is_a_number_or_auto() {
        let kind = Kind::CountOrAuto { ceiling: 100, ceiling_name: "MOST" };
        let read = |text: &str| kind.parse(text).and_then(|value| kind.check(&value).map(|()| value));
        assert_eq!(read("auto"), Ok(Value::String("auto".into())));
        assert_eq!(read("0"), Ok(Value::Integer(0)));
        assert!(matches!(read("101"), Err(Unfit::Above { value: 101, .. })));
        for wrong in ["-1", "off", ""] {
            assert_eq!(read(wrong), Err(Unfit::Not("a whole number from 0 to 100, or auto".into())), "{wrong}");
        }
    }

    #[test]
    fn a_redacted_secret_is_no_secret() {
        let check = |text: &str| Kind::Secret.check(&Value::String(text.into()));
        assert!(check("authorization=x").is_ok() && check(OFF).is_ok());
        assert!(check("").is_err() && check(REDACTED).is_err());
    }
}
