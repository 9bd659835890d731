//! Presets: how a published reward model is to be used. TOML files in the program (`presets/`), or beside a model.
//!
//! ```toml
//! name = "my-reward"             # a word
//! preset = "openrlhf"            # what this one builds on, by name or file; what is said here counts
//! attributes = ["helpfulness", "verbosity"]
//! default_weighting = "balanced"
//! bos = "never"                  # none is added; default: "as-tokenizer", none to chats, to text where the tokenizer puts one;
//!                                # "one", to both
//! chat_template = "..."          # Jinja, in place of the model's own
//! answer_only = true             # a completion's thinking is not scored, unless the rollout says otherwise; or
//!                                # { open = "[THINK]", close = "[/THINK]" }
//! pair = true                    # a conversation is a pair of texts: what the template writes of the prompt, and the completion
//!
//! [compare]                      # or three: those and the rollout's reference, each behind a token, at which the model reads
//! anchors = ["<a>", "<b>", "<c>"]
//! longest_prompt = 1224          # most tokens of the first, with all that the tokenizer puts around it
//!
//! [head]
//! kind = "linear"                # and the kind's options; see the files of `src/model/network/head`
//!
//! [read]                         # see `read.rs`
//! at = "last-token"
//!
//! [weightings.balanced]
//! helpfulness = 1.0
//! verbosity = -0.2
//! ```
//!
//! A manifest ([`super::manifest`]) is a preset that also says where the weights are. Unknown keys are refused.
//!
//! To add a preset: a file in `presets/` and a line in [`shipped::PRESETS`].

mod card_check;
mod detect;
mod read;
mod shipped;
mod tokens;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::manifest::{AdapterPart, Base};
use crate::engine::{Bos, Comparison, Texts};
use crate::limits::MAX_ATTRIBUTES;
use crate::model::error::{ModelError, read_text};
use crate::model::network::head::HeadSpec;
use crate::model::settings::Settings;
use crate::nearest::hint;
use crate::rollout::AnswerOnlyField;

pub use card_check::{CardCheck, Expected};
pub use detect::{Detect, PresetReport, candidates, choose};
pub use read::ReadPart;
pub use tokens::Tokens;

use shipped::PRESETS;

/// How many presets may build on one another.
const MAX_DEPTH: usize = 8;

/// A preset or a manifest, as written. What is not said is left to the preset below it, or to the model.
#[derive(Debug, Clone, Default, PartialEq, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Preset {
    /// Its name; of a manifest, the model's.
    pub name: String,
    /// The preset that it builds on.
    pub preset: Option<String>,
    /// Published models that it is for.
    pub models: Vec<String>,
    /// What their configurations have in `architectures`.
    pub architectures: Vec<String>,
    /// How a configuration is known to be of such a model; any of them will do. None: only by name.
    pub detect: Vec<Detect>,
    /// What body a model has, by `model_type`, where `architectures` names the head alone.
    pub bodies: BTreeMap<String, String>,
    /// Names of the head's outputs, in order.
    pub attributes: Option<Vec<String>>,
    /// Those of them that were never trained, which are attributes only on request.
    pub untrained: Vec<String>,
    /// Named vectors of attribute weights.
    pub weightings: BTreeMap<String, BTreeMap<String, f64>>,
    /// The weighting that counts where a request names none.
    pub default_weighting: Option<String>,
    /// What reads the attributes.
    pub head: HeadPart,
    /// Where it reads.
    pub read: ReadPart,
    /// Whether chats and text are to begin with a beginning-of-sequence token.
    pub bos: Option<Bos>,
    /// Chat template (Jinja) in place of the model's own.
    pub chat_template: Option<String>,
    /// Whether a completion's thinking is taken out where the rollout does not say.
    pub answer_only: Option<AnswerOnlyField>,
    /// Whether a conversation becomes a pair of texts: what the template writes of the prompt, and the completion.
    pub pair: Option<bool>,
    /// Whether a conversation becomes three texts, of which two are compared.
    pub compare: Option<Comparison>,
    /// What is said here and could not be verified, a sentence each.
    pub unverified: Vec<String>,
    /// Scores that the cards of such models print.
    #[serde(rename = "card_check")]
    pub card_checks: Vec<CardCheck>,
    /// The configuration of such a model, as its `config.json` would have it, for whoever has no checkpoint.
    pub config: toml::Table,
    /// Where most of the weights come from; manifests only.
    pub base: Option<Base>,
    /// Merged into the base; manifests only.
    pub adapter: Option<AdapterPart>,
}

/// What is said of the head.
#[derive(Debug, Clone, Default, PartialEq, serde::Deserialize)]
#[serde(default)]
pub struct HeadPart {
    /// One of [`crate::model::network::head::HEADS`].
    pub kind: Option<String>,
    /// A safetensors file that holds it, where it is apart from the base; manifests only.
    pub file: Option<PathBuf>,
    /// Options of the kind.
    #[serde(flatten)]
    pub options: toml::Table,
}

