//! LoRA adapters: what is added to some of a base's matrices, `W + scale * B @ A`, and whole tensors that take the place of
//! the base's.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::adapter_part::Part;
use super::{PytorchFile, SafetensorsFile, Slice, TensorInfo, WeightSource, peft};
use crate::model::error::{ModelError, read_json};

/// Name of the file that makes a folder an adapter in PEFT's layout.
pub const ADAPTER_CONFIG: &str = "adapter_config.json";

/// What the names of a head's tensors usually begin with.
const HEAD: &str = "score.";

/// An adapter, with the names that the base has for what it changes.
pub struct Adapter {
    source: Box<dyn WeightSource>,
    /// What is added to each adapted matrix.
    pairs: BTreeMap<String, Pair>,
    /// Names in the adapter of tensors that take the place of the base's, or are new.
    replaced: BTreeMap<String, String>,
    files: Vec<PathBuf>,
}

/// `scale * B @ A`.
struct Pair {
    a: String,
    b: String,
    rank: usize,
    scale: f32,
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
        let mut adapter = Self { source, pairs: BTreeMap::new(), replaced: BTreeMap::new(), files: Vec::new() };
        adapter.fill(base, layers, |_| Ok((None, scale)))?;
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
        let files = vec![config_path.clone(), file];
        let mut adapter = Self { source, pairs: BTreeMap::new(), replaced: BTreeMap::new(), files };
        adapter.fill(base, layers, |module| {
            config
                .scale(module)
                .map(|(rank, scale)| (Some(rank), scale))
                .map_err(|e| ModelError::malformed(&config_path, e))
        })?;
        for (name, theirs) in &adapter.replaced {
            if !config.replaces(name) {
                return Err(adapter.unknown(theirs));
            }
        }
        Ok(adapter)
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

    /// Whether it adds to a matrix.
    pub fn adapts(&self, name: &str) -> bool {
        self.pairs.contains_key(name)
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

    /// Finds out what each tensor is; `scale` says a module's rank, if it must be that, and scale.
    fn fill(
        &mut self,
        base: &dyn WeightSource,
        layers: usize,
        scale: impl Fn(&str) -> Result<(Option<usize>, f32), ModelError>,
    ) -> Result<(), ModelError> {
        for name in self.source.names() {
            let malformed = |reason: String| ModelError::malformed(&self.source.origin(&name), reason);
            match Part::of(&name).ok_or_else(|| self.unknown(&name))? {
                Part::A(module) => {
                    let b = name.replace("lora_A", "lora_B");
                    let (Some(TensorInfo { shape, .. }), Some(_)) = (self.source.info(&name), self.source.info(&b))
                    else {
                        return Err(self.source.missing(&b));
                    };
                    let Some((weight, info)) = in_base(base, &format!("{module}.weight")) else {
                        return Err(malformed(format!("tensor {name:?} adapts {module:?}, which the base has not")));
                    };
                    check_layer(&weight, layers).map_err(|e| malformed(format!("tensor {name:?} {e}")))?;
                    let [rows, columns] = info.shape[..] else {
                        return Err(malformed(format!("tensor {name:?} adapts {weight:?}, which is not a matrix")));
                    };
                    let found = shape.first().copied().unwrap_or(0);
                    let (stated, scale) = scale(&module)?;
                    let rank = stated.unwrap_or(found);
                    self.source.expect(&name, &[rank, columns])?;
                    self.source.expect(&b, &[rows, rank])?;
                    self.pairs.insert(weight, Pair { a: name, b, rank, scale });
                }
                Part::B(module) => {
                    if self.source.info(&name.replace("lora_B", "lora_A")).is_none() {
                        return Err(malformed(format!("{module:?} has lora_B but no lora_A")));
                    }
                }
                Part::Whole(weight) => {
                    let (weight, expected) = match in_base(base, &weight) {
                        Some((weight, info)) => (weight, Some(info.shape)),
                        None => (weight, None),
                    };
                    check_layer(&weight, layers).map_err(|e| malformed(format!("tensor {name:?} {e}")))?;
                    // A head may have other outputs than the base's.
                    if let Some(shape) = expected.filter(|_| !weight.starts_with(HEAD)) {
                        self.source.expect(&name, &shape)?;
                    }
                    if let Some(other) = self.replaced.insert(weight.clone(), name.clone()) {
                        return Err(malformed(format!("tensors {other:?} and {name:?} are both {weight:?}")));
                    }
                }
            }
        }
        Ok(())
    }

    fn unknown(&self, name: &str) -> ModelError {
        ModelError::malformed(
            &self.source.origin(name),
            format!(
                "tensor {name:?} is neither lora_A.weight nor lora_B.weight of a linear layer, nor one that was saved whole"
            ),
        )
    }

    /// Adds `scale * B @ A` to a slice of a matrix of the base.
    pub fn merge(&self, name: &str, slice: &Slice, weight: &mut [f32]) -> Result<(), ModelError> {
        let Some(Pair { a, b, rank, scale }) = self.pairs.get(name) else { return Ok(()) };
        let (rank, columns) = (*rank, slice.columns.len());
        if rank == 0 || columns == 0 {
            return Ok(());
        }
        let a = self.source.read(a, &Slice { rows: 0..rank, columns: slice.columns.clone() })?;
        let b = self.source.read(b, &Slice { rows: slice.rows.clone(), columns: 0..rank })?;
        let mut delta = vec![0.0; columns];
        for (row, factors) in weight.chunks_exact_mut(columns).zip(b.chunks_exact(rank)) {
            delta.fill(0.0);
            for (factor, a) in factors.iter().zip(a.chunks_exact(columns)) {
                delta.iter_mut().zip(a).for_each(|(d, a)| *d += factor * a);
            }
            row.iter_mut().zip(&delta).for_each(|(w, d)| *w += scale * d);
        }
        Ok(())
    }
}

/// The base's name of a tensor: an adapter of a model without a head has its names without the `model.` in front.
fn in_base(base: &dyn WeightSource, name: &str) -> Option<(String, TensorInfo)> {
    [name.to_owned(), format!("model.{name}")].into_iter().find_map(|name| base.info(&name).map(|info| (name, info)))
}

fn check_layer(name: &str, layers: usize) -> Result<(), String> {
    let layer = name.strip_prefix("model.layers.").and_then(|rest| rest.split('.').next()?.parse().ok());
    if layer.is_some_and(|layer: usize| layer >= layers) {
        Err(format!("adapts a layer beyond the {layers} that are kept"))
    } else {
        Ok(())
    }
}
