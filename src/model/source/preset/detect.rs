//! Which preset a model is used with: the one that was asked for, the one that its manifest names, or the one that its
//! configuration gives away beyond doubt.

use std::path::Path;

use serde_json::Value;

use super::{Preset, place};
use crate::model::checkpoint::WeightSource;
use crate::model::error::ModelError;
use crate::model::settings::Settings;

/// What is to be known of the preset that a model is used with.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct PresetReport {
    /// Its name.
    pub name: String,
    /// How it came to be chosen.
    pub why: String,
    /// What it says and could not be verified, a sentence each.
    pub unverified: Vec<String>,
}

/// A sign by which a configuration is known: all parts of it must hold.
#[derive(Debug, Clone, Default, PartialEq, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Detect {
    /// The first of `architectures` is one of these.
    pub(super) architectures: Vec<String>,
    /// These fields are there.
    has: Vec<String>,
    /// These fields are not.
    lacks: Vec<String>,
    /// These fields have these values.
    equal: toml::Table,
    /// The weights have these tensors.
    tensors: Vec<String>,
    /// Other published models have these signs, too, so that they raise a question and answer none.
    shared: bool,
}

impl Detect {
    /// A clause that says nothing would hold for every model.
    pub(super) fn check(&self) -> Result<(), String> {
        if *self == Self::default() {
            Err("[[detect]] says nothing, which would be true of every model".into())
        } else {
            Ok(())
        }
    }

    /// Why the clause holds; `None` if it does not. Looking is not reading: what a field means is for others to say.
    fn holds(&self, config: &Value, weights: &dyn WeightSource) -> Option<String> {
        let architecture = config.get("architectures").and_then(|a| a.as_array()?.first()?.as_str());
        let mut reasons = Vec::new();
        if !self.architectures.is_empty() {
            let name = architecture.filter(|name| self.architectures.iter().any(|known| known == name))?;
            reasons.push(format!("architecture {name}"));
        }
        for field in &self.has {
            config.get(field).filter(|value| !value.is_null())?;
            reasons.push(format!("field {field}"));
        }
        for field in &self.lacks {
            if config.get(field).is_some_and(|value| !value.is_null()) {
                return None;
            }
            reasons.push(format!("no field {field}"));
        }
        for (field, expected) in &self.equal {
            let expected = serde_json::to_value(expected).ok()?;
            config.get(field).filter(|value| **value == expected)?;
            reasons.push(format!("{field} = {expected}"));
        }
        for tensor in &self.tensors {
            weights.info(tensor)?;
            reasons.push(format!("tensor {tensor}"));
        }
        Some(reasons.join(", "))
    }
}

/// A preset in use.
#[derive(Debug, Clone, PartialEq)]
pub struct Chosen {
    /// The preset, with all that it builds on.
    pub preset: Preset,
    /// How it came to be chosen, for people.
    pub why: String,
}

/// The preset for a model: `wanted` is a name, a file, `auto` or `none`; `manifest` is what the model's own manifest names,
/// which may be a file relative to the folder `beside`.
pub fn choose(
    wanted: &str,
    manifest: Option<&str>,
    beside: &Path,
    settings: &Settings,
    weights: &dyn WeightSource,
) -> Result<Option<Chosen>, ModelError> {
    let named = |name: &str, beside: &Path, why: &str| {
        let (preset, path) = Preset::find(name, beside)?;
        Ok(Some(Chosen { preset: preset.complete(&path)?, why: why.to_owned() }))
    };
    match (wanted, manifest) {
        ("none", _) | ("auto", Some("none")) => Ok(None),
        ("auto", Some(name)) => named(name, beside, "named by the manifest"),
        ("auto", None) => detect(settings, weights),
        (name, _) => named(name, Path::new(""), "asked for"),
    }
}

/// The one preset whose signs hold; none where several do, for then they are no signs. Where only signs hold that several
/// published models share, which are read differently, the user is asked: a wrong one would give wrong numbers.
fn detect(settings: &Settings, weights: &dyn WeightSource) -> Result<Option<Chosen>, ModelError> {
    let holds = |preset: &Preset, shared: bool| {
        let mut clauses = preset.detect.iter().filter(|clause| clause.shared == shared);
        clauses.find_map(|clause| clause.holds(settings.value(), weights))
    };
    let mut found =
        Preset::all().filter_map(|preset| holds(&preset, false).map(|why| (preset, format!("known by {why}"))));
    match (found.next(), found.next()) {
        (Some((preset, why)), None) => {
            let place = place(&preset.name);
            Ok(Some(Chosen { preset: preset.complete(&place)?, why }))
        }
        (None, _) => {
            let possible: Vec<_> = Preset::all().filter(|preset| holds(preset, true).is_some()).collect();
            if possible.is_empty() { Ok(None) } else { Err(question(settings, &possible)) }
        }
        _ => Ok(None),
    }
}

/// Which of several presets is it?
fn question(settings: &Settings, possible: &[Preset]) -> ModelError {
    let each = possible.iter().map(|preset| format!("--preset {} ({})", preset.name, preset.models.join(", ")));
    let reason = format!(
        "several published models have such a configuration and are read differently; say which it is: {}, or --preset none",
        each.collect::<Vec<_>>().join("; ")
    );
    ModelError::malformed(settings.path(), reason)
}

/// Names of presets that are for models of this architecture, detected or not.
pub fn candidates(architecture: &str) -> Vec<String> {
    let fits = |preset: &Preset| preset.architectures.iter().any(|name| name == architecture);
    Preset::all().filter(fits).map(|preset| preset.name).collect()
}
