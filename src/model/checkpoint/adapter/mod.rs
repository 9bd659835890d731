//! Adapters: what is added to some of a base's tensors, and whole tensors that take the place of the base's.
//!
//! Invariant: a tensor of an adapter is either part of a change that is made, or the adapter is refused by that tensor's name.

mod low_rank;
mod part;
mod pattern;
pub(crate) mod peft;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use self::low_rank::LowRank;
pub use self::low_rank::Unchanged;
use self::part::Part;
use super::{Factors, PytorchFile, SafetensorsFile, Slice, TensorInfo, WeightSource, names};
use crate::model::error::{ModelError, read_json};

/// Name of the file that makes a folder an adapter in PEFT's layout.
pub const ADAPTER_CONFIG: &str = "adapter_config.json";

/// What the names of a head's tensors usually begin with.
const HEAD: &str = "score.";

/// How the name of an embedding table's weight ends, or of a language model's head, which may have more tokens than the base's.
const TABLES: [&str; 2] = ["embed_tokens.weight", "lm_head.weight"];

/// An adapter, with the names that the base has for what it changes.
pub struct Adapter {
    source: Box<dyn WeightSource>,
    /// What is added to each adapted matrix or table.
    low_rank: BTreeMap<String, LowRank>,
    /// What is added to biases: the name in the adapter, and the scale.
    biases: BTreeMap<String, (String, f32)>,
    /// Rows of tables that take the place of the base's: the name in the adapter, and each row's token.
    rows: BTreeMap<String, (String, Vec<usize>)>,
    /// Names in the adapter of tensors that take the place of the base's, or are new.
    replaced: BTreeMap<String, String>,
    files: Vec<PathBuf>,
    classifies: bool,
}

/// What is known of an adapter's changes beside its tensors.
enum Said {
    /// This factor, for every matrix of whatever rank.
    Scale(f32),
    /// What PEFT's configuration says.
    Peft(peft::Config),
}

impl Adapter {
    /// Names are those of PEFT, with or without its prefix `base_model.model.`: `NAME.lora_A.weight` of shape
    /// `[r, in]` and `NAME.lora_B.weight` of shape `[out, r]` adapt `NAME.weight`. A head in the same file, which was
    /// trained with the adapter, takes the place of the base's; where the head `is_apart` it is left to whoever wants it.
    /// Anything else that would be ignored is refused, a layer beyond the first `layers` included.
    pub fn new(
        source: Box<dyn WeightSource>,
        scale: f32,
        base: &dyn WeightSource,
        layers: usize,
        is_apart: bool,
    ) -> Result<Self, ModelError> {
        let mut adapter = Self::of(source, Vec::new());
        adapter.fill(base, layers, &Said::Scale(scale))?;
        if let Some((_, name)) = adapter.replaced.iter().find(|(name, _)| !name.starts_with(HEAD)) {
            return Err(adapter.unknown(name));
        }
        if is_apart {
            adapter.replaced.clear();
        }
        Ok(adapter)
    }

    /// A folder as PEFT writes it: `adapter_config.json` with `adapter_model.safetensors` or `adapter_model.bin`.
    pub fn open_folder(folder: &Path, base: &dyn WeightSource, layers: usize) -> Result<Self, ModelError> {
        let config_path = folder.join(ADAPTER_CONFIG);
        let config = peft::Config::open(&config_path)?;
        let (safetensors, bin) = (folder.join("adapter_model.safetensors"), folder.join("adapter_model.bin"));
        let (source, file): (Box<dyn WeightSource>, _) = match (safetensors.exists(), bin.exists()) {
            (true, _) => (Box::new(SafetensorsFile::open(&safetensors)?), safetensors),
            (false, true) => (Box::new(PytorchFile::open(&bin)?), bin),
            (false, false) => {
                let reason = "holds no weights; looked for adapter_model.safetensors, adapter_model.bin";
                return Err(ModelError::malformed(folder, reason));
            }
        };
        let mut adapter = Self::of(source, vec![config_path, file]);
        adapter.classifies = config.classifies();
        let said = Said::Peft(config);
        adapter.fill(base, layers, &said)?;
        let Said::Peft(config) = said else { return Ok(adapter) };
        match adapter.replaced.iter().find(|(name, _)| !config.replaces(name)) {
            Some((_, theirs)) => Err(adapter.unknown(theirs)),
            None => Ok(adapter),
        }
    }

