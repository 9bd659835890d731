//! From a model reference to everything that a model is made of, before any number is computed.
//!
//! The kinds of reference stand in [`FORMS`]. Whatever the kind, what comes out is a [`Blueprint`] in Hugging Face's
//! terms, so that nothing after it knows where a model came from.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::checkpoint::{Adapter, Composed, GgufFile, SafetensorsFiles, WeightSource, open_folder};
use super::digest::{Fingerprint, tree_hash};
use super::error::{read_json, read_text};
use super::head::HeadSpec;
use super::manifest::{Manifest, check_weightings};
use super::settings::Settings;
use super::{Config, ModelError, demo, pip, text};
use crate::engine::{ReadPolicy, TextAssets};

/// The kinds of model reference, for people.
pub const FORMS: &[(&str, &str)] = &[
    ("demo", "the built-in demo model: a LoRA adapter and a head on a small base"),
    ("demo-head", "its smaller variant: the head alone on the unchanged base"),
    ("FILE.toml", "a manifest that composes a base, an optional LoRA adapter and a head"),
    ("FOLDER", "a folder with a reward-model.toml, or in Hugging Face layout (config.json, model.safetensors)"),
];

/// The manifest that makes a folder a composed model.
const MANIFEST_FILE: &str = "reward-model.toml";

/// Everything that a model is made of.
pub struct Blueprint {
    /// Name of the model.
    pub name: String,
    /// The configuration, as `config.json` says it.
    pub settings: Settings,
    /// The weights, head included.
    pub weights: Box<dyn WeightSource>,
    /// Tokenizer and template.
    pub text: TextAssets,
    /// Names of the outputs; `None` if nothing names them.
    pub attributes: Option<Vec<String>>,
    /// Named vectors of attribute weights.
    pub weightings: BTreeMap<String, BTreeMap<String, f64>>,
    /// The weighting that counts where a request names none.
    pub default_weighting: Option<String>,
    /// Where the head reads.
    pub reads: ReadPolicy,
    /// What kind of head it is.
    pub head: HeadSpec,
    /// Every file that the model was read from; embedded ones are not.
    pub files: Vec<PathBuf>,
    /// What the weights are made of, for the fingerprint.
    ingredients: Vec<Ingredient>,
}

/// One thing that the weights are made of.
enum Ingredient {
    File(PathBuf),
    Embedded(&'static [u8]),
    /// A number or name that says how the others are put together.
    Fact(String),
}

impl Blueprint {
    /// Finds out what a reference names.
    pub fn open(config: &Config) -> Result<Self, ModelError> {
        let reference = config.model.as_str();
        if let Some(demo) = demo::find(reference) {
            return composed(&Files::Embedded(demo), config);
        }
        let path = Path::new(reference);
        let unknown = |reason: &str| {
            let forms = FORMS.iter().map(|(form, what)| format!("  {form:<10} {what}")).collect::<Vec<_>>().join("\n");
            ModelError::Reference { reference: reference.to_owned(), reason: reason.to_owned(), forms }
        };
        if path.is_dir() {
            let manifest = path.join(MANIFEST_FILE);
            return match manifest.exists() {
                true => composed(&Files::Beside(manifest), config),
                false if path.join("config.json").exists() => folder(path),
                false => Err(unknown(&format!("the folder has neither a {MANIFEST_FILE} nor a config.json"))),
            };
        }
        match path.extension().and_then(|e| e.to_str()) {
            _ if !path.exists() => Err(unknown("no such file or folder")),
            Some("toml") => composed(&Files::Beside(path.to_path_buf()), config),
            Some("gguf") => Err(unknown(&format!(
                "a GGUF file has no head; write a {MANIFEST_FILE} that names it as the base, and a head"
            ))),
            _ => Err(unknown("not a kind of file that holds a model")),
        }
    }

