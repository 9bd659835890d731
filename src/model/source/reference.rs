//! What a model reference names: the folder or file with most of the weights, and a manifest if there is one.

use std::path::{Path, PathBuf};

use super::manifest::AdapterPart;
use super::preset::Preset;
use super::{base, demo, locate, pip};
use crate::model::checkpoint::{ADAPTER_CONFIG, Adapter};
use crate::model::config::Config;
use crate::model::error::{ModelError, read_text};

/// The kinds of model reference, for people.
pub const FORMS: &[(&str, &str)] = &[
    ("demo", "the built-in demo model: a LoRA adapter and a head on a small base"),
    ("demo-head", "its smaller variant: the head alone on the unchanged base"),
    ("FILE.toml", "a manifest: how a model is to be used, and what it is composed of"),
    (
        "FOLDER",
        "a folder in the layout of Hugging Face (config.json), NeMo (model_config.yaml) or PEFT (adapter_config.json), or \
         with a reward-model.toml",
    ),
    ("FILE.nemo", "NeMo's folder as the tar file that it makes of it"),
    ("FILE.gguf", "a base without a head; --head FILE names a safetensors file that holds one"),
];

/// The manifest that says how the model in a folder is to be used.
pub const MANIFEST_FILE: &str = "reward-model.toml";

/// What a reference names.
pub struct Found {
    /// Name of the model.
    pub name: String,
    /// Where the files that the manifest names are.
    pub place: Place,
    /// How the model is to be used, as far as it says so itself.
    pub manifest: Option<Preset>,
    /// The folder or file with most of the weights.
    pub base: PathBuf,
}

/// Where a manifest and the files that it names are.
pub enum Place {
    /// No manifest; this is the model's folder or file.
    Plain(PathBuf),
    /// The path of the manifest; others are relative to its folder.
    Beside(PathBuf),
    /// Built into the program.
    Embedded(&'static demo::Demo),
}

impl Found {
    /// Finds what the configuration's reference names.
    pub fn find(config: &Config) -> Result<Self, ModelError> {
        let reference = config.model.as_str();
        if let Some(demo) = demo::find(reference) {
            return Self::composed(Place::Embedded(demo), config);
        }
        let unknown = |reason: &str| {
            let forms = FORMS.iter().map(|(form, what)| format!("  {form:<10} {what}")).collect::<Vec<_>>().join("\n");
            ModelError::Reference { reference: reference.to_owned(), reason: reason.to_owned(), forms }
        };
        let path = &*locate::locate(reference).map_err(|reason| unknown(&reason))?;
        let extension = path.extension().and_then(|e| e.to_str());
        match (path.is_dir(), extension) {
            (true, _) if path.join(MANIFEST_FILE).exists() => {
                Self::composed(Place::Beside(path.join(MANIFEST_FILE)), config)
            }
            (true, _) if path.join(ADAPTER_CONFIG).exists() => Self::adapted(path),
            (true, _) if base::is_model(path) => Ok(Self::plain(path)),
            (true, _) => Err(unknown(&format!(
                "the folder has none of {MANIFEST_FILE}, {ADAPTER_CONFIG}, config.json and model_config.yaml"
            ))),
            (false, Some("toml")) => Self::composed(Place::Beside(path.to_path_buf()), config),
            (false, Some("gguf" | "nemo")) => Ok(Self::plain(path)),
            (false, _) => Err(unknown(&locate::no_model(path))),
        }
    }

    /// A model without a manifest, called as its folder or file is.
    fn plain(path: &Path) -> Self {
        let called =
            |path: PathBuf| Some(if path.is_dir() { path.file_name() } else { path.file_stem() }?.to_os_string());
        let name = std::path::absolute(path).ok().and_then(called);
        Self {
            name: name.map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned()),
            place: Place::Plain(path.to_path_buf()),
            manifest: None,
            base: path.to_path_buf(),
        }
    }

    /// An adapter in PEFT's layout over the base that it names.
    fn adapted(path: &Path) -> Result<Self, ModelError> {
        let adapter = Some(AdapterPart { path: Some(path.to_path_buf()), ..AdapterPart::default() });
        let manifest = Some(Preset { adapter, ..Preset::default() });
        Ok(Self { manifest, base: Adapter::base_of(path)?, ..Self::plain(path) })
    }

    /// What a manifest says; its own folder is the base where it names none.
    fn composed(place: Place, config: &Config) -> Result<Self, ModelError> {
        let path = place.path();
        let text = match &place {
            Place::Embedded(demo) => demo.manifest.to_owned(),
            _ => read_text(&path)?,
        };
        let manifest = Preset::parse(&text).map_err(|e| ModelError::malformed(&path, e))?;
        let base = manifest.base.clone().unwrap_or_default();
        let base = match (base.path, base.pip) {
            (Some(path), _) => place.resolve(&path),
            (None, Some(base)) => pip::cached(&base, &config.cache_dir)?,
            (None, None) => {
                let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
                if !base::is_model(folder) {
                    let reason = "there is no [base] with a path or pip, nor a model in the manifest's own folder";
                    return Err(ModelError::malformed(&path, reason));
                }
                folder.to_path_buf()
            }
        };
        Ok(Self { name: manifest.name.clone(), place, manifest: Some(manifest), base })
    }
}

impl Place {
    /// What messages about the manifest are about.
    pub fn path(&self) -> PathBuf {
        match self {
            Self::Plain(path) | Self::Beside(path) => path.clone(),
            Self::Embedded(demo) => demo.manifest_path(),
        }
    }

    /// The manifest, if it is a file.
    pub fn manifest_file(&self) -> Option<PathBuf> {
        match self {
            Self::Beside(path) => Some(path.clone()),
            Self::Plain(_) | Self::Embedded(_) => None,
        }
    }

    /// The path of a file that the manifest names.
    pub fn resolve(&self, file: &Path) -> PathBuf {
        match self {
            Self::Beside(manifest) => manifest.parent().unwrap_or(Path::new("")).join(file),
            Self::Plain(_) | Self::Embedded(_) => file.to_path_buf(),
        }
    }
}