    fn of(source: Box<dyn WeightSource>, files: Vec<PathBuf>) -> Self {
        Self {
            source,
            low_rank: BTreeMap::new(),
            biases: BTreeMap::new(),
            rows: BTreeMap::new(),
            replaced: BTreeMap::new(),
            files,
            classifies: false,
        }
    }

    /// The base that a folder names, if that is a path on this machine; a relative one is relative to the folder.
    pub fn base_of(folder: &Path) -> Result<PathBuf, ModelError> {
        let path = folder.join(ADAPTER_CONFIG);
        let config: Value = read_json(&path)?;
        let named = config.get("base_model_name_or_path").and_then(Value::as_str).unwrap_or_default();
        let base = folder.join(named);
        if named.is_empty() || !base.exists() {
            Err(ModelError::malformed(
                &path,
                format!(
                    "base_model_name_or_path is {named:?}, which is no path here; write a reward-model.toml that names the \
                 base and the adapter"
                ),
            ))
        } else {
            Ok(base)
        }
    }

    /// The files of a folder: configuration and weights.
    pub fn paths(&self) -> &[PathBuf] {
        &self.files
    }

    /// Whether it adds to a tensor, or has some of its rows.
    pub fn adapts(&self, name: &str) -> bool {
        self.low_rank.contains_key(name) || self.biases.contains_key(name) || self.rows.contains_key(name)
    }

    /// Whether it was trained with transformers' `*ForSequenceClassification`, whatever the base's own class is.
    pub fn classifies(&self) -> bool {
        self.classifies
    }

    /// Tokens in the embedding table, where the adapter brings one.
    pub fn vocabulary(&self) -> Option<usize> {
        let table = self.replaced.iter().find(|(name, _)| name.ends_with(TABLES[0]))?.1;
        self.source.info(table)?.shape.first().copied()
    }

    /// Bytes of weights that were read so far.
    pub fn bytes_read(&self) -> u64 {
        self.source.bytes_read()
    }

    /// Names of tensors that take the place of the base's, or are new.
    pub fn replaced(&self) -> impl Iterator<Item = &String> {
        self.replaced.keys()
    }

    /// The tensor that takes the place of the base's, and its name there.
    pub fn replacement(&self, name: &str) -> Option<(&dyn WeightSource, &str)> {
        Some((self.source.as_ref(), self.replaced.get(name)?))
    }

    /// Finds out what each tensor is.
    fn fill(&mut self, base: &dyn WeightSource, layers: usize, said: &Said) -> Result<(), ModelError> {
        let mut changes = Vec::new();
        for name in self.source.names() {
            match Part::of(&name).ok_or_else(|| self.unknown(&name))? {
                Part::Whole(weight) => self.replace(&name, weight, base, layers)?,
                part => changes.push((name, part)),
            }
        }
        // What is replaced is known by now, of which there may be changes.
        changes.into_iter().try_for_each(|(name, part)| self.change(&name, part, base, layers, said))
    }

