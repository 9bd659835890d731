//! From a model reference to its configuration, and to nothing else: weights need not be there.

use std::path::Path;

use crate::model::checkpoint::{GgufFile, NemoCheckpoint};
use crate::model::error::{ModelError, read_json, read_text};
use crate::model::settings::Settings;
use crate::model::source::manifest::Base;
use crate::model::source::preset::{self, Preset};
use crate::model::source::{demo, pip};

/// The kinds of reference that a plan can be made of, for people.
const FORMS: &[(&str, &str)] = &[
    ("FOLDER", "a folder with a config.json in Hugging Face layout, or with a reward-model.toml"),
    ("FILE.json", "a config.json alone"),
    ("FILE.toml", "a manifest, whose base has a configuration"),
    ("FILE.nemo", "a NeMo checkpoint, as a file or a folder; only the sizes of its arrays are read"),
    ("FILE.gguf", "a base; only its configuration is read"),
    ("demo", "the built-in demo model"),
];

/// The configuration of the model that `reference` names, in Hugging Face's terms, and the model's name. `cache_dir` is
/// where downloaded bases are kept.
pub(super) fn config_of(reference: &str, cache_dir: &Path) -> Result<(String, Settings), ModelError> {
    if let Some((name, config)) = preset::published().find(|(name, _)| name == reference) {
        let settings = Settings::new(Path::new(&format!("(built-in configuration {name:?})")), config)?;
        return Ok((name, settings));
    }
    if let Some(demo) = demo::find(reference) {
        return composed(&demo.manifest_path(), demo.manifest, cache_dir);
    }
    let path = Path::new(reference);
    let name = std::path::absolute(path).ok().and_then(|path| Some(path.file_stem()?.to_string_lossy().into_owned()));
    let name = name.unwrap_or_else(|| "model".to_owned());
    if NemoCheckpoint::is(path) {
        // The sizes of its arrays are part of the configuration; the arrays themselves are not read.
        return Ok((name, nemo(path)?));
    }
    if path.is_dir() {
        let (manifest, config) = (path.join("reward-model.toml"), path.join("config.json"));
        return match (manifest.exists(), config.exists()) {
            (true, _) => composed(&manifest, &read_text(&manifest)?, cache_dir),
            (false, true) => Ok((folder_name(path), json_file(&config)?)),
            (false, false) => Err(unknown(reference, "the folder has neither a config.json nor a reward-model.toml")),
        };
    }
    match path.extension().and_then(|extension| extension.to_str()) {
        _ if !path.exists() => Err(unknown(reference, "no such file or folder, and no published model of that name")),
        Some("json") => {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            let generic = path.file_name().is_some_and(|file| file == "config.json");
            let name = folder.filter(|_| generic).map_or(name, folder_name);
            Ok((name, json_file(path)?))
        }
        Some("toml") => composed(path, &read_text(path)?, cache_dir),
        Some("gguf") => Ok((name, gguf_file(path)?)),
        _ => Err(unknown(reference, "not a kind of file that has a configuration")),
    }
}

fn json_file(path: &Path) -> Result<Settings, ModelError> {
    Settings::new(path, read_json(path)?)
}

fn nemo(path: &Path) -> Result<Settings, ModelError> {
    let checkpoint = NemoCheckpoint::open(path)?;
    Settings::new(&checkpoint.config_path(), checkpoint.config().clone())
}

fn gguf_file(path: &Path) -> Result<Settings, ModelError> {
    Settings::new(path, GgufFile::open(path)?.config()?)
}

/// A folder's own name, which a path such as `.` does not say.
fn folder_name(folder: &Path) -> String {
    let name = std::path::absolute(folder).ok().and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
    name.unwrap_or_else(|| "model".to_owned())
}

/// The base's configuration, with as many layers as the manifest keeps. An adapter is merged and changes no size.
fn composed(path: &Path, text: &str, cache_dir: &Path) -> Result<(String, Settings), ModelError> {
    let manifest = Preset::parse(text).map_err(|e| ModelError::malformed(path, e))?;
    let Base { path: base, pip, layers, .. } = manifest.base.unwrap_or_default();
    let folder = path.parent().unwrap_or(Path::new(""));
    let base = match (base, pip) {
        (Some(base), _) => folder.join(base),
        (None, Some(base)) => pip::cached(&base, cache_dir)?,
        (None, None) => folder.to_path_buf(),
    };
    let mut settings = match base.is_dir() {
        _ if NemoCheckpoint::is(&base) => nemo(&base)?,
        true => json_file(&base.join("config.json"))?,
        false => gguf_file(&base)?,
    };
    if let Some(layers) = layers {
        let found = settings.required_size("num_hidden_layers")?;
        if layers > found {
            let reason = format!("base.layers is {layers}, but {} has {found}", base.display());
            return Err(ModelError::malformed(path, reason));
        }
        settings.set("num_hidden_layers", layers);
    }
    Ok((manifest.name, settings))
}

fn unknown(reference: &str, reason: &str) -> ModelError {
    let published: Vec<_> = preset::published().map(|(name, _)| name).collect();
    let forms = FORMS.iter().map(|(form, what)| format!("  {form:<10} {what}"));
    let published = format!("  {:<10} a published model: {}", "NAME", published.join(", "));
    let forms = forms.chain([published]).collect::<Vec<_>>().join("\n");
    ModelError::Reference { reference: reference.to_owned(), reason: reason.to_owned(), forms }
}