    /// A digest of everything that makes the model's numbers.
    pub fn fingerprint(&self, attributes: &[String]) -> Result<String, ModelError> {
        let mut fingerprint = Fingerprint::default();
        for ingredient in &self.ingredients {
            match ingredient {
                Ingredient::File(path) => fingerprint.add("file", &tree_hash(path)?),
                Ingredient::Embedded(bytes) => fingerprint.add("embedded", bytes),
                Ingredient::Fact(fact) => fingerprint.add("fact", fact.as_bytes()),
            }
        }
        fingerprint.add("settings", self.settings.value().to_string().as_bytes());
        fingerprint.add("tokenizer", self.text.tokenizer_json.as_deref().unwrap_or_default());
        fingerprint.add("template", self.text.chat_template.as_deref().unwrap_or_default().as_bytes());
        // Maps print in the order of their keys, and floats so that they read back the same.
        fingerprint.add("variables", format!("{:?}", self.text.template_variables).as_bytes());
        fingerprint.add("attributes", format!("{attributes:?}").as_bytes());
        fingerprint.add("weightings", format!("{:?} {:?}", self.weightings, self.default_weighting).as_bytes());
        fingerprint.add("head", format!("{:?} {:?}", self.reads, self.head).as_bytes());
        // Other arithmetic is named beside the digest, which tells models apart.
        fingerprint.add("precision", b"f32");
        Ok(fingerprint.short())
    }
}

/// A folder in Hugging Face layout, read.
struct HfFolder {
    settings: Settings,
    weights: SafetensorsFiles,
    text: TextAssets,
    files: Vec<PathBuf>,
}

impl HfFolder {
    fn read(folder: &Path) -> Result<Self, ModelError> {
        let config = folder.join("config.json");
        let settings = Settings::new(&config, read_json(&config)?)?;
        let weights = open_folder(folder)?;
        let (text, text_files) = text::folder::read(folder)?;
        let files = [vec![config], weights.paths(), text_files].concat();
        Ok(Self { settings, weights, text, files })
    }
}

/// A reward model in a folder in Hugging Face layout.
fn folder(path: &Path) -> Result<Blueprint, ModelError> {
    let HfFolder { settings, weights, text, files } = HfFolder::read(path)?;
    let attributes = settings.labels()?;
    let weightings = BTreeMap::new();
    if let Some(labels) = &attributes {
        check_weightings(labels, &weightings, None).map_err(|e| ModelError::malformed(settings.path(), e))?;
    }
    let name = std::path::absolute(path).ok().and_then(|p| Some(p.file_name()?.to_string_lossy().into_owned()));
    Ok(Blueprint {
        name: name.unwrap_or_else(|| "model".to_owned()),
        ingredients: weights.paths().into_iter().map(Ingredient::File).collect(),
        settings,
        weights: Box::new(weights),
        text,
        attributes,
        weightings,
        default_weighting: None,
        reads: ReadPolicy::default(),
        head: HeadSpec::default(),
        files,
    })
}

/// Where a manifest and the files that it names are.
enum Files {
    /// The path of the manifest; others are relative to its folder.
    Beside(PathBuf),
    /// Built into the program.
    Embedded(&'static demo::Demo),
}

impl Files {
    fn manifest(&self) -> Result<(PathBuf, Manifest), ModelError> {
        let (path, text) = match self {
            Self::Beside(path) => (path.clone(), read_text(path)?),
            Self::Embedded(demo) => (demo.manifest_path(), demo.manifest.to_owned()),
        };
        let manifest = Manifest::parse(&text).map_err(|e| ModelError::malformed(&path, e))?;
        Ok((path, manifest))
    }

    fn resolve(&self, file: &Path) -> PathBuf {
        match self {
            Self::Beside(manifest) => manifest.parent().unwrap_or(Path::new("")).join(file),
            Self::Embedded(_) => file.to_path_buf(),
        }
    }

