//! Weights out of a base and an optional adapter.
//!
//! What is read is `round(round(base) + scale * B @ A)`: the weights that one would get by merging the adapter and
//! saving the model in the rounded type.

use std::collections::BTreeSet;
use std::path::PathBuf;

use half::bf16;

use super::{Adapter, Factors, Slice, TensorInfo, Unchanged, WeightSource};
use crate::model::compute::dtype::Precision;
use crate::model::error::ModelError;

/// The type that weights are rounded to, before an adapter is merged and after.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rounding {
    /// As they are.
    #[default]
    F32,
    /// bfloat16, ties to even.
    Bf16,
}

impl Rounding {
    fn apply(self, values: &mut [f32]) {
        if self == Self::Bf16 {
            values.iter_mut().for_each(|v| *v = bf16::from_f32(*v).to_f32());
        }
    }
}

/// A base with its adapter.
pub struct Composed {
    /// Where everything else comes from.
    pub base: Box<dyn WeightSource>,
    /// The type that the base's weights are rounded to.
    pub rounding: Rounding,
    /// Merged into the base, or in place of it where the adapter has a tensor whole.
    pub adapter: Option<Adapter>,
}

impl Composed {
    /// The adapter's tensor that takes the place of the base's, and its name there.
    fn replacement(&self, name: &str) -> Option<(&dyn WeightSource, &str)> {
        self.adapter.as_ref()?.replacement(name)
    }

    /// A slice before anything is added to it: of the adapter's own tensor, or of the base's, rounded.
    fn unchanged(&self, name: &str, slice: &Slice) -> Result<Vec<f32>, ModelError> {
        if let Some((source, tensor)) = self.replacement(name) {
            return source.read(tensor, slice);
        }
        let mut values = self.base.read_within(name, slice)?;
        self.rounding.apply(&mut values);
        Ok(values)
    }
}

impl WeightSource for Composed {
    fn info(&self, name: &str) -> Option<TensorInfo> {
        let adapted = self.adapter.as_ref().is_some_and(|adapter| adapter.adapts(name));
        let mut info = match self.replacement(name) {
            Some((source, tensor)) if adapted => source.info(tensor)?,
            Some((source, tensor)) => return source.info(tensor),
            None => self.base.info(name)?,
        };
        match self.rounding {
            Rounding::Bf16 => info.precision = Precision::Bf16,
            Rounding::F32 if adapted => info.precision = Precision::F32,
            Rounding::F32 => {}
        }
        Some(info)
    }

    fn read_within(&self, name: &str, slice: &Slice) -> Result<Vec<f32>, ModelError> {
        let mut values = self.unchanged(name, slice)?;
        if let Some(adapter) = self.adapter.as_ref().filter(|adapter| adapter.adapts(name)) {
            let shape = self.info(name).ok_or_else(|| self.missing(name))?.matrix();
            let read = |slice: &Slice| self.unchanged(name, slice);
            adapter.merge(name, slice, &Unchanged { shape, read: &read }, &mut values)?;
            self.rounding.apply(&mut values);
        }
        Ok(values)
    }

    fn is_changed(&self, name: &str) -> bool {
        self.replacement(name).is_some() || self.adapter.as_ref().is_some_and(|adapter| adapter.adapts(name))
    }

    fn low_rank(&self, name: &str, slice: &Slice) -> Result<Option<Factors>, ModelError> {
        let (Some(adapter), None) = (&self.adapter, self.replacement(name)) else { return Ok(None) };
        let shape = self.info(name).ok_or_else(|| self.missing(name))?.matrix();
        let read = |slice: &Slice| self.unchanged(name, slice);
        adapter.factors(name, slice, &Unchanged { shape, read: &read })
    }

    fn bytes_read(&self) -> u64 {
        self.base.bytes_read() + self.adapter.as_ref().map_or(0, Adapter::bytes_read)
    }

    fn names(&self) -> Vec<String> {
        let replaced = self.adapter.iter().flat_map(Adapter::replaced).cloned();
        let names: BTreeSet<String> = self.base.names().into_iter().chain(replaced).collect();
        names.into_iter().collect()
    }

    fn origin(&self, name: &str) -> PathBuf {
        match self.replacement(name) {
            Some((source, tensor)) => source.origin(tensor),
            None => self.base.origin(name),
        }
    }

