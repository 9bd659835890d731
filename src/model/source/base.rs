//! What a model is made from before anybody says how it is to be used: configuration, weights and text out of a folder or
//! a file, whatever its format.

use std::path::{Path, PathBuf};

use super::fingerprint::Ingredient;
use crate::engine::TextAssets;
use crate::model::checkpoint::{GgufFile, NemoCheckpoint, WeightSource, open_folder, quantized};
use crate::model::error::{ModelError, read_json};
use crate::model::settings::Settings;
use crate::model::text;

/// A base, opened.
pub struct Opened {
    /// The configuration, as `config.json` says it.
    pub settings: Settings,
    /// The weights, with a head or without.
    pub weights: Box<dyn WeightSource>,
    /// Tokenizer and template.
    pub text: TextAssets,
    /// Every file that it was read from.
    pub files: Vec<PathBuf>,
    /// What the weights are made of.
    pub ingredients: Vec<Ingredient>,
}

/// Whether a folder holds a model.
pub fn is_model(folder: &Path) -> bool {
    folder.join("config.json").exists() || NemoCheckpoint::is(folder)
}

/// Opens a folder or a file.
pub fn open(path: &Path) -> Result<Opened, ModelError> {
    match (NemoCheckpoint::is(path), path.is_dir()) {
        (true, _) => nemo(path),
        (false, true) => hugging_face(path),
        (false, false) => gguf(path),
    }
}

/// A folder in Hugging Face layout.
fn hugging_face(folder: &Path) -> Result<Opened, ModelError> {
    let config = folder.join("config.json");
    let mut settings = Settings::new(&config, read_json(&config)?)?;
    let weights = open_folder(folder)?;
    let paths = weights.paths();
    let (weights, beside) = quantized::open(folder, &mut settings, Box::new(weights))?;
    let (text, text_files) = text::folder::read(folder)?;
    Ok(Opened {
        settings,
        text,
        files: [vec![config], paths.clone(), text_files, beside.into_iter().collect()].concat(),
        ingredients: paths.into_iter().map(Ingredient::File).collect(),
        weights,
    })
}

/// NeMo's folder or tar file.
fn nemo(path: &Path) -> Result<Opened, ModelError> {
    let checkpoint = NemoCheckpoint::open(path)?;
    let files = checkpoint.paths();
    Ok(Opened {
        settings: Settings::new(&checkpoint.config_path(), checkpoint.config().clone())?,
        text: text::nemo::read(&checkpoint)?,
        ingredients: files.iter().cloned().map(Ingredient::File).collect(),
        files,
        weights: Box::new(checkpoint),
    })
}

/// A GGUF file, with the head of a classifier or without.
fn gguf(path: &Path) -> Result<Opened, ModelError> {
    let file = GgufFile::open(path)?;
    Ok(Opened {
        settings: Settings::new(path, file.config()?)?,
        text: text::gguf::read(&file)?,
        files: vec![path.to_path_buf()],
        ingredients: vec![Ingredient::File(path.to_path_buf())],
        weights: Box::new(file),
    })
}