    /// A tensor that takes another's place.
    fn replace(
        &mut self,
        name: &str,
        weight: String,
        base: &dyn WeightSource,
        layers: usize,
    ) -> Result<(), ModelError> {
        let malformed = |reason: String| ModelError::malformed(&self.source.origin(name), reason);
        let (weight, expected) = match in_base(base, &weight) {
            Some((weight, info)) => (weight, Some(info.shape)),
            None => (weight, None),
        };
        check_layer(&weight, layers).map_err(|e| malformed(format!("tensor {name:?} {e}")))?;
        // A head may have other outputs than the base's, and a table more tokens.
        let is_table = TABLES.iter().any(|table| weight.ends_with(table));
        if let Some(mut shape) = expected.filter(|_| !weight.starts_with(HEAD)) {
            if let (true, Some(tokens), Some(info)) = (is_table, shape.first_mut(), self.source.info(name)) {
                *tokens = info.shape.first().copied().unwrap_or(*tokens);
            }
            self.source.expect(name, &shape)?;
        }
        match self.replaced.insert(weight.clone(), name.to_owned()) {
            Some(other) => Err(malformed(format!("tensors {other:?} and {name:?} are both {weight:?}"))),
            None => Ok(()),
        }
    }

    /// A tensor that is part of a change to another.
    fn change(
        &mut self,
        name: &str,
        part: Part,
        base: &dyn WeightSource,
        layers: usize,
        said: &Said,
    ) -> Result<(), ModelError> {
        let malformed = |reason: String| ModelError::malformed(&self.source.origin(name), reason);
        let (module, parameter, partner) = match &part {
            Part::A(module) | Part::TableA(module) => (module, "weight", name.replace("_A", "_B")),
            Part::B(module) | Part::TableB(module) => (module, "weight", name.replace("_B", "_A")),
            Part::BBias(module) => (module, "bias", name.replace(".bias", ".weight")),
            Part::Magnitude(module) | Part::Tokens(module) | Part::Whole(module) => (module, "weight", name.to_owned()),
        };
        if self.source.info(&partner).is_none() {
            return Err(self.source.missing(&partner));
        }
        let Some((weight, info)) = self.changed(base, &format!("{module}.{parameter}")) else {
            return Err(malformed(format!("tensor {name:?} adapts {module:?}, which the base has not")));
        };
        check_layer(&weight, layers).map_err(|e| malformed(format!("tensor {name:?} {e}")))?;
        let is_table = matches!(part, Part::TableA(_));
        match part {
            Part::A(_) | Part::TableA(_) => {
                let [rows, columns] = info.shape[..] else {
                    return Err(malformed(format!("tensor {name:?} adapts {weight:?}, which is not a matrix")));
                };
                let found = self.source.info(name).and_then(|info| info.shape.first().copied()).unwrap_or(0);
                let (rank, scale, has_magnitudes) = match said {
                    Said::Scale(scale) => (found, *scale, false),
                    Said::Peft(config) => {
                        let (rank, scale) = config.scale(module);
                        (rank, scale, config.has_magnitudes())
                    }
                };
                if rank == 0 {
                    return Err(malformed(format!("tensor {name:?} has no rows")));
                }
                let (inputs, outputs) = if is_table { (rows, columns) } else { (columns, rows) };
                self.source.expect(name, &[rank, inputs])?;
                self.source.expect(&partner, &[outputs, rank])?;
                let magnitudes = if has_magnitudes { Some(self.magnitudes(name, module, outputs)?) } else { None };
                self.low_rank
                    .insert(weight, LowRank { a: name.to_owned(), b: partner, magnitudes, rank, scale, is_table });
            }
            Part::Tokens(_) => {
                let tokens = match said {
                    Said::Scale(_) => &[],
                    Said::Peft(config) => config.tokens(module),
                };
                let (rows, columns) = info.matrix();
                self.source.expect(name, &[tokens.len(), columns])?;
                if let Some(token) = tokens.iter().find(|token| **token >= rows) {
                    let reason =
                        format!("trainable_token_indices names token {token}, but {weight:?} has {rows} tokens");
                    return Err(malformed(reason));
                }
                self.rows.insert(weight, (name.to_owned(), tokens.to_vec()));
            }
            Part::BBias(_) => {
                let Said::Peft(config) = said else { return Err(self.unknown(name)) };
                if !config.has_biases() {
                    return Err(self.unknown(name));
                }
                self.source.expect(name, &info.shape)?;
                self.biases.insert(weight, (name.to_owned(), config.scale(module).1));
            }
            Part::Magnitude(_) if !matches!(said, Said::Peft(config) if config.has_magnitudes()) => {
                return Err(self.unknown(name));
            }
            Part::B(_) | Part::TableB(_) | Part::Magnitude(_) | Part::Whole(_) => {}
        }
        Ok(())
    }