    fn missing(&self, name: &str) -> ModelError {
        match self.replacement(name) {
            Some((source, tensor)) => source.missing(tensor),
            None => self.base.missing(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::model::checkpoint::SafetensorsFile;

    const HEAD: &str = "score.weight";

    /// Name, shape and values of a tensor.
    type Given<'a> = (&'a str, &'a [usize], &'a [f32]);

    /// A safetensors file of float32 tensors.
    fn source(folder: &Path, tensors: &[Given]) -> Box<dyn WeightSource> {
        let bytes: Vec<Vec<u8>> =
            tensors.iter().map(|(_, _, values)| values.iter().flat_map(|v| v.to_le_bytes()).collect()).collect();
        let views = tensors.iter().zip(&bytes).map(|((name, shape, _), bytes)| {
            (*name, safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.to_vec(), bytes).unwrap())
        });
        let path = folder.join(format!("{}.safetensors", tensors[0].0));
        safetensors::serialize_to_file(views, None, &path).unwrap();
        Box::new(SafetensorsFile::open(&path).unwrap())
    }

    const WEIGHT: &str = "model.layers.0.mlp.up_proj.weight";
    const A: &str = "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight";
    const B: &str = "base_model.model.model.layers.0.mlp.up_proj.lora_B.weight";

    #[test]
    fn an_adapter_is_merged_between_two_roundings() {
        let folder = tempfile::tempdir().unwrap();
        // 1 + 2^-9 rounds to 1 in bfloat16 (8 bits), so it matters that the base is rounded before the merge.
        let base = source(folder.path(), &[(WEIGHT, &[2, 3], &[1.0 + 2f32.powi(-9), 2.0, 3.0, 4.0, 5.0, 6.0])]);
        let pairs = source(folder.path(), &[(A, &[1, 3], &[2f32.powi(-9), 10.0, 0.0]), (B, &[2, 1], &[1.0, -1.0])]);
        let adapter = Adapter::new(pairs, 2.0, base.as_ref(), 1, false).unwrap();
        let composed = Composed { base, rounding: Rounding::Bf16, adapter: Some(adapter) };
        assert_eq!(composed.read_all(WEIGHT).unwrap(), [1.0, 22.0, 3.0, 4.0, -15.0, 6.0]);
        let corner = Slice { rows: 1..2, columns: 1..3 };
        assert_eq!(composed.read(WEIGHT, &corner).unwrap(), [-15.0, 6.0]);
        assert_eq!(composed.info(WEIGHT).unwrap().precision, Precision::Bf16);
        assert!(matches!(composed.read_shape(WEIGHT, &[3, 2]), Err(ModelError::Shape { .. })));
        assert!(matches!(composed.read_all(HEAD), Err(ModelError::MissingTensor { .. })));
    }

    /// A head that was trained with the adapter is the one to use, be it of another size; unless the user names another.
    #[test]
    fn a_head_in_the_adapters_file_takes_the_place_of_the_bases() {
        let folder = tempfile::tempdir().unwrap();
        let composed = |is_apart| {
            let base = source(folder.path(), &[(WEIGHT, &[2, 3], &[0.0; 6]), (HEAD, &[1, 3], &[1.0, 2.0, 3.0])]);
            let head: Given = ("base_model.model.score.weight", &[2, 3], &[4.0; 6]);
            let pairs = source(folder.path(), &[(A, &[1, 3], &[0.0; 3]), (B, &[2, 1], &[0.0; 2]), head]);
            let adapter = Adapter::new(pairs, 1.0, base.as_ref(), 1, is_apart).unwrap();
            Composed { base, rounding: Rounding::F32, adapter: Some(adapter) }
        };
        assert_eq!(composed(false).read_all(HEAD).unwrap(), [4.0; 6]);
        assert_eq!(composed(false).info(HEAD).unwrap().shape, [2, 3]);
        assert_eq!(composed(true).read_all(HEAD).unwrap(), [1.0, 2.0, 3.0]);
    }

    #[test]
    fn an_adapter_that_would_be_ignored_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let base = source(folder.path(), &[(WEIGHT, &[2, 3], &[0.0; 6])]);
        let refused = |tensors: &[Given], layers| {
            let adapter = source(folder.path(), tensors);
            Adapter::new(adapter, 1.0, base.as_ref(), layers, false).err().unwrap().to_string()
        };
        let (a, b): (Given, Given) = ((A, &[1, 3], &[0.0; 3]), (B, &[2, 1], &[0.0; 2]));
        assert!(refused(&[a], 1).contains("lora_B"));
        assert!(refused(&[b], 1).contains("lora_A"));
        assert!(refused(&[a, b], 0).contains("beyond the 0"));
        assert!(refused(&[a, (B, &[3, 1], &[0.0; 3])], 1).contains("expected [2, 1]"));
        assert!(
            refused(&[a, b, ("base_model.model.model.layers.0.mlp.up_proj.lora_magnitude_vector", &[2], &[0.0; 2])], 1)
                .contains("lora_magnitude_vector")
        );
        assert!(
            refused(&[("y.lora_A.weight", &[1, 3], &[0.0; 3]), ("y.lora_B.weight", &[2, 1], &[0.0; 2])], 1)
                .contains("the base has not")
        );
    }
}
