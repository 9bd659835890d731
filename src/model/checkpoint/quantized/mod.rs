//! Checkpoints whose matrices are stored as codes and scales. What is read of them is what the reference of each format
//! makes of the same tensors, to the last bit, so that everything after it sees plain weights.
//!
//! One file per format. Which modules are quantised is said by the tensors that are there, never by lists of names: a weight
//! that a format leaves alone is stored plainly, and a code without its scales is refused by its type. How activations were to
//! be rounded is passed over: they are computed in float32 here.

mod awq;
mod bitsandbytes;
mod bitsandbytes4;
mod compressed_tensors;
mod fp8;
mod gptq;
mod grouped;
mod method;
mod modelopt;
mod module;
mod options;
mod packed;
mod scaled;
mod scales;
mod source;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use method::Method;
use options::Options;
use serde_json::{Value, json};
use source::Quantized;

use super::WeightSource;
use crate::model::error::{ModelError, read_json};
use crate::model::settings::Settings;

/// The field of `config.json` that says how weights are stored.
const FIELD: &str = "quantization_config";

/// The field in it that names the method.
pub const METHOD: &str = "quantization_config.quant_method";

/// Files beside `config.json` that say it where the field is not there, and the method that each is of.
const BESIDE: [(&str, &str); 3] =
    [("hf_quant_config.json", modelopt::NAME), ("quantize_config.json", gptq::NAME), ("quant_config.json", awq::NAME)];

/// Reads the options of a method.
type Read = fn(&Options) -> Result<Box<dyn Method>, ModelError>;

/// Every method, by the name that configurations give it.
const METHODS: [(&str, Read); 8] = [
    (compressed_tensors::NAME, compressed_tensors::read),
    (fp8::NAME, fp8::read),
    (fp8::FBGEMM, fp8::read_fbgemm),
    (modelopt::NAME, modelopt::read),
    (gptq::NAME, gptq::read),
    (awq::NAME, awq::read),
    (bitsandbytes::NAME, bitsandbytes::read),
    // As NeMo and others write it.
    ("compressed_tensors", compressed_tensors::read),
];

/// Wraps a folder's weights where its configuration says that they are quantised. A file beside `config.json` that says it
/// comes back too; what it says is put into the settings, so that the model version stands for it.
pub fn open(
    folder: &Path,
    settings: &mut Settings,
    weights: Box<dyn WeightSource>,
) -> Result<(Box<dyn WeightSource>, Option<PathBuf>), ModelError> {
    let beside = match settings.get(FIELD) {
        Some(_) => None,
        None => beside(folder)?,
    };
    let (method, file) = match beside {
        None if settings.get(FIELD).is_none() => return Ok((weights, None)),
        None => (read(settings)?, None),
        Some((file, fields)) => {
            settings.set(FIELD, fields.clone());
            (read(&Settings::new(&file, json!({ FIELD: fields }))?)?, Some(file))
        }
    };
    Ok((Box::new(Quantized::open(weights, method.as_ref(), settings.path())?), file))
}

/// The method that a configuration names, with its options.
fn read(settings: &Settings) -> Result<Box<dyn Method>, ModelError> {
    let options = Options::new(settings, FIELD)?;
    let named = options.text("quant_method")?;
    // Transformers wrote bitsandbytes' options without a method's name once.
    let old = options.flag("load_in_8bit")?.unwrap_or(false) || options.flag("load_in_4bit")?.unwrap_or(false);
    let name = named.or(old.then_some(bitsandbytes::NAME));
    let found = METHODS.iter().find(|(known, _)| Some(*known) == name);
    let known: Vec<_> = METHODS.iter().map(|(known, _)| *known).collect();
    let (_, read) = found.ok_or_else(|| options.unsupported("quant_method", known.join(", ")))?;
    let method = read(&options)?;
    options.refuse_unread()?;
    Ok(method)
}

/// A file beside `config.json`, and what `quantization_config` would say in its place.
fn beside(folder: &Path) -> Result<Option<(PathBuf, Value)>, ModelError> {
    for (name, method) in BESIDE {
        let path = folder.join(name);
        if !path.exists() {
            continue;
        }
        let mut value: Value = read_json(&path)?;
        if let Some(inner) = value.get_mut("quantization") {
            value = inner.take();
        }
        let Some(fields) = value.as_object_mut() else {
            return Err(ModelError::malformed(&path, "says nothing of how weights are quantised"));
        };
        fields.insert("quant_method".into(), method.into());
        return Ok(Some((path, value)));
    }
    Ok(None)
}

/// Wraps weights whose options are given as JSON; for the fuzzer.
#[cfg(fuzzing)]
pub fn open_with(options: Value, weights: Box<dyn WeightSource>) -> Result<Box<dyn WeightSource>, ModelError> {
    let settings = Settings::new(Path::new("fuzzed"), json!({ FIELD: options }))?;
    Ok(Box::new(Quantized::open(weights, read(&settings)?.as_ref(), settings.path())?))
}