impl HeadPart {
    /// What is said here, over what is said below. Options belong to a kind: another kind brings its own.
    fn over(self, below: Self) -> Self {
        let same = self.kind.is_none() || self.kind == below.kind;
        let mut options = if same { below.options } else { toml::Table::new() };
        options.extend(self.options);
        Self { kind: self.kind.or(below.kind), file: self.file.or(below.file), options }
    }

    /// The head as it is to be loaded, over that of the model's class, where it has one.
    pub fn over_own(&self, own: Option<HeadSpec>) -> HeadSpec {
        let Some(own) = own else { return self.spec() };
        let below = Self { kind: Some(own.kind), file: None, options: own.options };
        self.clone().over(below).spec()
    }

    /// The head as it is to be loaded.
    pub fn spec(&self) -> HeadSpec {
        let default = HeadSpec::default();
        HeadSpec { kind: self.kind.clone().unwrap_or(default.kind), options: self.options.clone() }
    }
}

impl Preset {
    /// Parses and checks a preset or manifest; the error is a sentence.
    pub fn parse(text: &str) -> Result<Self, String> {
        let preset: Self = toml::from_str(text).map_err(|e| e.to_string())?;
        preset.check()?;
        Ok(preset)
    }

    fn check(&self) -> Result<(), String> {
        if self.name.is_empty() || self.name.contains(|c: char| c.is_whitespace() || c == '@') {
            return Err(format!("name is {:?}, expected a word without '@'", self.name));
        }
        for clause in &self.detect {
            clause.check()?;
        }
        self.card_checks.iter().try_for_each(CardCheck::check)?;
        if let Some(attributes) = &self.attributes {
            check_names(attributes)?;
            if self.untrained.len() >= attributes.len() {
                return Err("untrained names every attribute".into());
            }
        }
        if self.pair == Some(true) && self.compare.is_some() {
            return Err("pair makes two texts of a conversation, [compare] makes three; say one of them".into());
        }
        if let Some(base) = &self.base {
            base.check()?;
        }
        if let Some(adapter) = &self.adapter {
            adapter.check()?;
        }
        // What builds on another preset can be checked only together with it.
        if self.preset.is_none() { self.check_weightings() } else { Ok(()) }
    }

    /// Whether the parts fit together, once nothing builds on anything any more.
    fn check_weightings(&self) -> Result<(), String> {
        let Some(attributes) = &self.attributes else {
            return match self.untrained.first() {
                Some(name) => Err(format!("untrained names {name:?}, but there are no attributes")),
                // Whose outputs have no names here can name none of them in a weighting, but the model may.
                None => Ok(()),
            };
        };
        if let Some(name) = self.untrained.iter().find(|name| !attributes.contains(name)) {
            return Err(format!("untrained names {name:?}; the attributes are {}", attributes.join(", ")));
        }
        check_weightings(attributes, &self.weightings, self.default_weighting.as_deref())
    }

    /// A preset by its name, or from a file relative to the folder `beside`; and the file, or what stands for it.
    pub fn find(name_or_file: &str, beside: &Path) -> Result<(Self, PathBuf), ModelError> {
        if let Some((_, text)) = PRESETS.iter().find(|(name, _)| *name == name_or_file) {
            let place = place(name_or_file);
            return Ok((Self::parse(text).map_err(|e| ModelError::malformed(&place, e))?, place));
        }
        let path = beside.join(name_or_file);
        if !path.is_file() {
            let (found, names) = (name_or_file.to_owned(), names());
            let hint = hint(&found, names.iter().copied());
            return Err(ModelError::UnknownPreset { found, known: names.join(", "), hint });
        }
        let preset = Self::parse(&read_text(&path)?).map_err(|e| ModelError::malformed(&path, e))?;
        let stray = [
            ("[base]", preset.base.is_some()),
            ("[adapter]", preset.adapter.is_some()),
            ("head.file", preset.head.file.is_some()),
        ];
        match stray.into_iter().find(|(_, present)| *present) {
            None => Ok((preset, path)),
            Some((key, _)) => {
                let reason = format!("{key} is for a reward-model.toml, which --model names, not for a preset");
                Err(ModelError::malformed(&path, reason))
            }
        }
    }

    /// Every preset in the program.
    pub fn all() -> impl Iterator<Item = Self> {
        // A test parses them all.
        PRESETS.iter().filter_map(|(_, text)| Self::parse(text).ok())
    }

    /// Fills in what this one builds on, and checks the whole; `path` is the file that it stands in. A file that builds on
    /// another names it relative to its own folder.
    pub fn complete(mut self, path: &Path) -> Result<Self, ModelError> {
        let mut from = path.to_path_buf();
        for _ in 0..MAX_DEPTH {
            match self.preset.take() {
                Some(name) => {
                    let (below, path) = Self::find(&name, from.parent().unwrap_or(Path::new("")))?;
                    (self, from) = (self.over(below), path);
                }
                None => {
                    self.check_weightings().map_err(|e| ModelError::malformed(path, e))?;
                    return Ok(self);
                }
            }
        }
        Err(ModelError::malformed(path, format!("more than {MAX_DEPTH} presets build on one another")))
    }