    /// The name of a module's magnitudes beside its `A`, which must be there.
    fn magnitudes(&self, a: &str, module: &str, outputs: usize) -> Result<String, ModelError> {
        let is_theirs = |name: &String| matches!(Part::of(name), Some(Part::Magnitude(other)) if other == module);
        let Some(name) = self.source.names().into_iter().find(is_theirs) else {
            return Err(self.source.missing(&a.replace("lora_A.weight", "lora_magnitude_vector")));
        };
        self.source.expect(&name, &[outputs])?;
        Ok(name)
    }

    /// What is changed: a tensor that takes the place of the base's, or the base's.
    fn changed(&self, base: &dyn WeightSource, name: &str) -> Option<(String, TensorInfo)> {
        let replaced = names::in_base(name).find_map(|name| {
            let info = self.source.info(self.replaced.get(&name)?)?;
            Some((name, info))
        });
        replaced.or_else(|| in_base(base, name))
    }

    fn unknown(&self, name: &str) -> ModelError {
        ModelError::malformed(
            &self.source.origin(name),
            format!(
                "tensor {name:?} is no part of a change that the adapter's configuration speaks of (lora_A, lora_B, \
                 lora_magnitude_vector, trainable_tokens_delta), nor one that was saved whole"
            ),
        )
    }

    /// Makes all changes to a slice of a tensor.
    pub fn merge(
        &self,
        name: &str,
        slice: &Slice,
        unchanged: &Unchanged,
        weight: &mut [f32],
    ) -> Result<(), ModelError> {
        if let Some(change) = self.low_rank.get(name) {
            change.merge(self.source.as_ref(), slice, unchanged, weight)?;
        }
        if let Some((bias, scale)) = self.biases.get(name) {
            let bias = self.source.read(bias, slice)?;
            weight.iter_mut().zip(bias).for_each(|(w, bias)| *w += scale * bias);
        }
        if let Some((rows, tokens)) = self.rows.get(name) {
            let columns = slice.columns.len();
            for (row, token) in tokens.iter().enumerate().filter(|(_, token)| slice.rows.contains(token)) {
                let values = self.source.read(rows, &Slice { rows: row..row + 1, columns: slice.columns.clone() })?;
                weight[(token - slice.rows.start) * columns..][..columns].copy_from_slice(&values);
            }
        }
        Ok(())
    }

    /// A slice of the change to a matrix, for those who do not merge it; `None` where it is none of low rank alone.
    pub fn factors(&self, name: &str, slice: &Slice, unchanged: &Unchanged) -> Result<Option<Factors>, ModelError> {
        let change = self.low_rank.get(name).filter(|change| !change.is_table && !self.rows.contains_key(name));
        change.map(|change| change.factors(self.source.as_ref(), slice, unchanged)).transpose()
    }
}

/// The base's name of a tensor.
fn in_base(base: &dyn WeightSource, name: &str) -> Option<(String, TensorInfo)> {
    names::in_base(name).find_map(|name| base.info(&name).map(|info| (name, info)))
}

fn check_layer(name: &str, layers: usize) -> Result<(), String> {
    let layer = name.strip_prefix("model.layers.").and_then(|rest| rest.split('.').next()?.parse().ok());
    if layer.is_some_and(|layer: usize| layer >= layers) {
        Err(format!("adapts a layer beyond the {layers} that are kept"))
    } else {
        Ok(())
    }
}
