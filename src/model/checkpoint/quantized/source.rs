//! A folder's tensors with the quantised ones put together: what is seen are weights under their plain names, and whatever the
//! method leaves alone.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::method::{Matrix, Method};
use super::module::Module;
use crate::model::checkpoint::{Slice, TensorInfo, WeightSource};
use crate::model::error::ModelError;

/// The tensors of a folder.
pub struct Quantized {
    files: Box<dyn WeightSource>,
    /// The quantised weights, by name.
    weights: BTreeMap<String, Box<dyn Matrix>>,
    /// Tensors that are parts of those, or about activations.
    hidden: BTreeSet<String>,
}

impl Quantized {
    /// Finds the quantised modules, and checks their tensors. One at least must be there: without any, whoever loads the
    /// folder with the method's own library would quantise its weights, to other numbers than those that stand in it.
    /// `config` says that it is quantised.
    pub fn open(files: Box<dyn WeightSource>, method: &dyn Method, config: &Path) -> Result<Self, ModelError> {
        let names = files.names();
        let module = |name: &str| {
            let ending = |mark: &&str| name.strip_suffix(*mark).and_then(|rest| rest.strip_suffix('.'));
            method.marks().iter().find_map(ending).map(str::to_owned)
        };
        let modules: BTreeSet<String> = names.iter().filter_map(|name| module(name)).collect();
        if modules.is_empty() {
            let marks = method.marks().join(", ");
            let reason = format!("says that weights are quantised, but no tensor's name ends with any of {marks}");
            return Err(ModelError::malformed(config, reason));
        }
        let is_passed_over = |name: &&String| {
            let last = name.rsplit('.').next().unwrap_or_default();
            method.passed_over().contains(&last)
        };
        let mut hidden: BTreeSet<String> = names.iter().filter(is_passed_over).cloned().collect();
        let mut weights = BTreeMap::new();
        for name in &modules {
            let module = Module::new(files.as_ref(), name);
            let matrix = method.open(&module)?;
            let [rows, columns] = matrix.shape();
            if rows == 0 || columns == 0 || TensorInfo::elements(&[rows, columns]).is_none() {
                let reason = format!("module {name:?} has {rows} outputs and {columns} inputs");
                return Err(ModelError::malformed(&files.origin(name), reason));
            }
            hidden.extend(module.used());
            weights.insert(format!("{name}.weight"), matrix);
        }
        Ok(Self { files, weights, hidden })
    }
}

impl WeightSource for Quantized {
    fn info(&self, name: &str) -> Option<TensorInfo> {
        match self.weights.get(name) {
            Some(matrix) => Some(TensorInfo { shape: matrix.shape().to_vec(), precision: matrix.precision() }),
            None if self.hidden.contains(name) => None,
            None => self.files.info(name),
        }
    }

    fn read_within(&self, name: &str, slice: &Slice) -> Result<Vec<f32>, ModelError> {
        match self.weights.get(name) {
            Some(_) if slice.len() == 0 => Ok(Vec::new()),
            Some(matrix) => matrix.read(self.files.as_ref(), slice),
            None => self.files.read_within(name, slice),
        }
    }

    fn names(&self) -> Vec<String> {
        let plain = self.files.names().into_iter().filter(|name| !self.hidden.contains(name));
        let names: BTreeSet<String> = plain.chain(self.weights.keys().cloned()).collect();
        names.into_iter().collect()
    }

    fn origin(&self, name: &str) -> PathBuf {
        self.files.origin(name)
    }

    fn bytes_read(&self) -> u64 {
        self.files.bytes_read()
    }
}