    /// What is said here, over what is said below.
    pub fn over(self, below: Self) -> Self {
        // Weightings name attributes: those of other attributes mean nothing here.
        let same_attributes = self.attributes.is_none() || self.attributes == below.attributes;
        let (untrained, weightings, default_weighting) = if same_attributes {
            (below.untrained, below.weightings, below.default_weighting)
        } else {
            (Vec::new(), BTreeMap::new(), None)
        };
        // They are two answers to one question: who says one has not asked for the other.
        let (pair, compare) = match (self.pair, self.compare) {
            (None, None) => (below.pair, below.compare),
            said => said,
        };
        // They are of the models that a preset is for; a manifest is for none that it names.
        let below_checks = if self.models.is_empty() { below.card_checks } else { Vec::new() };
        Self {
            name: self.name,
            preset: below.preset,
            card_checks: below_checks.into_iter().chain(self.card_checks).collect(),
            models: self.models,
            architectures: self.architectures,
            detect: self.detect,
            bodies: below.bodies.into_iter().chain(self.bodies).collect(),
            attributes: self.attributes.or(below.attributes),
            untrained: if self.untrained.is_empty() { untrained } else { self.untrained },
            weightings: weightings.into_iter().chain(self.weightings).collect(),
            default_weighting: self.default_weighting.or(default_weighting),
            head: self.head.over(below.head),
            read: self.read.over(below.read),
            bos: self.bos.or(below.bos),
            chat_template: self.chat_template.or(below.chat_template),
            answer_only: self.answer_only.or(below.answer_only),
            pair,
            compare,
            unverified: below.unverified.into_iter().chain(self.unverified).collect(),
            config: below.config.into_iter().chain(self.config).collect(),
            base: self.base.or(below.base),
            adapter: self.adapter.or(below.adapter),
        }
    }

    /// How many texts a conversation becomes.
    pub fn texts(&self) -> Texts {
        match (&self.compare, self.pair) {
            (Some(comparison), _) => Texts::Comparison(comparison.clone()),
            (None, Some(true)) => Texts::Pair,
            (None, Some(false) | None) => Texts::One,
        }
    }

    /// The body of a model, where its `architectures` names the head alone.
    pub fn body(&self, settings: &Settings) -> Result<Option<&str>, ModelError> {
        if self.bodies.is_empty() {
            return Ok(None);
        }
        let model_type = settings.text("model_type")?.unwrap_or_default();
        match self.bodies.get(model_type) {
            Some(body) => Ok(Some(body)),
            None => {
                let known: Vec<_> = self.bodies.keys().map(String::as_str).collect();
                Err(settings
                    .unsupported("model_type", format!("one of {}, as preset {} says", known.join(", "), self.name)))
            }
        }
    }
}

/// Names and configurations of the published models whose presets say them, as a `config.json` would.
pub fn published() -> impl Iterator<Item = (String, serde_json::Value)> {
    let stated = Preset::all().filter(|preset| !preset.config.is_empty());
    stated.filter_map(|preset| Some((preset.name, serde_json::to_value(preset.config).ok()?)))
}

/// Names of the presets in the program.
fn names() -> Vec<&'static str> {
    PRESETS.iter().map(|(name, _)| *name).collect()
}

/// What stands for the path of a preset in the program.
fn place(name: &str) -> PathBuf {
    format!("(preset {name:?})").into()
}

/// Attributes have unique names.
fn check_names(attributes: &[String]) -> Result<(), String> {
    if attributes.is_empty() {
        return Err("attributes is empty, expected a name for each output of the head".into());
    }
    if attributes.len() > MAX_ATTRIBUTES {
        return Err(format!("{} attributes, expected at most {MAX_ATTRIBUTES}", attributes.len()));
    }
    let mut seen = BTreeSet::new();
    for attribute in attributes {
        if attribute.is_empty() || !seen.insert(attribute) {
            return Err(format!("attribute {attribute:?} is empty or there twice; names must be unique"));
        }
    }
    Ok(())
}

/// Attributes have unique names; weightings name attributes and hold finite weights; the default is one of them.
pub fn check_weightings(
    attributes: &[String],
    weightings: &BTreeMap<String, BTreeMap<String, f64>>,
    default: Option<&str>,
) -> Result<(), String> {
    check_names(attributes)?;
    for (name, weights) in weightings {
        for (attribute, weight) in weights {
            if !attributes.contains(attribute) {
                let known = attributes.join(", ");
                return Err(format!("weightings.{name} names {attribute:?}; the attributes are {known}"));
            }
            if !weight.is_finite() {
                return Err(format!("weightings.{name}.{attribute} is {weight}, expected a finite number"));
            }
        }
    }
    match default.filter(|name| !weightings.contains_key(*name)) {
        Some(name) => Err(format!("default_weighting is {name:?}, but there is no [weightings.{name}]")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