    fn safetensors(&self, file: &Path, ingredients: &mut Vec<Ingredient>) -> Result<SafetensorsFiles, ModelError> {
        let path = self.resolve(file);
        match self {
            Self::Beside(_) => {
                ingredients.push(Ingredient::File(path.clone()));
                SafetensorsFiles::open(&path)
            }
            Self::Embedded(demo) => {
                let bytes = demo.file(file).ok_or_else(|| {
                    ModelError::malformed(&demo.manifest_path(), format!("{} is not built in", file.display()))
                })?;
                ingredients.push(Ingredient::Embedded(bytes));
                SafetensorsFiles::embedded(path, bytes)
            }
        }
    }
}

/// A model that a manifest composes.
fn composed(files: &Files, config: &Config) -> Result<Blueprint, ModelError> {
    let (manifest_path, manifest) = files.manifest()?;
    let mut read_from = match files {
        Files::Beside(path) => vec![path.clone()],
        Files::Embedded(_) => vec![],
    };
    let mut ingredients = Vec::new();
    let base_path = match (&manifest.base.path, &manifest.base.pip) {
        (Some(path), _) => files.resolve(path),
        (None, Some(base)) => pip::cached(base, &config.cache_dir)?,
        (None, None) => unreachable!("Manifest::parse asks for one of the two"),
    };
    let (mut settings, base, mut text): (_, Box<dyn WeightSource>, _) = match base_path.is_dir() {
        true => {
            let HfFolder { settings, weights, text, files } = HfFolder::read(&base_path)?;
            ingredients.extend(weights.paths().into_iter().map(Ingredient::File));
            read_from.extend(files);
            (settings, Box::new(weights), text)
        }
        false => {
            let file = GgufFile::open(&base_path)?;
            ingredients.push(Ingredient::File(base_path.clone()));
            read_from.push(base_path.clone());
            let settings = Settings::new(&base_path, file.config()?)?;
            let text = text::gguf::read(&file)?;
            (settings, Box::new(file), text)
        }
    };
    if let Some(layers) = manifest.base.layers {
        let found = settings.required_size("num_hidden_layers")?;
        if layers > found {
            let reason = format!("base.layers is {layers}, but {} has {found}", base_path.display());
            return Err(ModelError::malformed(&manifest_path, reason));
        }
        settings.set("num_hidden_layers", layers);
    }
    let rounding = manifest.base.dtype;
    ingredients.push(Ingredient::Fact(format!("rounding {rounding:?}")));
    let adapter = match &manifest.adapter {
        Some(adapter) => {
            let source = files.safetensors(&adapter.file, &mut ingredients)?;
            ingredients.push(Ingredient::Fact(format!("scale {:?}", adapter.scale)));
            let layers = settings.required_size("num_hidden_layers")?;
            Some(Adapter::new(Box::new(source), adapter.scale, base.as_ref(), layers)?)
        }
        None => None,
    };
    let head = match &manifest.head {
        Some(head) => {
            let source = files.safetensors(&head.file, &mut ingredients)?;
            ingredients.push(Ingredient::Fact(format!("head {:?}", head.tensor)));
            Some((Box::new(source) as Box<dyn WeightSource>, head.tensor.clone()))
        }
        None => None,
    };
    if let Files::Beside(_) = files {
        let named = manifest.adapter.iter().map(|a| &a.file).chain(manifest.head.iter().map(|h| &h.file));
        read_from.extend(named.map(|file| files.resolve(file)));
    }
    if manifest.chat_template.is_some() {
        text.chat_template = manifest.chat_template;
    }
    Ok(Blueprint {
        name: manifest.name,
        settings,
        weights: Box::new(Composed { base, rounding, adapter, head }),
        text,
        attributes: Some(manifest.attributes),
        weightings: manifest.weightings,
        default_weighting: manifest.default_weighting,
        reads: ReadPolicy::default(),
        head: HeadSpec::default(),
        files: read_from,
        ingredients,
    })
}
